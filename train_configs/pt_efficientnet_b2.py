"""EfficientNet-B2 with RandAugment, timm's recipe.

    python pt_linen_train.py --config train_configs/pt_efficientnet_b2.py --config.data_dir DIR

DIR holds ImageNet-1k. The recipe is the command in timm's documentation (hfdocs/source/training_script.mdx), as
pt_efficientnet_b0.py has it, trained at 260 pixels and validated on whole images at 288.

Hardware: two GPUs with 24 GB, 128 images on each; timm's benchmark trains 256 in one, at 256 pixels.
Hours: 82 on two RTX 3090, an estimate: 450 epochs at twice the 979 images/s of PyTorch in timm's
results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv, at 256 pixels, if the images are read as fast.
Top-1: 80.4 % is the published figure; of the released weights, efficientnet_b2.ra_in1k, timm's results have 80.612 % at
288 pixels of whole images. Not yet reproduced with this code.
"""

from train_configs import pt_efficientnet_b0


def get_config():
    """The configuration of this recipe."""
    config = pt_efficientnet_b0.get_config()
    config.model = 'pt_efficientnet_b2'
    config.drop_rate = 0.3
    config.eval_image_size = 288
    config.crop_pct = 1.0
    config.batch_size = 256
    config.batch_norm_group = 128
    return config
