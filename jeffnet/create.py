"""From a name and keywords to a block, its policy and its weights: what creation needs before a framework."""

import dataclasses
import difflib
import logging
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jeffnet.core.block import PYTORCH, TENSORFLOW, Block, Policy, declarations
from jeffnet.models.table import ModelInfo, definition, model_info

log = logging.getLogger('jeffnet')

FLAVOURS = {'pt': PYTORCH, 'tf': TENSORFLOW}
# Fields of a model's dataclass that callers set through the common keywords below, or that define the architecture.
COMMON = ('num_classes', 'in_chans', 'out_indices', 'output_stride', 'drop_rate', 'drop_path_rate')


@dataclass(frozen=True)
class Plan:
    """What a back end builds."""

    info: ModelInfo
    block: Block
    policy: Policy
    values: dict | None  # loaded arrays by flat name
    seed: int


def plan(
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
    """Checks every keyword of the contract and resolves the name; see `jeffnet.create_model`."""
    info = model_info(name)
    variant = definition(info).VARIANTS[info.arch]
    fields = {f.name for f in dataclasses.fields(variant.func)}
    _check_overrides(info, overrides, fields - set(COMMON))
    whole = variant(**{**info.options, **overrides})
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
    policy = dataclasses.replace(FLAVOURS[info.flavour], dtype=_floating(dtype))
    block = dataclasses.replace(whole, **chosen)
    if features_only:
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


def _check_overrides(info, overrides, fields):
    for key in overrides:
        if key not in fields:
            known = [*(plan.__kwdefaults__ or ()), *fields]
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            hint = f'; did you mean {close[0]}?' if close else f'; known are {", ".join(sorted(known))}'
            raise TypeError(f'{info.name}: unknown keyword {key!r}{hint}')


def _classes(num_classes, published):
    if num_classes is None:
        return published
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < -1:
        raise ValueError(
            f'num_classes={num_classes!r}: expected None (as published), a positive number, 0 (the final feature map) '
            'or -1 (everything but the classifier)'
        )
    return num_classes


def _positive(key, value):
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f'{key}={value!r}: expected a positive whole number')
    return value


def _one_of(key, value, allowed):
    if isinstance(value, bool) or value not in allowed:
        raise ValueError(f'{key}={value!r}: expected one of {", ".join(map(str, allowed))}')
    return int(value)


def _rate(key, value):
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f'{key}={value!r}: expected a probability, 0 <= {key} < 1')
    return float(value)


def _floating(dtype):
    try:
        kind = jnp.dtype(dtype)
    except TypeError as error:
        raise ValueError(f'dtype={dtype!r}: expected a floating-point type such as jnp.bfloat16') from error
    if not jnp.issubdtype(kind, jnp.floating):
        raise ValueError(f'dtype={dtype!r}: expected a floating-point type such as jnp.float32 or jnp.bfloat16')
    if jax.dtypes.canonicalize_dtype(kind) != kind:
        raise ValueError("dtype=float64 needs jax.config.update('jax_enable_x64', True) first")
    return kind.type


def _image_size(image_size, smallest):
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or any(isinstance(s, bool) or not isinstance(s, int) or s < smallest for s in sides):
        raise ValueError(f'image_size={image_size!r}: expected one side or (height, width), at least {smallest} pixels')


def _check_seed(seed):
    if isinstance(seed, bool) or not hasattr(seed, '__index__') or not 0 <= seed < 2**32:
        raise ValueError(f'seed={seed!r}: expected a whole number, 0 <= seed < 2**32')


def _indices(out_indices, count):
    if out_indices is None:
        return tuple(range(count))
    if isinstance(out_indices, int):  # timm: the last n
        out_indices = range(count - out_indices, count) if 0 < out_indices <= count else (-1 - count,)
    chosen = tuple(i + count if i < 0 else i for i in out_indices)
    if not chosen or any(not 0 <= i < count for i in chosen):
        raise ValueError(f'out_indices={tuple(out_indices)}: expected numbers from 0 to {count - 1}')
    return chosen


def parameter_count(block: Block, policy: Policy = PYTORCH) -> int:
    """Trained parameters of a block, statistics not counted."""
    return sum(math.prod(d.shape) for d in declarations(block, policy).values() if type(d).__name__ == 'Param')
