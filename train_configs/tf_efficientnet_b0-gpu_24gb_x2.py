"""EfficientNet-B0 on two GPUs with 24 GB: the predecessor's configuration of this name.

    python tf_linen_train.py --config train_configs/tf_efficientnet_b0-gpu_24gb_x2.py --config.data_dir DIR

DIR holds ImageNet-1k. default.py with 250 images on each GPU, in float16 with a loss scale as the predecessor computed
on GPUs; `--config.dtype bfloat16` is safer where the GPU has it (NVIDIA Ampere and later).

Hardware: two GPUs with 24 GB, by timm's benchmark, which trains a batch of 384 in one.
Hours: 45 on two RTX 3090, an estimate: 450 epochs at twice the 1,779 images/s of PyTorch in timm's
results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv, if the images are read as fast.
Top-1: 76.7 % is the published figure of such a recipe (tensorflow/tpu README, baseline without AutoAugment, 350 epochs
at batch 2048); not yet reproduced with this code.
"""

from train_configs import default


def get_config():
    """The configuration of this recipe."""
    config = default.get_config()
    config.batch_size = 500
    config.dtype = 'float16'
    return config
