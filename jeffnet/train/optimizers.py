"""Optimizers by name, for parameters that are one flat dict; the state holds the learning rate of the next update."""

import difflib
import math
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from jeffnet.train.groups import HEAD, decay_mask

Masks = dict[str, bool]

# ---------------------------------------------------------------------------------------- what optax has not as it is


def lamb(rate, *, weight_decay: float, mask: Masks, b1: float, b2: float, eps: float):
    """LAMB (You et al., 2020); only decayed arrays have a trust ratio, so that small biases learn: as timm."""
    return optax.chain(
        optax.scale_by_adam(b1, b2, eps),
        optax.add_decayed_weights(weight_decay, mask),
        optax.masked(optax.scale_by_trust_ratio(), mask),
        optax.scale_by_learning_rate(rate),
    )


def lars(rate, *, weight_decay: float, mask: Masks, **options):
    """LARS (You et al., 2017); only decayed arrays have a trust ratio, as in timm."""
    return optax.lars(rate, weight_decay, weight_decay_mask=mask, trust_ratio_mask=mask, **options)


class AdanState(NamedTuple):
    """Moments of the gradients, of their differences and of the squares, the last gradients, the steps done."""

    m: dict[str, jax.Array]
    v: dict[str, jax.Array]
    n: dict[str, jax.Array]
    last: dict[str, jax.Array]
    count: jax.Array  # int32


