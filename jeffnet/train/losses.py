"""Losses, one value for each example."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Cross entropy in nats `[N]` of `logits` `[N, classes]` and integer `labels` `[N]`, in float32.

    `smoothing` is the share of the target spread evenly over all classes (Szegedy et al., 2016).
    """
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)  # [N, classes]
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)
