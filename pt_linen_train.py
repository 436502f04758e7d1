"""Train models in Flax Linen on images read by PyTorch's DataLoader.

    python pt_linen_train.py --config train_configs/digits_cpu.py --config.data_dir DIR
    python pt_linen_train.py --config train_configs/digits_cpu.py --config.data_dir DIR --resume auto
    python -m jeffnet.launch --processes 2 pt_linen_train.py --config train_configs/digits_cpu.py --config.data_dir DIR

DIR holds class folders, a prepared TFDS set, tar shards or TFRecord files. docs/training.md tells more, and
jeffnet/train/config.py has all keys of a configuration.
"""

if __name__ == '__main__':
    from jeffnet.train.command import main  # not above: readers' processes import this file, and need no jax

    main('pt', 'linen')
