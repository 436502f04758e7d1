"""EfficientNet-B0 with AutoAugment, as the TensorFlow release trained it; the files of B1 to B7 start from this one.

    python tf_linen_train.py --config train_configs/tf_efficientnet_b0_aa.py --config.data_dir DIR

DIR holds ImageNet-1k. The recipe is that of github.com/tensorflow/tpu, models/official/efficientnet. The release held
25,022 training images out to choose a checkpoint; this file trains on all of them.

Hardware: 8 devices, 256 images on each, in 16 GB by timm's benchmark, which trains a batch of 384 in 24 GB.
Hours: 9 on eight RTX 3090, an estimate: 350 epochs at eight times the 1,779 images/s of PyTorch in timm's
results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv, if the images are read as fast. NVIDIA's DeepLearningExamples
report 11 hours for 400 epochs on eight A100.
Top-1: 77.1 % is the published figure (tensorflow/tpu README); of the released weights timm measures 76.88 %, with its
own preprocessing. Not yet reproduced with this code.
"""

from jeffnet.train import default_config


def get_config():
    """The configuration of this recipe."""
    config = default_config()
    config.model = 'tf_efficientnet_b0'
    config.drop_rate = 0.2
    config.drop_path_rate = 0.2
    config.dtype = 'bfloat16'
    # On up to 8 cores and on 64 or more, the release's batch norm sees this many examples of the 2048.
    config.batch_norm = 'groups'
    config.batch_norm_group = 256
    config.augmentation.auto = 'v0'

    config.label_smoothing = 0.1
    config.weight_decay = 0.0
    config.l2 = 1e-5
    config.l2_mask = 'no_norm'

    config.batch_size = 2048
    config.epochs = 350.0
    config.optimizer = 'rmsprop_tf'
    config.momentum = 0.9
    config.optimizer_options = {'decay': 0.9, 'eps': 1e-3}
    config.ema_decay = 0.9999
    config.ema_warmup = 'tf'

    config.learning_rate = 0.016
    config.learning_rate_batch = 256
    config.schedule = 'step'
    config.schedule_options = {'decay_rate': 0.97, 'decay_epochs': 2.4, 'staircase': True, 'count_from': 'start'}
    config.warmup_epochs = 5.0
    config.warmup_start = 0.0
    return config
