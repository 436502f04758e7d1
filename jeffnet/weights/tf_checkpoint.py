"""TensorFlow's checkpoints, `<prefix>.index` beside `<prefix>.data-...`: the weights among the variables of a training.

Of the variables a training saves, its optimizer's and its counters are left out. Averaged values, which the original
releases evaluate with, stand beside the trained ones under the same name with a suffix.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jeffnet.weights.stored import StoredArray

AVERAGE = '/ExponentialMovingAverage'
FILE = re.compile(r'(?P<prefix>.+)\.(?:index|meta|data-\d{5}-of-\d{5})', re.DOTALL)
SHARD = re.compile(r'data-(\d{5})-of-(\d{5})')
STATE = re.compile(r'^\s*model_checkpoint_path:\s*"(.*)"\s*$', re.MULTILINE)
# Slots of optimizers and of averages; their scope need not be the variable's name. No weight has such a last name.
SLOT = re.compile(
    r'(?:RMSProp|Momentum|Adam|AdamWeightDecay|Adagrad|Adadelta|Ftrl|LARSOptimizer)(?:_\d+)?|adam_[mv]|biased|local_step'
)
COUNTER = re.compile(r'(?:.*/)?(?:global_step|beta[12]_power(?:_\d+)?)')
# What TensorFlow's checkpoint reader raises beside errors of its own, depending on where the damage is.
UNTRANSLATED = (RuntimeError, LookupError, ValueError, TypeError)


def find(path: Path) -> Path | None:
    """The prefix of the checkpoint that a path means, or None if it means none.

    The path is the prefix, one of the files that begin with it, or a folder: there, the checkpoint that the file
    `checkpoint` names, else the newest one.
    """
    if path.is_dir():
        return _latest(path)
    if _index(path).is_file():
        return path
    match = FILE.fullmatch(str(path))
    return Path(match['prefix']) if match and path.is_file() else None


def _latest(folder: Path) -> Path | None:
    state = folder / 'checkpoint'
    named = STATE.search(state.read_text(errors='replace')) if state.is_file() else None
    if named:
        for prefix in (folder / named[1], folder / Path(named[1]).name):  # the folder may have moved since
            if _index(prefix).is_file():
                return prefix
    indexes = [path for path in folder.glob('*.index') if path.is_file()]
    newest = max(indexes, key=lambda path: (path.stat().st_mtime_ns, _natural(path.name)), default=None)
    return newest and newest.with_suffix('')


def _index(prefix: Path) -> Path:
    return Path(f'{prefix}.index')


def _natural(name: str) -> list[tuple[str, int]]:
    """A sort key in which `model.ckpt-900` comes before `model.ckpt-1000`."""
    return [(text, int(number or 0)) for text, number in re.findall(r'(\D*)(\d*)', name)]


def read(prefix: Path, use_ema: bool = True) -> dict[str, StoredArray]:
    """The weights by variable name, without the suffix of averages; values are read later.

    `use_ema` takes the averaged value of a variable where there is one; without it, averages are ignored. Raises
    ValueError for an incomplete or damaged checkpoint, also when the values are read, and ModuleNotFoundError without
    TensorFlow.
    """
    data = _data(prefix)
    tf = _tensorflow(prefix)
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        dtypes = {name: np.dtype(kind.as_numpy_dtype) for name, kind in types.items() if kind.is_floating}
    except (tf.errors.OpError, *UNTRANSLATED) as error:
        raise _damaged(_index(prefix), error) from error

    def stored(name: str) -> StoredArray:
        def values() -> np.ndarray:
            try:
                return reader.get_tensor(name)
            except (tf.errors.OpError, *UNTRANSLATED) as error:
                raise _damaged(data, error, f' at {name}') from error

        return StoredArray(tuple(shapes[name]), dtypes[name], values)

    return {weight: stored(name) for weight, name in _weights(shapes, dtypes, use_ema).items()}


def holds_average(prefix: Path) -> bool:
    """Whether a checkpoint holds the average of some variable."""
    return any(name.endswith(AVERAGE) for name, _ in _tensorflow(prefix).train.list_variables(str(prefix)))


def _weights(shapes: Mapping[str, Any], dtypes: Mapping[str, Any], use_ema: bool) -> dict[str, str]:
    """The variable that gives the value of each weight."""
    plain = {name.removesuffix(AVERAGE) for name in shapes}
    chosen = {}
    for name in sorted(dtypes):  # an average comes after its variable
        weight = name.removesuffix(AVERAGE)
        if (use_ema or weight == name) and not _of_training(weight, plain):
            chosen[weight] = name
    return chosen


def _of_training(name: str, variables: Collection[str]) -> bool:
    """Whether a variable is an optimizer's, whose scope is then mostly another variable's name, or a counter."""
    scope, _, last = name.rpartition('/')
    return scope in variables or bool(SLOT.fullmatch(last) or COUNTER.fullmatch(name))


def _tensorflow(prefix: Path) -> Any:
    try:
        from jeffnet.data.tf_import import tf
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"reading {prefix} needs TensorFlow: pip install 'jeffnet[tf]', or give a .safetensors file"
        ) from error
    return tf


def _data(prefix: Path) -> str:
    """The data of a checkpoint, for messages: its file, or a pattern. ValueError if the index or a shard is missing."""
    if not _index(prefix).is_file():
        raise ValueError(f'{_index(prefix)} is missing; copy it beside the .data files of the checkpoint')
    beside = (path.name.removeprefix(f'{prefix.name}.') for path in prefix.parent.iterdir() if path.is_file())
    shards = {(int(match[1]), int(match[2])) for match in map(SHARD.fullmatch, beside) if match}
    counts = {count for _, count in shards} or {1}
    missing = {count: [i for i in range(count) if (i, count) not in shards] for count in counts}
    count = min(counts, key=lambda count: len(missing[count]))  # another count is left from an earlier checkpoint
    if missing[count]:
        first = f'{prefix}.data-{missing[count][0]:05}-of-{count:05}'
        others = f' and {len(missing[count]) - 1} more' if missing[count][1:] else ''
        raise ValueError(f'{first} is missing{others}; copy it beside {_index(prefix).name}')
    return f'{prefix}.data-00000-of-00001' if count == 1 else f'{prefix}.data-*'


def _damaged(file: str | Path, error: Exception, place: str = '') -> ValueError:
    message = str(getattr(error, 'message', error)).strip() or type(error).__name__
    cause = re.sub(r'^.*\): ', '', message.splitlines()[0]).rstrip('.')  # without the path, which TensorFlow repeats
    return ValueError(f'{file} is damaged{place} ({cause}); fetch or copy the checkpoint again')
