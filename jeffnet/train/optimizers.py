"""Optimizers by name, each with weight decay on the weights only."""

from typing import Any

import jax
import optax


def decay_mask(params: Any) -> Any:
    """True for the arrays that weight decay shrinks: those of two or more axes, so no bias and no norm scale."""
    return jax.tree.map(lambda array: array.ndim > 1, params)


def with_l2(decay: float, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """`optimizer` on the gradient plus `decay` times the weights, as `weight_decay` in torch.optim's SGD and Adam."""
    return optax.chain(optax.add_decayed_weights(decay, decay_mask), optimizer) if decay else optimizer


# Each takes learning rate (a schedule), momentum and weight decay. AdamW and LAMB apply the decay after their scaling.
OPTIMIZERS = {
    'sgd': lambda rate, momentum, decay: with_l2(decay, optax.sgd(rate)),
    'momentum': lambda rate, momentum, decay: with_l2(decay, optax.sgd(rate, momentum)),
    'nesterov': lambda rate, momentum, decay: with_l2(decay, optax.sgd(rate, momentum, nesterov=True)),
    'adam': lambda rate, momentum, decay: with_l2(decay, optax.adam(rate, b1=momentum)),
    'adamw': lambda rate, momentum, decay: optax.adamw(rate, b1=momentum, weight_decay=decay, mask=decay_mask),
    'lamb': lambda rate, momentum, decay: optax.lamb(rate, b1=momentum, weight_decay=decay, mask=decay_mask),
}


def make_optimizer(
    name: str, rate: optax.ScalarOrSchedule, *, momentum: float = 0.9, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """The optimizer of this name; `momentum` is the first decay rate of the Adam family, and unused by `sgd`.

    Raises ValueError for an unknown name.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f'unknown optimizer {name!r}: expected one of {", ".join(OPTIMIZERS)}')
    return OPTIMIZERS[name](rate, momentum, weight_decay)
