"""EfficientNet-B3 with AutoAugment, as the TensorFlow release trained it, at 300 x 300 pixels.

    python tf_linen_train.py --config train_configs/tf_efficientnet_b3_aa.py --config.data_dir DIR

DIR holds ImageNet-1k. The recipe is that of tf_efficientnet_b0_aa.py.

Hardware: 8 devices, 256 images on each, in 48 GB by timm's benchmark, which trains a batch of 128 in 24 GB.
Hours: 31 on eight RTX 3090, an estimate: 350 epochs at eight times the 495 images/s of PyTorch in timm's
results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv, if the images are read as fast.
Top-1: 81.6 % is the published figure (tensorflow/tpu README); of the released weights timm measures 81.65 %, with its
own preprocessing. Not yet reproduced with this code.
"""

from train_configs import tf_efficientnet_b0_aa


def get_config():
    """The configuration of this recipe."""
    config = tf_efficientnet_b0_aa.get_config()
    config.model = 'tf_efficientnet_b3'
    config.drop_rate = 0.3
    return config
