"""Random erasing of normalised images on the device.

The random numbers follow from the key and the size of the batch alone, not from the devices that the batch lies on.
"""

import math

import jax
import jax.numpy as jnp

from jeffnet.train.mixing import inside

MODES = ('const', 'rand', 'pixel')
ATTEMPTS = 10  # at a box that fits into the image; then it is left out


def erase(
    key: jax.Array,
    images: jax.Array,
    *,
    prob: float = 0.5,
    mode: str = 'const',
    min_area: float = 0.02,
    max_area: float = 1 / 3,
    min_aspect: float = 0.3,
    max_aspect: float | None = None,
    min_count: int = 1,
    max_count: int = 1,
    splits: int = 0,
) -> jax.Array:
    """`images` `[N, H, W, C]` with `min_count` to `max_count` boxes erased in a share `prob` (Zhong et al., 2020).

    As timm's `RandomErasing`: boxes are filled with 0 (`const`), a normal colour each (`rand`) or normal noise
    (`pixel`); together they have `min_area` to `max_area` of the image, heights over widths `min_aspect` to
    `max_aspect`, its inverse if None. With `splits` above 1 the first of so many parts of the batch stays as it is.
    Raises ValueError for a bad mode, area, aspect or count.
    """
    aspects = (min_aspect, 1 / min_aspect if max_aspect is None else max_aspect)
    check(mode, (min_area, max_area), aspects, (min_count, max_count))
    count, height, width, channels = images.shape
    prob_key, box_key, fill_key = jax.random.split(key, 3)
    erased = jax.random.uniform(prob_key, (count,)) < prob
    if splits > 1:
        erased &= jnp.arange(count) >= count // splits
    boxes = draw_boxes(
        box_key, count, height, width, areas=(min_area, max_area), aspects=aspects, counts=(min_count, max_count)
    )
    masks = inside(boxes, height, width) & erased[:, None, None, None]  # [N, boxes, H, W]
    if mode == 'rand':
        colours = jax.random.normal(fill_key, (count, max_count, 1, 1, channels), images.dtype)
        for box in range(max_count):  # one over the other
            images = jnp.where(masks[:, box, ..., None], colours[:, box], images)
        return images
    fill = jax.random.normal(fill_key, images.shape, images.dtype) if mode == 'pixel' else jnp.zeros((), images.dtype)
    return jnp.where(masks.any(axis=1)[..., None], fill, images)


def draw_boxes(
    key: jax.Array, images: int, height: int, width: int, *, areas: tuple[float, float],
    aspects: tuple[float, float], counts: tuple[int, int],
) -> jax.Array:  # fmt: skip
    """Boxes `[images, counts[1], 4]` of top, bottom, left and right; those that are left out are empty."""
    count_key, area_key, aspect_key, top_key, left_key = jax.random.split(key, 5)
    count = jax.random.randint(count_key, (images, 1, 1), counts[0], counts[1] + 1)
    shape = (images, counts[1], ATTEMPTS)
    area = jax.random.uniform(area_key, shape, minval=areas[0], maxval=areas[1]) * height * width / count
    aspect = jnp.exp(jax.random.uniform(aspect_key, shape, minval=math.log(aspects[0]), maxval=math.log(aspects[1])))
    sizes = jnp.stack([jnp.sqrt(area * aspect), jnp.sqrt(area / aspect)], axis=-1).round().astype(jnp.int32)
    fits = (sizes < jnp.array([height, width])).all(axis=-1)
    first = fits.argmax(axis=-1)[..., None, None]
    size = jnp.take_along_axis(sizes, first, axis=2)[:, :, 0]  # [images, boxes, 2]
    wanted = fits.any(axis=-1) & (jnp.arange(counts[1]) < count[..., 0])
    size = jnp.where(wanted[..., None], size, 0)
    top = jax.random.randint(top_key, shape[:2], 0, height - size[..., 0] + 1)
    left = jax.random.randint(left_key, shape[:2], 0, width - size[..., 1] + 1)
    return jnp.stack([top, top + size[..., 0], left, left + size[..., 1]], axis=-1)


def check(mode: str, areas: tuple[float, float], aspects: tuple[float, float], counts: tuple[int, int]) -> None:
    """Raises ValueError for settings of erasing that are none."""
    if mode not in MODES:
        raise ValueError(f'mode of erasing is {mode!r}; allowed: {", ".join(MODES)}')
    if not 0 < areas[0] <= areas[1] <= 1:
        raise ValueError(f'min_area and max_area are {areas}; allowed: above 0 to 1, min_area not above max_area')
    if not 0 < aspects[0] <= aspects[1]:
        raise ValueError(f'min_aspect and max_aspect are {aspects}; allowed: above 0, min_aspect not above max_aspect')
    if not 1 <= counts[0] <= counts[1]:
        raise ValueError(f'min_count and max_count are {counts}; allowed: 1 or more, min_count not above max_count')
