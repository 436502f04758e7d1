"""Mixup and CutMix on the device: images and targets of a batch mixed with those of the reversed batch.

The random numbers follow from the key and the size of the batch alone, not from the devices that the batch lies on.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

MODES = ('batch', 'pair', 'elem')


class Mix(NamedTuple):
    """How each image is mixed; the first axis is the batch, or 1 where all images are mixed alike."""

    lam: jax.Array  # [M] float32, the share of the image itself in the targets
    box: jax.Array  # [M, 4] int32, the CutMix box: top, bottom, left, right; bottom and right are outside
    cutmix: jax.Array  # [M] bool, CutMix instead of mixup


def mix(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    *,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    prob: float = 1.0,
    switch_prob: float = 0.5,
    mode: str = 'batch',
    correct_lam: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """`images` `[N, H, W, C]` and `targets` `[N, classes]`, image i mixed with image N - 1 - i, as timm's `Mixup`.

    An alpha of 0 turns mixup (Zhang et al., 2018) or CutMix (Yun et al., 2019) off; with both, `switch_prob` is the
    probability of CutMix. `mode`: all images alike (`batch`), both of a pair alike (`pair`), each its own (`elem`).
    `correct_lam` gives targets the share of the box that lies inside. Raises ValueError for a bad mode, two alphas of
    0, and pairs in an odd batch.
    """
    drawn = draw(
        key, *images.shape[:3], mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha, prob=prob,
        switch_prob=switch_prob, mode=mode, correct_lam=correct_lam,
    )  # fmt: skip
    return apply(drawn, images, targets)


def draw(
    key: jax.Array, count: int, height: int, width: int, *, mixup_alpha: float, cutmix_alpha: float, prob: float,
    switch_prob: float, mode: str, correct_lam: bool,
) -> Mix:  # fmt: skip
    """Draws how a batch of `count` images is mixed."""
    if mode not in MODES:
        raise ValueError(f'mode of mixing is {mode!r}; allowed: {", ".join(MODES)}')
    if min(mixup_alpha, cutmix_alpha) < 0 or max(mixup_alpha, cutmix_alpha) == 0:
        raise ValueError(f'alphas of mixing are {mixup_alpha}, {cutmix_alpha}; allowed: 0 or more, one of them above 0')
    if mode == 'pair' and count % 2:
        raise ValueError(f'a batch of {count} images has no pairs; allowed for mode pair: an even number')
    size = {'batch': 1, 'pair': count // 2, 'elem': count}[mode]
    switch_key, beta_key, apply_key, box_key = jax.random.split(key, 4)
    if not (mixup_alpha and cutmix_alpha):
        switch_prob = 1.0 if cutmix_alpha else 0.0
    cutmix = jax.random.uniform(switch_key, (size,)) < switch_prob
    alpha = jnp.where(cutmix, jnp.float32(cutmix_alpha), jnp.float32(mixup_alpha))
    alpha = jnp.where(alpha > 0, alpha, 1)  # never used; a beta distribution of alpha 0 does not end
    lam = jax.random.beta(beta_key, alpha, alpha)
    lam = jnp.where(jax.random.uniform(apply_key, (size,)) < prob, lam, 1)
    box = draw_boxes(box_key, lam, height, width)
    if correct_lam:
        area = (box[:, 1] - box[:, 0]) * (box[:, 3] - box[:, 2])
        lam = jnp.where(cutmix, 1 - area / (height * width), lam)
    drawn = Mix(lam, box, cutmix)
    return jax.tree.map(lambda half: jnp.concatenate([half, half[::-1]]), drawn) if mode == 'pair' else drawn


def draw_boxes(key: jax.Array, lam: jax.Array, height: int, width: int) -> jax.Array:
    """Boxes `[M, 4]` with a share 1 - `lam` of the image, centred anywhere in it, cut off at its border."""
    spans = []
    for axis_key, size in zip(jax.random.split(key), (height, width), strict=True):
        length = jnp.floor(size * jnp.sqrt(1 - lam)).astype(jnp.int32)
        centre = jax.random.randint(axis_key, lam.shape, 0, size)
        spans += [jnp.maximum(centre - length // 2, 0), jnp.minimum(centre + (length + 1) // 2, size)]
    return jnp.stack(spans, axis=-1)


def apply(drawn: Mix, images: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mixes `images` `[N, H, W, C]` and `targets` `[N, classes]` as drawn, each with those of the reversed batch."""
    lam, cutmix = drawn.lam, drawn.cutmix[:, None, None, None]
    outside = ~inside(drawn.box, *images.shape[1:3])[..., None]  # [M, H, W, 1]
    mixed = blend(images, lam[:, None, None, None].astype(images.dtype))
    mixed = jnp.where(cutmix, jnp.where(outside, images, images[::-1]), mixed)
    return mixed, blend(targets, lam[:, None].astype(targets.dtype))


def inside(box: jax.Array, height: int, width: int) -> jax.Array:
    """Masks `[..., H, W]`, true in boxes `[..., 4]` of top, bottom, left and right."""
    top, bottom, left, right = (box[..., side, None] for side in range(4))
    y, x = jnp.arange(height), jnp.arange(width)
    return ((top <= y) & (y < bottom))[..., :, None] & ((left <= x) & (x < right))[..., None, :]


def blend(batch: jax.Array, lam: jax.Array) -> jax.Array:
    """`lam` of each example and 1 - `lam` of that of the reversed batch."""
    return batch * lam + batch[::-1] * (1 - lam)
