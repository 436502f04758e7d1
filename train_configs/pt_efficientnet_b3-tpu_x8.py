"""EfficientNet-B3 with PyTorch's padding on a TPU of eight cores: the predecessor's configuration of this name.

    python tf_linen_train.py --config train_configs/pt_efficientnet_b3-tpu_x8.py --config.data_dir DIR

DIR holds ImageNet-1k. default.py with batch 2048, 256 images of 300 x 300 pixels on each core.

Hardware: TPU v3-8, eight cores with 16 GB, as the predecessor's README says of its file.
Hours: no figure of a TPU is published. 50 on eight RTX 3090, an estimate: 550 epochs at eight times the 495 images/s of
PyTorch for tf_efficientnet_b3 in timm's results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv.
Top-1: 81.1 % is the published figure of such a recipe (tensorflow/tpu README, baseline without AutoAugment, 350 epochs,
TensorFlow's padding); not yet reproduced with this code.
"""

from train_configs import default


def get_config():
    """The configuration of this recipe."""
    config = default.get_config()
    config.model = 'pt_efficientnet_b3'
    config.drop_rate = 0.3
    config.batch_size = 2048
    config.epochs = 550.0
    config.ema_decay = 0.9999
    return config
