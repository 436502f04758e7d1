"""Train models in Objax on images read by tf.data.

    python tf_objax_train.py --config train_configs/digits_cpu.py --config.data_dir DIR
    python tf_objax_train.py --config train_configs/digits_cpu.py --config.data_dir DIR --resume auto
    python -m jeffnet.launch --processes 2 tf_objax_train.py --config train_configs/digits_cpu.py --config.data_dir DIR

DIR holds class folders, a prepared TFDS set, tar shards or TFRecord files. docs/training.md tells more, and
jeffnet/train/config.py has all keys of a configuration.
"""

if __name__ == '__main__':
    from jeffnet.train.command import main  # not above: readers' processes import this file, and need no jax

    main('tf', 'objax')