def adan(rate, *, b1: float, b2: float, b3: float, eps: float) -> optax.GradientTransformation:
    """Adan (Xie et al., 2022), with decay rates as in the authors' code."""

    # Not optax.adan: 0.2.8 weighs differences by 1 - b2 instead of b2 (github.com/google-deepmind/optax/pull/1715).
    def init(params):
        m, v, n, last = (jax.tree.map(jnp.zeros_like, params) for _ in range(4))
        return AdanState(m, v, n, last, jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        difference = jax.tree.map(lambda g, last: jnp.where(state.count > 0, g - last, 0), updates, state.last)
        m = optax.tree.update_moment(updates, state.m, b1, 1)
        v = optax.tree.update_moment(difference, state.v, b2, 1)
        n = optax.tree.update_moment(optax.tree.add_scale(updates, b2, difference), state.n, b3, 2)
        count = state.count + 1
        hats = [optax.tree.bias_correction(moment, b, count) for moment, b in ((m, b1), (v, b2), (n, b3))]
        scaled = jax.tree.map(lambda m, v, n: (m + b2 * v) / (jnp.sqrt(n) + eps), *hats)
        return scaled, AdanState(m, v, n, updates, count)

    return optax.chain(optax.GradientTransformation(init, update), optax.scale_by_learning_rate(rate))


def novograd(rate, *, weight_decay: float, mask: Masks, **options):
    """NovoGrad (Ginsburg et al., 2019), whose moment includes the decay; optax has no mask for it."""
    parts: dict[Hashable, optax.GradientTransformation] = {
        'decayed': optax.novograd(rate, weight_decay=weight_decay, **options),
        'others': optax.novograd(rate, **options),
    }
    return optax.partition(parts, {name: 'decayed' if decays else 'others' for name, decays in mask.items()})


def rmsprop(rate, *, decay: float, eps: float, momentum: float):
    """RMSProp as in PyTorch: eps outside the root, the rate outside the momentum."""
    return optax.chain(
        optax.scale_by_rms(decay, eps, eps_in_sqrt=False),
        optax.trace(momentum),
        optax.scale_by_learning_rate(rate),
    )


def muon_axes(params: Any) -> Any:
    """How Muon sees each array: a kernel is a matrix from all axes but the last to the last; None is for AdamW."""

    def axes(name, array):
        # A depthwise kernel is no matrix but one small filter for each channel.
        if not name.endswith('.kernel') or array.ndim < 2 or 1 in array.shape[-2:]:
            return None
        return MuonDimensionNumbers(tuple(range(array.ndim - 1)), array.ndim - 1)

    return {name: axes(name, array) for name, array in params.items()}


# ------------------------------------------------------------------------------------------------------------ the table


@dataclass(frozen=True)
class Optimizer:
    """What there is to know about an optimizer: how to build it, its options with their defaults, its weight decay."""

    build: Callable[..., optax.GradientTransformation]  # of the rate and the options
    options: dict[str, Any] = field(default_factory=dict)
    momentum: str = ''  # the option that `momentum` sets
    # Where weight decay acts. gradient: added to the gradient, as an L2 loss would; update: apart from it, the decay
    # times the rate (Loshchilov & Hutter, 2019); inside: between the steps of `build`.
    decay: str = 'gradient'


ADAM = {'b1': 0.9, 'b2': 0.999, 'eps': 1e-8, 'eps_root': 0.0}
MOMENTUM = {'momentum': 0.9}

# There is no Shampoo: optax has none, and distributed_shampoo, the JAX package of it, is not maintained. Muon is its
# closest relative. All updates are linear in the rate, so that a factor on the rate may act on the update.
OPTIMIZERS: dict[str, Optimizer] = {
    'sgd': Optimizer(optax.sgd),
    'momentum': Optimizer(optax.sgd, MOMENTUM, 'momentum'),
    'nesterov': Optimizer(partial(optax.sgd, nesterov=True), MOMENTUM, 'momentum'),
    'adam': Optimizer(optax.adam, ADAM, 'b1'),
    'adamw': Optimizer(optax.adam, ADAM, 'b1', 'update'),
    'nadam': Optimizer(optax.nadam, ADAM, 'b1'),
    'nadamw': Optimizer(optax.nadam, ADAM, 'b1', 'update'),
    'adabelief': Optimizer(optax.adabelief, ADAM | {'eps': 1e-16, 'eps_root': 1e-16}, 'b1', 'update'),
    'lamb': Optimizer(lamb, {'b1': 0.9, 'b2': 0.999, 'eps': 1e-6}, 'b1', 'inside'),
    'lars': Optimizer(
        lars, MOMENTUM | {'trust_coefficient': 0.001, 'eps': 0.0, 'nesterov': False}, 'momentum', 'inside'
    ),
    'lion': Optimizer(partial(optax.lion, weight_decay=0.0), {'b1': 0.9, 'b2': 0.99}, 'b1', 'update'),
    'adafactor': Optimizer(
        optax.adafactor,
        {'min_dim_size_to_factor': 128, 'decay_rate': 0.8, 'multiply_by_parameter_scale': True}
        | {'clipping_threshold': 1.0, 'momentum': None, 'eps': 1e-30, 'factored': True},
        decay='update',
    ),
    'muon': Optimizer(  # scaled to the size of AdamW's updates, for one rate serves both
        partial(muon, muon_weight_dimension_numbers=muon_axes),
        {'beta': 0.95, 'nesterov': True, 'ns_steps': 5, 'consistent_rms': 0.2, 'eps': 1e-8}
        | {'adam_b1': 0.9, 'adam_b2': 0.999},
        decay='update',
    ),
    'adan': Optimizer(adan, {'b1': 0.98, 'b2': 0.92, 'b3': 0.99, 'eps': 1e-8}, decay='update'),
    'novograd': Optimizer(novograd, {'b1': 0.9, 'b2': 0.25, 'eps': 1e-6, 'eps_root': 0.0}, 'b1', 'inside'),
    'rmsprop': Optimizer(rmsprop, MOMENTUM | {'decay': 0.9, 'eps': 1e-8}, 'momentum'),
    'rmsprop_tf': Optimizer(  # TensorFlow 1's: mean squares start at 1, the rate is inside the momentum
        partial(optax.rmsprop, initial_scale=1.0, eps_in_sqrt=True),
        MOMENTUM | {'decay': 0.9, 'eps': 1e-3, 'nesterov': False, 'centered': False},
        'momentum',
    ),
}


def make_optimizer(
    name: str,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    decay_mask: str = 'weights',
    options: Mapping[str, Any] | None = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_adaptive: float | None = None,
    multipliers: Mapping[str, float] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of this name, for parameters by flat names; `set_learning_rate` gives its state a rate, 0 at first.

    `momentum` is the first decay rate of the Adam family; sgd, adafactor, adan and muon have options of their own.
    Gradients are clipped first: adaptively, then by value, then by their global norm. `multipliers` are factors on
    updates by name; what has factor 0 is frozen: no update, no decay, no part in the norm. Raises ValueError for an
    unknown name or option and for bad values.
    """
    rule = checked_rule(name)
    values = checked_options(name, options or {}, momentum)
    check_numbers(momentum=momentum, weight_decay=weight_decay)
    clips = clipping(clip_norm, clip_value, clip_adaptive)
    factors = dict(multipliers or {})

    def scaled(updates: Any, _):
        return {name: update * factors.get(name, 1.0) for name, update in updates.items()}

    def chain(rate, params) -> optax.GradientTransformationExtraArgs:
        mask = only(masks(params, decay_mask), factors)
        parts = [*clips, decayed(rule, rate, weight_decay, mask, values)]
        if factors:
            parts.append(optax.stateless(scaled))
        return optax.chain(*parts)

    def with_rate(learning_rate) -> optax.GradientTransformationExtraArgs:
        def init(params):
            return chain(learning_rate, params).init(only(params, factors))

        def update(updates, state, params: Any = None, **extra):
            if params is None:
                raise ValueError('the optimizer needs the parameters: update(updates, state, params)')
            inner = chain(learning_rate, params)
            changed: Any
            changed, state = inner.update(only(updates, factors), state, only(params, factors), **extra)
            return {name: changed.get(name, jnp.zeros_like(params[name])) for name in params}, state

        return optax.GradientTransformationExtraArgs(init, update)

    return optax.inject_hyperparams(with_rate, hyperparam_dtype=jnp.dtype('float32'))(learning_rate=0.0)


masks = decay_mask  # under a name that the keyword of `make_optimizer` does not hide


def set_learning_rate(opt_state: Any, rate: jax.typing.ArrayLike) -> Any:
    """The state of an optimizer of `make_optimizer` with this rate, which may be traced, for the next update."""
    return opt_state._replace(hyperparams={'learning_rate': jnp.asarray(rate, jnp.float32)})


def only(arrays: Mapping[str, Any], factors: Mapping[str, float]) -> dict[str, Any]:
    """The arrays that are not frozen."""
    return {name: array for name, array in arrays.items() if factors.get(name, 1.0)}


def decayed(rule: Optimizer, rate, weight_decay: float, mask: Masks, options: dict) -> optax.GradientTransformation:
    """The optimizer with weight decay where it belongs."""
    if rule.decay == 'inside':
        return rule.build(rate, weight_decay=weight_decay, mask=mask, **options)
    optimizer = rule.build(rate, **options)
    if not weight_decay:
        return optimizer
    if rule.decay == 'gradient':
        return optax.chain(optax.add_decayed_weights(weight_decay, mask), optimizer)
    return optax.chain(optimizer, optax.add_decayed_weights(-rate * weight_decay, mask))


# ------------------------------------------------------------------------------------------------------------- clipping


def clipping(norm: float | None, value: float | None, adaptive: float | None) -> list[optax.GradientTransformation]:
    """The transformations that clip gradients, in their order."""
    makers = {
        'clip_adaptive': (clip_adaptive, adaptive),
        'clip_value': (optax.clip, value),
        'clip_norm': (optax.clip_by_global_norm, norm),
    }
    for key, (_, limit) in makers.items():
        if limit is not None and not 0 < limit < math.inf:
            raise ValueError(f'{key} is {limit!r}; allowed: above 0, or None')
    return [maker(limit) for maker, limit in makers.values() if limit is not None]


def clip_adaptive(limit: float) -> optax.GradientTransformation:
    """Clips the gradient of a unit to `limit` times the norm of its weights, but for the head (Brock et al., 2021).

    A unit is one output of a kernel, or all of any other array; norms of weights count as at least 0.001.
    """

    def clip(name, gradient, weights):
        axes = tuple(range(weights.ndim - 1)) if name.endswith('.kernel') else None
        highest = limit * jnp.maximum(norm(weights, axes), 1e-3)
        own = norm(gradient, axes)
        return jnp.where(own < highest, gradient, gradient * (highest / jnp.maximum(own, 1e-6)))

    def update(updates: Any, params: Any):
        return {n: g if re.match(HEAD, n) else clip(n, g, params[n]) for n, g in updates.items()}

    return optax.stateless(update)


def norm(array: jax.Array, axes: tuple[int, ...] | None) -> jax.Array:
    """The root of the sum of squares over these axes, which stay with length 1."""
    return jnp.sqrt(jnp.sum(jnp.square(array), axis=axes, keepdims=True))


# --------------------------------------------------------------------------------------------------------------- checks


def checked_rule(name: str) -> Optimizer:
    """The entry of this name; ValueError with the closest names if there is none."""
    if name not in OPTIMIZERS:
        close = difflib.get_close_matches(name, OPTIMIZERS)
        hint = f' (closest: {", ".join(close)})' if close else ''
        raise ValueError(f'unknown optimizer {name!r}{hint}: expected one of {", ".join(OPTIMIZERS)}')
    return OPTIMIZERS[name]


def checked_options(name: str, options: Mapping[str, Any], momentum: float) -> dict[str, Any]:
    """All options of an optimizer; ValueError for one that it has not."""
    rule = OPTIMIZERS[name]
    for key in options:
        if key not in rule.options:
            allowed = ', '.join(rule.options) or 'none'
            raise ValueError(f'optimizer {name} has no option {key!r}; allowed: {allowed}')
    first = {rule.momentum: momentum} if rule.momentum else {}
    return rule.options | first | dict(options)


def check_numbers(*, momentum: float, weight_decay: float) -> None:
    """Raises ValueError for values that no optimizer can have."""
    if not 0 <= momentum < 1:
        raise ValueError(f'momentum is {momentum!r}; allowed: 0 or more, below 1')
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f'weight_decay is {weight_decay!r}; allowed: 0 or more')
