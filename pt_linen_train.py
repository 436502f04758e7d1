"""Train models in Flax Linen on images read by PyTorch's DataLoader.

    python pt_linen_train.py --config train_configs/digits_cpu.py --config.data_dir DIR
    python pt_linen_train.py --config train_configs/digits_cpu.py --config.data_dir DIR --config.epochs=50

DIR holds the folders train and validation, each with one folder of images for every class. jeffnet/train/config.py has
all keys of a configuration.
"""

if __name__ == '__main__':
    from jeffnet.train.command import main  # not above: readers' processes import this file, and need no jax

    main('pt')
