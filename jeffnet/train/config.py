"""The keys of a training configuration, their default values, and the check that a run starts with."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from jeffnet.data.preprocessing import Augmentation
from jeffnet.train.averages import WARMUPS
from jeffnet.train.mesh import SHARDINGS
from jeffnet.train.optimizers import OPTIMIZERS
from jeffnet.train.schedules import SCHEDULES

Config = Any  # a ConfigDict: the types of its values are known only when it runs


def default_config() -> Config:
    """A new configuration with every key there is; a file in `train_configs/` changes some of them.

    `placeholder` keys are None unless they are set.
    """
    config = ConfigDict()

    # --- data
    config.data_dir = ''  # class folders, a prepared TFDS set, tar shards, TFRecord files, as the validate scripts take
    config.dataset = placeholder(str)  # what data_dir holds, as --dataset of the validate scripts; None: recognised
    config.train_split = 'train'
    config.validation_split = 'validation'
    config.output_dir = 'output/train'  # checkpoints, exported weights `best` and `last`, logs, plots
    config.on_bad_image = 'error'  # ends the run; replace: the next image stands in for one that cannot be read
    config.workers = placeholder(int)  # that read images, per process; None: as many as pay off

    # --- model
    config.model = 'tf_efficientnet_b0'
    config.pretrained = False  # start from the published weights of the model
    config.weights = placeholder(str)  # start from this file, folder or hf-hub: repository; see docs/weights.md
    config.in_chans = 3
    config.output_stride = 32
    config.drop_rate = 0.0  # dropout before the classifier
    config.drop_path_rate = 0.0  # stochastic depth of the last block; earlier blocks proportionally less
    config.dtype = 'float32'  # of the computation; parameters, statistics and losses are always float32
    config.loss_scale = 2.0**15  # float16 only: the first loss scale; doubled after loss_scale_growth finite steps,
    config.loss_scale_growth = 2000  # up to 2^24, halved after a step that is not finite
    config.remat = 'none'  # what is computed again in the backward pass, to save memory: all but these
    config.seed = 0

    # --- batch norm
    config.batch_norm = 'global'  # global: over the whole batch; replica: over each device's part; groups; frozen
    config.batch_norm_group = placeholder(int)  # groups: examples per group
    config.bn_momentum = placeholder(float)  # share of the old statistic that is kept; None: as published
    config.bn_eps = placeholder(float)

    # --- images
    config.image_size = placeholder(int)  # None: the model's own
    config.progressive_sizes = ()  # ((share of the run, size), ...): from there on this size; before: the first size
    config.eval_image_size = placeholder(int)  # None: image_size
    config.crop_pct = placeholder(float)  # in validation; None: the model's own
    config.preprocessing = placeholder(str)  # pil or tf; None: the model's own
    config.interpolation = placeholder(str)
    unset = {'auto': placeholder(str), 'interpolation': placeholder(str)}
    config.augmentation = ConfigDict(dataclasses.asdict(Augmentation()) | unset)
    config.repeats = 1  # repeated augmentation: how often an image follows itself, each time augmented anew
    config.erasing = ConfigDict({
        'prob': 0.0, 'mode': 'pixel', 'min_area': 0.02, 'max_area': 1 / 3, 'min_aspect': 0.3, 'max_count': 1,
    })  # fmt: skip
    config.mixing = ConfigDict({
        'mixup': 0.0, 'cutmix': 0.0,  # alpha of the beta distributions; 0: off
        'prob': 1.0, 'switch_prob': 0.5, 'mode': 'batch',  # batch, pair or elem
        'off_epochs': 0.0,  # without mixing, at the end of the run
    })  # fmt: skip

    # --- loss
    config.loss = 'softmax'
    config.label_smoothing = 0.1
    config.bce_threshold = placeholder(float)  # loss bce: targets above it become 1, the others 0
    config.bce_sum = False  # loss bce: summed over classes, not averaged
    config.l2 = 0.0  # times half the sum of squares, added to the loss: TensorFlow's weight decay
    config.l2_mask = 'no_norm'  # as decay_mask

    # --- optimizer
    config.batch_size = 256  # over all devices of all processes
    config.accumulation_steps = 1  # parts of a batch that are computed one after the other
    config.eval_batch_size = placeholder(int)  # of validation; None: the part of a batch that is computed at a time
    config.epochs = 100.0
    config.optimizer = 'nesterov'
    config.momentum = 0.9  # the first decay rate of the Adam family
    config.optimizer_options = ConfigDict()  # further keywords of the optax function, such as b2 or eps
    config.weight_decay = 1e-5
    config.decay_mask = 'weights'  # weights (two axes or more), no_norm, all, or a regular expression of names
    config.layer_decay = 1.0  # factor on the rate from each layer to the one before
    config.lr_multipliers = ()  # ((regular expression of names, factor), ...)
    config.freeze = ()  # regular expressions of names that are not trained; statistics still move, see batch_norm
    config.clip_norm = placeholder(float)
    config.clip_value = placeholder(float)
    config.clip_adaptive = placeholder(float)
    config.ema_decay = 0.0  # of the averages of parameters and statistics; 0: none
    config.ema_warmup = 'tf'

    # --- learning rate
    config.learning_rate = 0.1  # the highest, after warm-up
    config.learning_rate_batch = placeholder(int)  # if set, learning_rate is for this batch size and scales linearly
    config.schedule = 'cosine'
    config.schedule_options = ConfigDict()
    config.warmup_epochs = 5.0
    config.warmup_start = 0.0  # the rate at step 0
    config.cooldown_epochs = 0.0
    config.plateau = ConfigDict({
        'patience': 10, 'decay': 0.1, 'cooldown': 0, 'min_factor': 0.0, 'threshold': 1e-4, 'metric': 'top1',
    })  # fmt: skip

    # --- devices
    config.sharding = 'replicated'  # fsdp: large arrays of the state are split over the devices
    config.fsdp_min_size = 2**16  # elements, from which an array counts as large
    config.prefetch = 2  # batches on the devices before their turn

    # --- running
    config.log_every_steps = 50
    config.eval_every_epochs = 1.0
    config.checkpoint_every_steps = placeholder(int)  # None: with every validation
    config.keep_last = 2
    config.keep_best = 1
    config.nonfinite_limit = 10  # steps in a row that are skipped, after which the last good checkpoint is taken
    config.max_rollbacks = 3
    config.tensorboard = True
    config.wandb = ''  # project, or project/name of the run
    config.profile_steps = ''  # a:b writes a trace of the steps a to b
    return config


def among(*values) -> tuple[Callable[[Any], bool], str]:
    """A rule: one of these."""
    return lambda value: value in values, ', '.join(map(str, values))


def at_least(low: int) -> tuple[Callable[[Any], bool], str]:
    """A rule: this number or a higher one."""
    return lambda value: low <= value < math.inf, f'{low} or more'


ABOVE_0 = lambda value: 0 < value < math.inf, 'above 0'
SHARE = lambda value: 0 <= value < 1, '0 or more, below 1'
PROBABILITY = lambda value: 0 <= value <= 1, '0 to 1'

FREE_FORM = ('optimizer_options', 'schedule_options')  # their keys are those of the optimizer and the schedule

# What a value must be: a test, and its meaning in words. Preprocessing, Augmentation, model, optimizer, schedule,
# mixing and erasing check their own.
RULES = {
    'train_split': (bool, 'a name'),
    'validation_split': (bool, 'a name'),
    'output_stride': among(8, 16, 32),
    'drop_rate': SHARE,
    'drop_path_rate': SHARE,
    'dtype': among('float32', 'bfloat16', 'float16'),
    'loss_scale': (lambda value: 1 <= value <= 2**24, '1 to 16777216'),
    'loss_scale_growth': at_least(1),
    'remat': among('none', 'blocks', 'dots', 'full'),
    'seed': (lambda value: 0 <= value < 2**32, '0 to 4294967295'),
    'batch_norm': among('global', 'replica', 'groups', 'frozen'),
    'batch_norm_group': at_least(1),
    'eval_image_size': at_least(1),
    'on_bad_image': among('error', 'replace'),
    'workers': at_least(0),
    'repeats': at_least(1),
    'erasing.prob': PROBABILITY,
    'erasing.mode': among('const', 'rand', 'pixel'),
    'mixing.mixup': at_least(0),
    'mixing.cutmix': at_least(0),
    'mixing.prob': PROBABILITY,
    'mixing.switch_prob': PROBABILITY,
    'mixing.mode': among('batch', 'pair', 'elem'),
    'mixing.off_epochs': at_least(0),
    'loss': among('softmax', 'bce'),
    'label_smoothing': SHARE,
    'bce_threshold': SHARE,
    'l2': at_least(0),
    'batch_size': at_least(1),
    'accumulation_steps': at_least(1),
    'eval_batch_size': at_least(1),
    'epochs': ABOVE_0,
    'optimizer': among(*OPTIMIZERS),
    'momentum': SHARE,
    'weight_decay': at_least(0),
    'layer_decay': (lambda value: 0 < value <= 1, 'above 0, at most 1'),
    'clip_norm': ABOVE_0,
    'clip_value': ABOVE_0,
    'clip_adaptive': ABOVE_0,
    'ema_decay': SHARE,
    'ema_warmup': among(*WARMUPS),
    'learning_rate': at_least(0),
    'learning_rate_batch': at_least(1),
    'schedule': among(*SCHEDULES),
    'warmup_epochs': at_least(0),
    'warmup_start': at_least(0),
    'cooldown_epochs': at_least(0),
    'plateau.patience': at_least(0),
    'plateau.decay': (lambda value: 0 < value < 1, 'above 0, below 1'),
    'plateau.cooldown': at_least(0),
    'plateau.min_factor': PROBABILITY,
    'plateau.threshold': at_least(0),
    'plateau.metric': among('top1', 'loss'),
    'sharding': among(*SHARDINGS),
    'fsdp_min_size': at_least(1),
    'prefetch': at_least(1),
    'log_every_steps': at_least(1),
    'eval_every_epochs': ABOVE_0,
    'checkpoint_every_steps': at_least(1),
    'keep_last': at_least(1),
    'keep_best': at_least(0),
    'nonfinite_limit': at_least(1),
    'max_rollbacks': at_least(0),
    'profile_steps': (lambda value: not value or steps_range(value) is not None, 'FIRST:LAST, two numbers of steps'),
}
# Keys that a resumed run may change: they do not change what is computed.
FREE = (
    'data_dir', 'output_dir', 'on_bad_image', 'workers', 'sharding', 'fsdp_min_size', 'prefetch', 'log_every_steps',
    'eval_every_epochs', 'checkpoint_every_steps', 'keep_last', 'keep_best', 'nonfinite_limit', 'max_rollbacks',
    'tensorboard', 'wandb', 'profile_steps', 'remat', 'eval_batch_size',
)  # fmt: skip


def checked(config: Config) -> Config:
    """A copy of `config` with missing keys at their defaults.

    Raises ValueError, naming key, value and what is allowed, for an unknown key, a wrong type or an impossible value.
    """
    whole = default_config()
    known, given = dict(items(whole)), dict(items(config))
    for key in sorted(given.keys() - known.keys()):
        if key.partition('.')[0] not in FREE_FORM:
            raise ValueError(unknown_key(key))
    try:
        with whole.unlocked():
            whole.update_from_flattened_dict(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f'config: {str(error).splitlines()[-1]}') from error
    for key, value in items(whole):
        check_value(key, value)
    if not whole.data_dir:
        raise ValueError('config.data_dir is empty: give the folder that holds the images, --config.data_dir DIR')
    check_together(whole)
    return whole


def check_together(config: Config) -> None:
    """Raises ValueError for keys that do not fit each other."""
    if config.warmup_epochs + config.cooldown_epochs >= config.epochs:
        raise ValueError(
            f'config.warmup_epochs is {config.warmup_epochs:g}, config.cooldown_epochs {config.cooldown_epochs:g}; '
            f'allowed: together below config.epochs, {config.epochs:g}'
        )
    if (config.batch_norm == 'groups') != (config.batch_norm_group is not None):
        raise ValueError(
            f'config.batch_norm is {config.batch_norm!r} and config.batch_norm_group {config.batch_norm_group}; '
            "allowed: 'groups' with a number of examples, or another word without"
        )
    if config.pretrained and config.weights:
        raise ValueError(f'config.pretrained is True and config.weights {config.weights!r}; give one of the two')
    for key, count in (('progressive_sizes', 2), ('lr_multipliers', 2)):
        if any(not isinstance(entry, tuple | list) or len(entry) != count for entry in config[key]):
            raise ValueError(f'config.{key} is {config[key]!r}; allowed: pairs, ((..., ...), ...)')
    if any(not isinstance(factor, int | float) for _, factor in config.lr_multipliers):
        raise ValueError(f'config.lr_multipliers is {config.lr_multipliers!r}; allowed: pairs of a name and a number')
    if any(not isinstance(name, str) for name in (*config.freeze, *(name for name, _ in config.lr_multipliers))):
        raise ValueError('config.freeze and config.lr_multipliers name parameters by regular expressions, texts')
    if config.bce_threshold is not None and config.loss != 'bce':
        raise ValueError(f"config.bce_threshold is for config.loss 'bce', which is {config.loss!r}")
    shares = [share for share, _ in config.progressive_sizes]
    if shares and (shares[0] != 0 or shares != sorted(set(shares)) or shares[-1] >= 1):
        raise ValueError(
            f'config.progressive_sizes is {config.progressive_sizes!r}; allowed: shares of the run that begin with 0, '
            'rise, and stay below 1'
        )


def steps_range(text: str) -> tuple[int, int] | None:
    """The steps FIRST:LAST of a text, or None if it says something else."""
    first, _, last = text.partition(':')
    if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last)):
        return None
    return int(first), int(last)


def differences(config: Config, saved: dict[str, Any]) -> list[str]:
    """The keys in which a configuration differs from that of the run it is to go on with, of those that matter."""
    old = default_config()
    with old.unlocked():
        old.update(saved)
    before, now = dict(items(old)), dict(items(config))
    free = set(FREE) - ({'eval_every_epochs'} if config.schedule == 'plateau' else set())
    return sorted(
        f'config.{key} is {now.get(key)!r}, was {before.get(key)!r}'
        for key in before.keys() | now.keys()
        if key not in free and plain(before.get(key)) != plain(now.get(key))
    )


def plain(value: Any) -> Any:
    """A value as JSON gives it back, where a tuple is a list."""
    return [plain(entry) for entry in value] if isinstance(value, tuple | list) else value


def unknown_key(key: str) -> str:
    """The line that says so, with the closest keys there are."""
    known = {name.rpartition('.')[2]: name for name, _ in items(default_config())}
    close = [known[leaf] for leaf in difflib.get_close_matches(key.rpartition('.')[2], known, cutoff=0.5)]
    return f'config.{key} is no key; {"closest" if close else "known"}: {", ".join(close or known.values())}'


def items(config: Config, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a nested configuration."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from items(value, f'{prefix}{key}.')
        else:
            yield prefix + key, value


def check_value(key: str, value: Any) -> None:
    """Raises ValueError for a value that `key` cannot have."""
    allowed, meaning = RULES.get(key, (None, ''))
    if allowed is None or value is None or allowed(value):
        return
    close = difflib.get_close_matches(str(value), meaning.split(', '), n=1)
    hint = f' (did you mean {close[0]}?)' if close else ''
    raise ValueError(f'config.{key} is {value!r}; allowed: {meaning}{hint}')
