"""Metrics as sums and whole counts, so that any split into batches gives the same figures; divided once, at the end."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

Totals = dict[str, jax.Array]


def zeros(sharding: jax.sharding.Sharding | None = None) -> Totals:
    """Totals of nothing; a compiled step wants them where its own results lie, or it is compiled once more for them."""
    whole = jnp.zeros((), jnp.int32)
    return jax.device_put({'images': whole, 'top1': whole, 'top5': whole, 'loss': jnp.zeros((), jnp.float32)}, sharding)


def count(logits: jax.Array, labels: jax.Array, losses: jax.Array, mask: jax.Array | None = None) -> Totals:
    """Totals of one batch: `logits` `[N, classes]`, `labels` `[N]`, `losses` `[N]`, `mask` `[N]` true for real images.

    Equal logits rank by class number, as in `argmax`. An image with a NaN among its logits is wrong.
    """
    mask = jnp.ones(labels.shape, bool) if mask is None else mask
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)  # [N, 1]
    classes = jnp.arange(logits.shape[-1])
    ahead = (logits > own) | ((logits == own) & (classes < labels[:, None]))  # [N, classes]
    rank = jnp.where(jnp.isnan(logits).any(-1), logits.shape[-1], ahead.sum(-1))  # [N]
    return {
        'images': mask.sum(dtype=jnp.int32),
        'top1': (mask & (rank < 1)).sum(dtype=jnp.int32),
        'top5': (mask & (rank < min(5, logits.shape[-1]))).sum(dtype=jnp.int32),
        'loss': jnp.where(mask, losses, 0).sum(dtype=jnp.float32),
    }


def summary(totals: Mapping) -> dict[str, float]:
    """Mean loss (nats), top-1 and top-5 (percent) of totals; of no images, NaN."""
    images = int(totals['images'])
    mean = {name: float(totals[name]) / images if images else float('nan') for name in ('loss', 'top1', 'top5')}
    return {'loss': mean['loss'], 'top1': 100 * mean['top1'], 'top5': 100 * mean['top5']}
