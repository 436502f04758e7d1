"""Exponential moving averages of parameters and batch-norm statistics."""

from typing import Any

import jax
import jax.numpy as jnp

WARMUPS = ('tf', 'timm', 'none')


def ema_decay(step: jax.Array, decay: float, warmup: str = 'tf') -> jax.Array:
    """The share of the old average that is kept at this step (steps done before), float32.

    Without a warm-up, the initial weights stay in the average for long. `tf`: min(decay, (1 + t) / (10 + t)), the
    `num_updates` of tf.train.ExponentialMovingAverage; `timm`: min(decay, 1 - (1 + t)^(-2/3)), that of its ModelEmaV3;
    Raises ValueError for another word.
    """
    if warmup not in WARMUPS:
        raise ValueError(f'ema_warmup is {warmup!r}; allowed: {", ".join(WARMUPS)}')
    t = jnp.asarray(step, jnp.float32)
    rising = {'tf': (1 + t) / (10 + t), 'timm': 1 - (1 + t) ** (-2 / 3), 'none': jnp.full_like(t, decay)}[warmup]
    return jnp.minimum(jnp.float32(decay), rising)


def updated(average: Any, new: Any, keep: jax.Array) -> Any:
    """`average` moved towards `new`: keep * average + (1 - keep) * new, in the form that loses least to rounding."""
    return jax.tree.map(lambda old, value: old + (1 - keep) * (value - old), average, new)
