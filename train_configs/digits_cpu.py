"""Handwritten digits, a first run on any machine: 1,442 images to train on and 355 to validate on.

    make demo

writes the images to output/demo/digits, trains, and validates. To train again on the same images:

    python tf_linen_train.py --config train_configs/digits_cpu.py --config.data_dir output/demo/digits

Hardware: any; two CPU cores do.
Hours: one to two minutes measured on two cores.
Top-1: 98.87 and 99.44 % measured for seed 0 on two machines, whose rounding differs; on each the same in Linen, NNX and
Objax, with the same curve. Other seeds gave 98.59 to 99.44 %. One image is 0.28 %.
"""

from jeffnet.train import default_config


def get_config():
    """The configuration of this run."""
    config = default_config()
    config.model = 'tf_mobilenetv3_small_minimal_100'
    config.output_stride = 16  # at stride 32, images this small end in a single pixel
    config.image_size = 32
    config.crop_pct = 1.0

    config.augmentation.scale = (0.7, 1.0)
    config.augmentation.hflip = 0.0  # a mirrored digit is another digit, or none
    config.augmentation.auto = 'rand-m4-mstd0.5-n1'

    config.batch_size = 64
    config.epochs = 30.0
    config.warmup_epochs = 2.0
    config.learning_rate = 0.05
    config.weight_decay = 1e-4
    config.ema_decay = 0.98
    config.eval_every_epochs = 3.0
    return config
