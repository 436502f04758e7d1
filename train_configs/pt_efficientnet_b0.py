"""EfficientNet-B0 with RandAugment, timm's recipe; the files of other models that it trained so start from this one.

    python pt_linen_train.py --config train_configs/pt_efficientnet_b0.py --config.data_dir DIR

DIR holds ImageNet-1k. The recipe is the command in timm's documentation (hfdocs/source/training_script.mdx), in
bfloat16 instead of float16. timm changes the rate once in an epoch, this file with every step; and its average had no
warm-up.

Hardware: two GPUs with 24 GB, 384 images on each; timm's benchmark trains 512 in one.
Hours: 46 on two RTX 3090, an estimate: 450 epochs at twice the 1,752 images/s of PyTorch in timm's
results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv, if the images are read as fast.
Top-1: 77.7 % is the published figure (efficientnet_b0.ra_in1k: 77.698 % in timm's results); not yet reproduced with
this code.
"""

from jeffnet.train import default_config


def get_config():
    """The configuration of this recipe."""
    config = default_config()
    config.model = 'pt_efficientnet_b0'
    config.drop_rate = 0.2
    config.drop_path_rate = 0.2
    config.dtype = 'bfloat16'
    # Each of the two GPUs had statistics of its own.
    config.batch_norm = 'groups'
    config.batch_norm_group = 384

    config.augmentation.auto = 'rand-m9-mstd0.5'
    config.augmentation.interpolation = 'random'
    config.erasing.prob = 0.2
    config.erasing.mode = 'pixel'

    config.label_smoothing = 0.1
    config.batch_size = 768
    config.epochs = 450.0
    config.optimizer = 'rmsprop_tf'
    config.momentum = 0.9
    config.optimizer_options = {'decay': 0.9, 'eps': 1e-3}
    config.weight_decay = 1e-5
    config.ema_decay = 0.9999
    config.ema_warmup = 'timm'

    config.learning_rate = 0.016  # 0.048 for this batch
    config.learning_rate_batch = 256
    config.schedule = 'step'
    config.schedule_options = {'decay_rate': 0.97, 'decay_epochs': 2.4}
    config.warmup_epochs = 5.0
    config.warmup_start = 1e-6
    return config
