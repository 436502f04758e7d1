"""From a name and keywords to a block, its policy and its weights: what creation needs before a framework."""

import dataclasses
import difflib
import logging
import math
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jeffnet.core.activations import ACTIVATIONS
from jeffnet.core.block import PYTORCH, TENSORFLOW, Block, Policy, declarations
from jeffnet.models.table import ModelInfo, definition, model_info

log = logging.getLogger('jeffnet')

FLAVOURS = {'pt': PYTORCH, 'tf': TENSORFLOW}
# Fields of a model's dataclass that are set by the keywords of `_plan`; the stages are the architecture itself.
NOT_OVERRIDES = ('stages', 'num_classes', 'in_chans', 'out_indices', 'output_stride', 'drop_rate', 'drop_path_rate')


@dataclass(frozen=True)
class Plan:
    """What a back end builds."""

    info: ModelInfo
    block: Block
    policy: Policy
    values: dict | None  # loaded arrays by flat name
    seed: int


def plan(name: str, **options) -> Plan:
    """Checks every keyword of the contract and resolves the name; see `jeffnet.create_model`.

    A checkpoint folder as `weights` brings the options it was trained with; those given here win.
    """
    return _plan(name, **{**_saved_options(name, options.get('weights')), **options})


def _saved_options(name: str, weights: Any) -> dict:
    """The options in the config of a checkpoint folder (or of the file in it); ValueError if it is of another model."""
    if not isinstance(weights, str | Path) or str(weights).startswith('hf-hub:'):
        return {}
    path = Path(weights).expanduser()
    folder = path if path.is_dir() else path.parent
    if not (folder / 'config.json').is_file() or path not in (folder, folder / 'model.safetensors'):
        return {}
    from jeffnet.weights import read_config

    config = read_config(folder)
    if model_info(config['model']).name != model_info(name).name:
        raise ValueError(f'weights={str(weights)!r} is a checkpoint of {config["model"]}, not of {name}')
    return config['options']


def _plan(
    name: str,
    *,
    pretrained: bool = False,
    weights: Any = None,
    strict: bool = True,
    num_classes: int | None = None,
    in_chans: int = 3,
    image_size: int | tuple[int, int] | None = None,
    features_only: bool = False,
    out_indices: tuple[int, ...] | list[int] | None = None,
    output_stride: int = 32,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    dtype: Any = jnp.float32,
    seed: int = 0,
    **overrides,
) -> Plan:
    info = model_info(name)
    variant = definition(info).VARIANTS[info.arch]
    published = variant(**info.options)
    whole = dataclasses.replace(published, **_overrides(info, published, overrides))
    chosen = {
        'num_classes': _classes(num_classes, whole.num_classes),
        'in_chans': _positive('in_chans', in_chans),
        'output_stride': _one_of('output_stride', output_stride, (8, 16, 32)),
        'drop_rate': _rate('drop_rate', drop_rate),
        'drop_path_rate': _rate('drop_path_rate', drop_path_rate),
    }
    if image_size is not None:
        _image_size(image_size, output_stride)
    _check_seed(seed)
    _flag('strict', strict)
    if weights is not None and (not isinstance(weights, str | Path) or not str(weights)):
        raise ValueError(f'weights={weights!r}: expected the path of a file or checkpoint folder, or hf-hub:owner/repo')
    policy = dataclasses.replace(FLAVOURS[info.flavour], dtype=_floating(dtype))
    block = dataclasses.replace(whole, **chosen)
    if _flag('features_only', features_only):
        if num_classes is not None and num_classes > 0:
            raise ValueError(f'features_only=True returns no logits: leave out num_classes={num_classes}')
        block = dataclasses.replace(block, out_indices=_indices(out_indices, len(block.feature_info)))
    elif out_indices is not None:
        raise ValueError(f'out_indices={out_indices!r} needs features_only=True')
    values = None
    if pretrained or weights is not None:
        from jeffnet import weights as loading

        values = loading.load(
            info, block, policy, pretrained=pretrained, weights=weights, strict=strict,
            new_classifier=num_classes is not None,
        )  # fmt: skip
    return Plan(info, block, policy, values, int(seed))


