"""Losses, one value for each example, and the targets they take."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from jeffnet.train.groups import decay_mask


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Cross entropy in nats `[N]` of `logits` `[N, classes]` and integer `labels` `[N]`, in float32.

    `smoothing` is the share of the target spread evenly over all classes (Szegedy et al., 2016).
    """
    return softmax_cross_entropy(logits, targets(labels, logits.shape[-1], smoothing))


def targets(labels: jax.Array, classes: int, smoothing: float = 0.0) -> jax.Array:
    """Targets `[N, classes]` in float32 of integer labels `[N]`, the share `smoothing` spread over all classes."""
    return optax.smooth_labels(jax.nn.one_hot(labels, classes, dtype=jnp.float32), smoothing)


def softmax_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross entropy in nats `[N]` of `logits` and `targets`, both `[N, classes]`, in float32."""
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets.astype(jnp.float32))


def binary_cross_entropy(
    logits: jax.Array, targets: jax.Array, *, threshold: float | None = None, sum_classes: bool = False
) -> jax.Array:
    """Binary cross entropy in nats `[N]` of `logits` and `targets`, both `[N, classes]`, in float32.

    Each class is a question of its own (Wightman et al., 2021); the mean over classes, or the sum. With a `threshold`
    targets above it are 1 and all others 0.
    """
    targets = targets.astype(jnp.float32)
    if threshold is not None:
        targets = (targets > threshold).astype(jnp.float32)
    losses = optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), targets)  # [N, classes]
    return losses.sum(-1) if sum_classes else losses.mean(-1)


def l2_loss(params: Mapping[str, jax.Array], which: str = 'weights') -> jax.Array:
    """Half the sum of squares of the arrays that `decay_mask(params, which)` picks: a float32 scalar.

    TensorFlow's recipes add it to the loss, times the weight decay.
    """
    decayed = decay_mask(params, which)
    squares = [jnp.sum(jnp.square(array.astype(jnp.float32))) for name, array in params.items() if decayed[name]]
    return 0.5 * sum(squares, jnp.float32(0))
