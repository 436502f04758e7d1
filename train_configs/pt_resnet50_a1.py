"""ResNet-50 by procedure A1 of "ResNet strikes back" (Wightman et al., arXiv:2110.00476); A2 and A3 start from it.

    python pt_linen_train.py --config train_configs/pt_resnet50_a1.py --config.data_dir DIR

DIR holds ImageNet-1k. The settings are those of the paper's table of ingredients. The paper does not say all: the
threshold of the targets is that of the timm commands published for A2, the last rate that of mmpretrain's copy
(configs/_base_/schedules/imagenet_bs2048_rsb.py), and the norm of the gradients is that to which timm's LAMB clips
them. Computed in bfloat16 instead of float16.

Hardware: four GPUs with 32 GB, 512 images on each, as in the paper.
Hours: 110 on four V100, by the paper (4.6 days, PyTorch).
Top-1: 80.4 % is the published figure (resnet50.a1_in1k: 80.382 % in timm's results); not yet reproduced with this code.
"""

from jeffnet.train import default_config


def get_config():
    """The configuration of this recipe."""
    config = default_config()
    config.model = 'pt_resnet50'
    config.drop_path_rate = 0.05
    config.dtype = 'bfloat16'
    # Each of the four GPUs had statistics of its own.
    config.batch_norm = 'groups'
    config.batch_norm_group = 512

    config.crop_pct = 0.95
    config.augmentation.auto = 'rand-m7-mstd0.5-inc1'
    config.augmentation.interpolation = 'random'
    config.repeats = 3
    config.mixing.mixup = 0.2
    config.mixing.cutmix = 1.0

    config.loss = 'bce'
    config.label_smoothing = 0.1
    config.bce_threshold = 0.2
    config.batch_size = 2048
    config.epochs = 600.0
    config.optimizer = 'lamb'
    config.weight_decay = 0.01
    config.clip_norm = 1.0

    config.learning_rate = 5e-3  # of this batch size; LAMB's does not scale linearly
    config.schedule = 'cosine'
    config.schedule_options = {'min_rate': 1e-6, 'count_from': 'start'}
    config.warmup_epochs = 5.0
    return config