def _overrides(info: ModelInfo, block: Any, overrides: dict) -> dict:
    """Checked values for fields of the architecture; a wrong one or an unknown keyword is an error that names it."""
    fields = {f.name for f in dataclasses.fields(block)} - set(NOT_OVERRIDES)
    checked = {}
    for key, value in overrides.items():
        if key not in fields:
            known = [*(_plan.__kwdefaults__ or ()), *fields]
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            hint = f'; did you mean {close[0]}?' if close else f'; known are {", ".join(sorted(known))}'
            raise TypeError(f'{info.name}: unknown keyword {key!r}{hint}')
        usual = getattr(block, key)
        if isinstance(usual, bool):
            checked[key] = _flag(key, value)
        elif isinstance(usual, int):
            checked[key] = _positive(key, value)
        elif isinstance(usual, float):
            if not _number(value) or not 0 < value < math.inf:
                raise ValueError(f'{key}={value!r}: expected a positive number')
            checked[key] = float(value)
        elif callable(usual):
            function = ACTIVATIONS.get(value, value) if isinstance(value, str) else value
            if not callable(function):
                raise ValueError(f'{key}={value!r}: expected a function, or one of {", ".join(ACTIVATIONS)}')
            checked[key] = function
    return checked


def _whole(value: Any) -> bool:
    """Whether a value is a whole number; NumPy's count, True does not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    """Whether a value is a real number; NumPy's count, True does not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _flag(key, value):
    if not isinstance(value, bool):
        raise ValueError(f'{key}={value!r}: expected True or False')
    return value


def _classes(num_classes, published):
    if num_classes is None:
        return published
    if not _whole(num_classes) or num_classes < -1:
        raise ValueError(
            f'num_classes={num_classes!r}: expected None (as published), a positive number, 0 (the final feature map) '
            'or -1 (everything but the classifier)'
        )
    return int(num_classes)


def _positive(key, value):
    if not _whole(value) or value < 1:
        raise ValueError(f'{key}={value!r}: expected a positive whole number')
    return int(value)


def _one_of(key, value, allowed):
    if not _whole(value) or value not in allowed:
        raise ValueError(f'{key}={value!r}: expected one of {", ".join(map(str, allowed))}')
    return int(value)


def _rate(key, value):
    if not _number(value) or not 0 <= value < 1:
        raise ValueError(f'{key}={value!r}: expected a probability, 0 <= {key} < 1')
    return float(value)


def _floating(dtype):
    try:
        kind = None if dtype is None else jnp.dtype(dtype)
    except TypeError:
        kind = None
    if kind is None or not jnp.issubdtype(kind, jnp.floating):
        raise ValueError(f'dtype={dtype!r}: expected a floating-point type such as jnp.float32 or jnp.bfloat16')
    if jax.dtypes.canonicalize_dtype(kind) != kind:
        raise ValueError("dtype=float64 needs jax.config.update('jax_enable_x64', True) first")
    return kind.type


def _image_size(image_size, smallest):
    sides = tuple(image_size) if isinstance(image_size, tuple | list) else (image_size, image_size)
    if len(sides) != 2 or not all(_whole(side) and side >= smallest for side in sides):
        raise ValueError(f'image_size={image_size!r}: expected one side or (height, width), at least {smallest} pixels')


def _check_seed(seed):
    if not _whole(seed) or not 0 <= seed < 2**32:
        raise ValueError(f'seed={seed!r}: expected a whole number, 0 <= seed < 2**32')


def _indices(out_indices, count):
    if out_indices is None:
        return tuple(range(count))
    if _whole(out_indices):  # timm: the last n
        chosen = tuple(range(count - out_indices, count)) if 0 < out_indices <= count else ()
    else:
        given = tuple(out_indices) if isinstance(out_indices, tuple | list) else ()
        chosen = tuple(int(i) + count * (i < 0) if _whole(i) else -1 for i in given)
    if not chosen or any(not 0 <= i < count for i in chosen):
        raise ValueError(f'out_indices={out_indices!r}: expected levels 0 to {count - 1}, or how many of the last')
    return chosen


def parameter_count(block: Block, policy: Policy = PYTORCH) -> int:
    """Trained parameters of a block, statistics not counted."""
    return sum(math.prod(d.shape) for d in declarations(block, policy).values() if type(d).__name__ == 'Param')
