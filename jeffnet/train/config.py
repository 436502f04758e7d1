"""The keys of a training configuration, their default values, and the check that a run starts with."""

import difflib
import math
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from jeffnet.train.optimizers import OPTIMIZERS
from jeffnet.train.schedules import SCHEDULES

Config = Any  # a ConfigDict: the types of its values are known only when it runs


def default_config() -> Config:
    """A new configuration with every key there is; a file in `train_configs/` changes some of them."""
    config = ConfigDict()
    config.data_dir = ''  # holds the two folders below, each with one folder of images for every class
    config.train_split = 'train'
    config.validation_split = 'validation'
    config.output_dir = 'output/train'  # checkpoints `best` and `last`, log.jsonl, config.json

    config.model = 'tf_efficientnet_b0'
    config.in_chans = 3
    config.output_stride = 32
    config.drop_rate = 0.0  # dropout before the classifier
    config.drop_path_rate = 0.0  # stochastic depth of the last block; earlier blocks proportionally less
    config.dtype = 'float32'  # of the computation; parameters, statistics and losses are always float32
    config.seed = 0

    config.image_size = placeholder(int)  # None: the model's own
    config.crop_pct = placeholder(float)  # in validation; None: the model's own
    config.augmentation = ConfigDict({'scale': (0.08, 1.0), 'ratio': (3 / 4, 4 / 3), 'hflip': 0.5})
    config.workers = placeholder(int)  # that read images; None: as many as pay off

    config.batch_size = 256  # over all devices
    config.epochs = 100.0
    config.optimizer = 'nesterov'
    config.momentum = 0.9
    config.weight_decay = 1e-5
    config.schedule = 'cosine'
    config.learning_rate = 0.1  # the highest, after warm-up
    config.warmup_epochs = 5.0
    config.label_smoothing = 0.1

    config.log_every_steps = 50
    config.eval_every_epochs = 1.0
    return config


def among(*values) -> tuple[Callable[[Any], bool], str]:
    """A rule: one of these."""
    return lambda value: value in values, ', '.join(map(str, values))


def at_least(low: int) -> tuple[Callable[[Any], bool], str]:
    """A rule: this number or a higher one."""
    return lambda value: low <= value < math.inf, f'{low} or more'


ABOVE_0 = lambda value: 0 < value < math.inf, 'above 0'
SHARE = lambda value: 0 <= value < 1, '0 or more, below 1'

# What a value must be: a test, and its meaning in words. Preprocessing, Augmentation and the model check their own.
RULES = {
    'output_stride': among(8, 16, 32),
    'drop_rate': SHARE,
    'drop_path_rate': SHARE,
    'dtype': among('float32', 'bfloat16'),
    'seed': (lambda value: 0 <= value < 2**32, '0 to 4294967295'),
    'workers': at_least(0),
    'batch_size': at_least(1),
    'epochs': ABOVE_0,
    'optimizer': among(*OPTIMIZERS),
    'momentum': SHARE,
    'weight_decay': at_least(0),
    'schedule': among(*SCHEDULES),
    'learning_rate': at_least(0),
    'warmup_epochs': at_least(0),
    'label_smoothing': SHARE,
    'log_every_steps': at_least(1),
    'eval_every_epochs': ABOVE_0,
}


def checked(config: Config) -> Config:
    """A copy of `config` with missing keys at their defaults.

    Raises ValueError, naming key, value and what is allowed, for an unknown key, a wrong type or an impossible value.
    """
    whole = default_config()
    known, given = dict(items(whole)), dict(items(config))
    for key in given.keys() - known.keys():
        raise ValueError(unknown_key(key))
    try:
        whole.update_from_flattened_dict(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f'config: {error}') from error
    for key, value in items(whole):
        check_value(key, value)
    if not whole.data_dir:
        raise ValueError('config.data_dir is empty: give the folder that holds the images, --config.data_dir DIR')
    if whole.warmup_epochs >= whole.epochs:
        raise ValueError(
            f'config.warmup_epochs is {whole.warmup_epochs:g}; allowed: below config.epochs, {whole.epochs:g}'
        )
    return whole


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
