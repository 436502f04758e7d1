"""EfficientNet-B7 with AutoAugment, as the TensorFlow release trained it, at 600 x 600 pixels.

    python tf_linen_train.py --config train_configs/tf_efficientnet_b7_aa.py --config.data_dir DIR

DIR holds ImageNet-1k. The recipe is that of tf_efficientnet_b0_aa.py.

Hardware: 8 devices with 80 GB, 8 times 32 images on each. By timm's benchmark, which trains a batch of 8 in
24 GB, these would need 96 GB; so blocks are computed again in the backward pass, at the cost of time.
Hours: 418 on eight RTX 3090, an estimate: 350 epochs at eight times the 37 images/s of PyTorch in timm's
results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv, without what is computed again.
Top-1: 84.3 % is the published figure (tensorflow/tpu README); of the released weights timm measures 84.42 %, with its
own preprocessing. Not yet reproduced with this code.
"""

from train_configs import tf_efficientnet_b0_aa


def get_config():
    """The configuration of this recipe."""
    config = tf_efficientnet_b0_aa.get_config()
    config.model = 'tf_efficientnet_b7'
    config.drop_rate = 0.5
    config.accumulation_steps = 8
    config.remat = 'blocks'
    return config
