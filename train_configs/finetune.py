"""Fine-tuning published weights on the images of a folder: a start for data of one's own.

    python pt_linen_train.py --config train_configs/finetune.py --config.data_dir DIR

DIR holds train/CLASS/*.jpg and validation/CLASS/*.jpg; the classifier is new, for as many classes as there are. Any
model that has published weights will do, e.g. `--config.model pt_vit_small_patch16_224`. Where images are few, the
first blocks may stay as they are:

    --config.freeze "('^(conv_stem|bn1|blocks_[0-3])',)"

Hardware: one GPU with 8 GB, by timm's benchmark, which trains a batch of 512 in 24 GB.
Hours: depends on the data; 0.03 for 10,000 images on an RTX 3090, an estimate: 20 epochs at the 1,752 images/s of
PyTorch in timm's results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv, without compilation and validation.
Top-1: depends on the data; there is no published figure for this file, and none has been measured yet.
"""

from jeffnet.train import default_config


def get_config():
    """The configuration of this recipe."""
    config = default_config()
    config.model = 'pt_efficientnet_b0'
    config.pretrained = True
    config.drop_rate = 0.2
    config.drop_path_rate = 0.1
    config.dtype = 'bfloat16'
    config.batch_norm = 'frozen'  # statistics of 1.28 million images are better than those of small batches

    config.augmentation.scale = (0.35, 1.0)
    config.augmentation.auto = 'rand-m7-mstd0.5-inc1'
    config.erasing.prob = 0.1

    config.label_smoothing = 0.1
    config.batch_size = 64
    config.epochs = 20.0
    config.optimizer = 'adamw'
    config.weight_decay = 0.05
    config.clip_norm = 1.0
    config.layer_decay = 0.8  # the rate of each layer, as a share of that of the next
    config.ema_decay = 0.998
    config.ema_warmup = 'timm'

    config.learning_rate = 5e-4
    config.schedule = 'cosine'
    config.warmup_epochs = 1.0
    return config
