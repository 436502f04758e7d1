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
from jeffnet.core.block import KERAS, PYTORCH, TENSORFLOW, Block, Policy, declarations
from jeffnet.models.table import ModelInfo, definition, model_info, network_of, table

log = logging.getLogger('jeffnet')

FLAVOURS = {'pt': PYTORCH, 'tf': TENSORFLOW, 'keras': KERAS}
# Fields of a model's dataclass that are set by the keywords of `_plan`; the stages are the architecture itself.
NOT_OVERRIDES = (
    'stages', 'num_classes', 'in_chans', 'image_size', 'out_indices', 'output_stride', 'drop_rate', 'drop_path_rate',
    'variant',
)  # fmt: skip


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

    A folder, hub repository or file that says which options its network has brings them; those given here win.
    """
    weights, asked = options.get('weights'), options.get('num_classes') is not None
    if weights is not None and (not isinstance(weights, str | Path) or not str(weights)):
        raise ValueError(f'weights={weights!r}: expected the path of a file or folder, or hf-hub:owner/repo')
    if weights is not None and options.get('pretrained'):
        raise ValueError(f'pretrained=True and weights={str(weights)!r}: give one of the two')
    if isinstance(name, str) and ':' in name:
        name, saved = _from_place(name, options)
        return _plan(name, new_classifier=asked, **_merged(saved, {**options, 'pretrained': False}))
    if weights is None:
        return _plan(name, new_classifier=asked, **options)
    from jeffnet.weights import source

    found = source.locate(weights)
    source.same_network(found, model_info(name))
    return _plan(name, new_classifier=asked, **_merged(found.options, {**options, 'weights': found.path}))


def _merged(saved: dict, given: dict) -> dict:
    """The options that a source brings and those given, where None, the sign for "as published", takes the saved."""
    return {**given, **{key: value for key, value in saved.items() if given.get(key) is None}}


def _from_place(name: str, options: dict) -> tuple[str, dict]:
    """The model that a place holds, `hf-hub:owner/repo` or `local-dir:PATH`, and its options, weights among them."""
    from jeffnet.weights import source

    if not source.is_source(name):
        raise ValueError(f'model name {name!r}: expected a name, hf-hub:owner/repo or local-dir:PATH')
    if options.get('weights') is not None:
        raise ValueError(f'{name!r} and weights={str(options["weights"])!r}: give one of the two')
    found = source.locate(name)
    if found.model is None:
        known = found.config.get('architecture')
        raise ValueError(
            f'{name}: timm calls its architecture {known!r}, which jeffnet does not have'
            if known
            else f'{name} holds no config.json that names its model; give the name, and this as weights='
        )
    return found.model, {**found.options, 'weights': found.path if options.get('pretrained') else None}


def _plan(
    name: str,
    *,
    new_classifier: bool,
    pretrained: bool = False,
    weights: str | Path | None = None,
    strict: bool = True,
    use_ema: bool = True,
    num_classes: int | None = None,
    in_chans: int = 3,
    image_size: int | tuple[int, int] | None = None,
    features_only: bool = False,
    out_indices: tuple[int, ...] | list[int] | None = None,
    output_stride: int = 32,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    bn_eps: float | None = None,
    bn_momentum: float | None = None,
    bn_group_size: int | None = None,
    bn_frozen: bool = False,
    dtype: Any = jnp.float32,
    seed: int = 0,
    **overrides,
) -> Plan:
    info = model_info(name)
    published = network_of(info)
    whole = dataclasses.replace(published, **_overrides(info, published, overrides))
    chosen = {
        'variant': info.name,
        'num_classes': _classes(num_classes, whole.num_classes),
        'in_chans': _positive('in_chans', in_chans),
        'drop_rate': _rate('drop_rate', drop_rate),
        **_stochastic_depth(info, whole, drop_path_rate),
        **_extent(info, whole, image_size, output_stride),
    }
    _check_seed(seed)
    _flag('strict', strict)
    _flag('use_ema', use_ema)
    given = _batch_norm(bn_eps, bn_momentum)
    given |= {'bn_frozen': _flag('bn_frozen', bn_frozen)}
    if bn_group_size is not None:
        given['bn_group_size'] = _positive('bn_group_size', bn_group_size)
    policy = dataclasses.replace(policy_of(info), dtype=_floating(dtype), **given)
    block = dataclasses.replace(whole, **chosen)
    if _flag('features_only', features_only):
        if num_classes is not None and num_classes > 0:
            raise ValueError(f'features_only=True returns no logits: leave out num_classes={num_classes}')
        usual = getattr(definition(info), 'FEATURE_MAPS', None)
        indices = _indices(usual if out_indices is None else out_indices, len(block.feature_info))
        block = dataclasses.replace(block, out_indices=indices)
    elif out_indices is not None:
        raise ValueError(f'out_indices={out_indices!r} needs features_only=True')
    if not _flag('pretrained', pretrained) and weights is None:
        return Plan(info, block, policy, None, int(seed))
    from jeffnet.weights import load, source

    loaded = load(
        info, block, policy, source.pinned(info) if weights is None else Path(weights),
        strict=strict, new_classifier=new_classifier, use_ema=use_ema,
    )  # fmt: skip
    policy = dataclasses.replace(policy, **{**loaded.policy, **given})
    return Plan(info, block, policy, loaded.values, int(seed))


def policy_of(info: ModelInfo) -> Policy:
    """What the architecture leaves open, as the published network has it."""
    return dataclasses.replace(FLAVOURS[info.flavour], **info.policy)


def _batch_norm(eps, momentum) -> dict:
    """The settings of batch norm that were asked for."""
    given = {}
    if eps is not None:
        if not _number(eps) or not 0 < eps < 1:
            raise ValueError(f'bn_eps={eps!r}: expected None (as published) or a small positive number')
        given['bn_eps'] = float(eps)
    if momentum is not None:
        if not _number(momentum) or not 0 <= momentum <= 1:
            raise ValueError(
                f'bn_momentum={momentum!r}: expected None (as published) or the share of the old statistic, 0 to 1'
            )
        given['bn_momentum'] = float(momentum)
    return given


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
        checked[key] = _override(info, key, getattr(block, key), value)
    return checked


def _override(info: ModelInfo, key: str, usual: Any, value: Any) -> Any:
    """A value for a field of the architecture that the published network has another one for, checked."""
    if isinstance(usual, bool):
        return _flag(key, value)
    if isinstance(usual, int):
        return _positive(key, value)
    if isinstance(usual, float):
        if not _number(value) or not 0 < value < math.inf:
            raise ValueError(f'{key}={value!r}: expected a positive number')
        return float(value)
    if callable(usual):
        function = ACTIVATIONS.get(value, value) if isinstance(value, str) else value
        if not callable(function):
            raise ValueError(f'{key}={value!r}: expected a function, or one of {", ".join(ACTIVATIONS)}')
        return function
    if isinstance(usual, tuple) and usual and all(map(_whole, usual)):
        if not isinstance(value, tuple | list) or len(value) != len(usual):
            raise ValueError(f'{key}={value!r}: expected {len(usual)} positive whole numbers such as {usual}')
        return tuple(_positive(key, number) for number in value)
    if isinstance(usual, tuple):
        raise TypeError(f'{info.name}: {key} is a part of the architecture that cannot be changed')
    relatives = [network_of(other) for other in table().values() if other.file == info.file]
    choices = list(dict.fromkeys(getattr(network, key) for network in relatives if hasattr(network, key)))
    if value not in choices:
        raise ValueError(f'{key}={value!r}: expected one of {", ".join(map(repr, choices))}')
    return value


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


def _extent(info: ModelInfo, block: Any, image_size, output_stride) -> dict:
    """The fields that say how images become feature maps: strides, or an image size for a position table."""
    output_stride = _one_of('output_stride', output_stride, (8, 16, 32))
    if hasattr(block, 'output_stride'):  # a convolutional network, which takes any size
        if image_size is not None:
            _image_size(image_size, output_stride)
        return {'output_stride': output_stride}
    if output_stride != 32:
        raise ValueError(f'output_stride={output_stride}: {info.name} has no strides to change; leave it out')
    if image_size is None:
        return {}
    if not hasattr(block, 'image_size'):  # any size will do
        _image_size(image_size, output_stride)
        return {}
    return {'image_size': _image_size(image_size, block.patch_size)}


def _stochastic_depth(info: ModelInfo, block: Any, rate) -> dict:
    """The field for the rate at which residual branches are dropped, in networks that have such branches."""
    rate = _rate('drop_path_rate', rate)
    if hasattr(block, 'drop_path_rate'):
        return {'drop_path_rate': rate}
    if rate:
        raise ValueError(f'drop_path_rate={rate}: {info.name} has no residual branches to drop; leave it out')
    return {}


def _image_size(image_size, smallest):
    sides = tuple(image_size) if isinstance(image_size, tuple | list) else (image_size, image_size)
    if len(sides) != 2 or not all(_whole(side) and side >= smallest for side in sides):
        raise ValueError(f'image_size={image_size!r}: expected one side or (height, width), at least {smallest} pixels')
    return tuple(map(int, sides))


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
