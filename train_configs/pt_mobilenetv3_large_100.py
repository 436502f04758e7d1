"""MobileNetV3-Large with RandAugment, timm's recipe.

    python pt_linen_train.py --config train_configs/pt_mobilenetv3_large_100.py --config.data_dir DIR

DIR holds ImageNet-1k. The recipe is the command in timm's documentation (hfdocs/source/training_script.mdx), as
pt_efficientnet_b0.py has it, but for one option: `--lr-noise 0.42 0.9`, random factors on the rate from 42 to 90 % of
the run, has no counterpart here.

Hardware: two GPUs with 24 GB, 512 images on each, as timm's benchmark trains them.
Hours: 39 on two RTX 3090, an estimate: 600 epochs at twice the 2,732 images/s of PyTorch in timm's
results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv, if the images are read as fast.
Top-1: 75.77 % is the published figure (mobilenetv3_large_100.ra_in1k: 75.784 % in timm's results); not yet reproduced
with this code.
"""

from train_configs import pt_efficientnet_b0


def get_config():
    """The configuration of this recipe."""
    config = pt_efficientnet_b0.get_config()
    config.model = 'pt_mobilenetv3_large_100'
    config.batch_size = 1024
    config.batch_norm_group = 512
    config.epochs = 600.0
    config.schedule_options.decay_rate = 0.973
    return config
