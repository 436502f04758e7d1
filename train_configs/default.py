"""EfficientNet-B0 with random crops and flips alone: the predecessor's default, which other files here start from.

    python tf_linen_train.py --config train_configs/default.py --config.data_dir DIR

DIR holds ImageNet-1k. The recipe is train_configs/default.py of github.com/rwightman/efficientnet-jax, with two
differences: computed in bfloat16 on GPUs as well, and an average that warms up, since one that keeps 0.99997 from the
first step on is of the initial weights for many epochs. The defaults of all keys are in jeffnet/train/config.py.

Hardware: one GPU with 24 GB, by timm's benchmark, which trains a batch of 384 in it.
Hours: 90 on one RTX 3090, an estimate: 450 epochs at the 1,779 images/s of PyTorch in timm's
results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv, if the images are read as fast.
Top-1: 76.7 % is the published figure of such a recipe (tensorflow/tpu README, baseline without AutoAugment, 350 epochs
at batch 2048); not yet reproduced with this code.
"""

from jeffnet.train import default_config


def get_config():
    """The configuration of this recipe."""
    config = default_config()
    config.model = 'tf_efficientnet_b0'
    config.drop_rate = 0.2
    config.drop_path_rate = 0.2
    config.dtype = 'bfloat16'
    config.batch_norm = 'replica'

    config.label_smoothing = 0.1
    config.weight_decay = 0.0
    config.l2 = 1e-5
    config.l2_mask = 'weights'

    config.batch_size = 224
    config.epochs = 450.0
    config.optimizer = 'rmsprop_tf'
    config.momentum = 0.9
    config.optimizer_options = {'decay': 0.9, 'eps': 1e-3}
    config.ema_decay = 0.99997

    config.learning_rate = 0.016
    config.learning_rate_batch = 256
    config.schedule = 'step'
    config.schedule_options = {'decay_rate': 0.97, 'decay_epochs': 2.4}
    config.warmup_epochs = 5.0
    return config
