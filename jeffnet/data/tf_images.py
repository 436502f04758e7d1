"""Both transforms of `preprocessing` as TensorFlow operations, for images whose size is known only when they are read.

`pil` is Pillow's 8-bit resize rebuilt from integer operations, bit for bit; see `resample`.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from jeffnet.data import images
from jeffnet.data.preprocessing import Augmentation, Preprocessing, covered_share, least_size
from jeffnet.data.tf_import import tf

FRACTION_BITS = 22  # of Pillow's fixed-point weights: the sum of weight * pixel stays below 2^31
Box = tuple[tf.Tensor, ...]  # (top, left, height, width)
LUMA = (19595, 38470, 7471)  # Pillow's shares of red, green and blue in grey, in 1 / 65536


def decode(data: tf.Tensor, preprocessing: Preprocessing, box_of: Callable | None = None) -> tf.Tensor:
    """Encoded bytes -> uint8 [H, W, C], or only the box that `box_of(H, W)` gives.

    As the TensorFlow releases, `tf` decodes JPEG with the fast, less exact DCT, and only the box: at its border, the
    colours differ a little from those of the whole image.
    """

    def jpeg():
        if box_of is not None and preprocessing.kind == 'tf':
            return decode_jpeg_box(data, box_of)
        return crop(decode_jpeg(data), box_of)

    def png():
        return crop(tf.io.decode_png(data, channels=3), box_of)

    def other():
        return crop(decode_with_pillow(data), box_of)

    is_png = tf.strings.substr(data, 0, 4) == b'\x89PNG'
    image = tf.case([(tf.io.is_jpeg(data), jpeg), (is_png, png)], default=other)
    if preprocessing.in_chans == 3:
        return image
    grey = tf.reduce_sum(tf.cast(image, tf.int32) * LUMA, axis=-1, keepdims=True) + 2**15
    return tf.cast(tf.bitwise.right_shift(grey, 16), tf.uint8)


def decode_jpeg(data: tf.Tensor) -> tf.Tensor:
    """A whole JPEG as Pillow decodes it; CMYK is left to Pillow, as TensorFlow has another formula for it."""
    return tf.cond(
        tf.io.extract_jpeg_shape(data)[2] == 4,
        lambda: decode_with_pillow(data),
        lambda: tf.io.decode_jpeg(data, channels=3, dct_method='INTEGER_ACCURATE'),
    )


def decode_jpeg_box(data: tf.Tensor, box_of: Callable) -> tf.Tensor:
    """The box of a JPEG as the TensorFlow releases decode it."""
    height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(data))
    box = tf.stack(box_of(height, width))
    # Below the box nothing is read, so a file that ends there would pass; one that ends as it should is whole.
    whole = tf.cond(tf.strings.substr(data, -2, 2) == b'\xff\xd9', lambda: 0, lambda: tf.size(decode_jpeg(data)))
    with tf.control_dependencies([whole]):
        return tf.io.decode_and_crop_jpeg(data, box, channels=3, dct_method='INTEGER_FAST')


def crop(image: tf.Tensor, box_of: Callable | None) -> tf.Tensor:
    """The box of a decoded image, or all of it."""
    if box_of is None:
        return image
    top, left, height, width = box_of(tf.shape(image)[0], tf.shape(image)[1])
    return image[top : top + height, left : left + width]


def decode_with_pillow(data: tf.Tensor) -> tf.Tensor:
    """What TensorFlow cannot read, or not as Pillow: CMYK, WebP, most BMP, TIFF, uint8 [H, W, 3]."""

    def read(data: bytes) -> np.ndarray:
        return np.asarray(images.decode(data))

    return tf.ensure_shape(tf.numpy_function(read, [data], tf.uint8), [None, None, 3])


def evaluation_image(data: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Encoded bytes -> float32 [h, w, C], normalised."""
    target, interpolation = preprocessing.image_size, preprocessing.interpolation
    if preprocessing.kind == 'tf':
        image = decode(data, preprocessing, partial(tf_crop, preprocessing=preprocessing))
        return normalise(tf.image.resize(image, target, interpolation, antialias=False), preprocessing)
    image = decode(data, preprocessing)
    size = resized_size(tf.shape(image)[:2], preprocessing)
    offset = [tf.cast(tf.round((size[axis] - target[axis]) / 2), tf.int32) for axis in (0, 1)]  # half to even
    return normalise(resample(image, size, offset, target, interpolation), preprocessing)


def training_image(
    data: tf.Tensor, crops: tf.Tensor, flip: tf.Tensor, preprocessing: Preprocessing, augmentation: Augmentation
) -> tf.Tensor:
    """Encoded bytes -> float32 [h, w, C]: random resized crop, flip, normalised."""
    target, interpolation = preprocessing.image_size, augmentation.interpolation or preprocessing.interpolation
    image = decode(data, preprocessing, partial(random_crop, crops=crops, ratio=augmentation.ratio))
    if preprocessing.kind == 'pil':
        image = resample(image, target, (0, 0), target, interpolation)
    else:
        image = tf.image.resize(image, target, interpolation, antialias=False)
    return normalise(tf.where(flip, image[:, ::-1], image), preprocessing)


def tf_crop(height: tf.Tensor, width: tf.Tensor, preprocessing: Preprocessing) -> Box:
    """`preprocessing.tf_crop` for a size known only when the image is read."""
    share, (target_height, target_width) = covered_share(preprocessing), preprocessing.image_size
    high, wide = tf.cast(height, tf.float64), tf.cast(width, tf.float64)
    crop_height = tf.cast(share * tf.minimum(high, wide * (target_height / target_width)), tf.int32)
    crop_width = tf.cast(share * tf.minimum(wide, high * (target_width / target_height)), tf.int32)
    crop_height, crop_width = tf.maximum(crop_height, 1), tf.maximum(crop_width, 1)
    return (height - crop_height + 1) // 2, (width - crop_width + 1) // 2, crop_height, crop_width


def resized_size(size: tf.Tensor, preprocessing: Preprocessing) -> list[tf.Tensor]:
    """`preprocessing.resized_size` for a size known only when the image is read."""
    target = least_size(preprocessing)
    if target[0] == target[1]:
        return [target[0] * size[axis] // tf.minimum(size[0], size[1]) for axis in (0, 1)]
    exact = tf.cast(size, tf.float64)
    factor = tf.minimum(exact[0] / target[0], exact[1] / target[1])
    return [tf.cast(tf.round(exact[axis] / factor), tf.int32) for axis in (0, 1)]


def random_crop(height: tf.Tensor, width: tf.Tensor, crops: tf.Tensor, ratio: tuple[float, float]) -> Box:
    """`preprocessing.random_crop` for a size known only when the image is read."""
    exact = tf.cast([height, width], tf.float64)
    area = exact[0] * exact[1] * crops[:, 0]
    heights, widths = tf.round(tf.sqrt(area / crops[:, 1])), tf.round(tf.sqrt(area * crops[:, 1]))
    fits = (heights > 0) & (heights <= exact[0]) & (widths > 0) & (widths <= exact[1])
    first = tf.argmax(tf.cast(fits, tf.int32))
    top = tf.floor(crops[first, 2] * (exact[0] - heights[first] + 1))
    left = tf.floor(crops[first, 3] * (exact[1] - widths[first] + 1))
    aspect = tf.clip_by_value(exact[1] / exact[0], ratio[0], ratio[1])
    whole_height = tf.maximum(tf.minimum(exact[0], tf.round(exact[1] / aspect)), 1)
    whole_width = tf.maximum(tf.minimum(exact[1], tf.round(exact[0] * aspect)), 1)
    whole = (exact[0] - whole_height) // 2, (exact[1] - whole_width) // 2, whole_height, whole_width
    box = tf.where(tf.reduce_any(fits), tf.stack([top, left, heights[first], widths[first]]), tf.stack(whole))
    return tuple(tf.unstack(tf.cast(box, tf.int32)))


def normalise(image: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """`preprocessing.normalise`, and the shape that the reader promises."""
    mean, std = tf.constant(preprocessing.mean, tf.float32), tf.constant(preprocessing.std, tf.float32)
    normal = (tf.cast(image, tf.float32) / 255 - mean) / std
    return tf.ensure_shape(normal, [*preprocessing.image_size, preprocessing.in_chans])


def resample(image: tf.Tensor, size, offset, count, interpolation: str) -> tf.Tensor:
    """uint8 [H, W, C] resized to `size` as Pillow does, of which only the box of `count` at `offset` is computed.

    Pillow's order is kept: horizontal pass, rounding to 8 bits, vertical pass. Rows out of the box's reach are skipped.
    """
    across = taps(tf.shape(image)[1], size[1], offset[1], count[1], interpolation)
    down, weights = taps(tf.shape(image)[0], size[0], offset[0], count[0], interpolation)
    first, last = tf.reduce_min(down), tf.reduce_max(down)
    columns = tf.transpose(image[first : last + 1], [1, 0, 2])  # gathering along the first axis copies whole runs
    rows = tf.transpose(weigh(columns, *across), [1, 0, 2])
    return weigh(rows, down - first, weights)


def taps(n_in, n_out, start, count: int, interpolation: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Input indices and integer weights, both [T, count], of the outputs from `start` on of a resize n_in -> n_out.

    The bicubic kernel has a = -1/2, Keys 1981 (doi:10.1109/TASSP.1981.1163711).
    """
    scale = tf.cast(n_in, tf.float64) / tf.cast(n_out, tf.float64)
    stretch = tf.maximum(scale, 1)  # shrinking widens the kernel: this is the antialiasing
    support = stretch * (2 if interpolation == 'bicubic' else 1)
    centre = (tf.cast(start + tf.range(count), tf.float64) + 0.5) * scale
    low = tf.maximum(tf.cast(centre - support + 0.5, tf.int32), 0)
    high = tf.minimum(tf.cast(centre + support + 0.5, tf.int32), n_in)
    index = low + tf.range(tf.reduce_max(high - low))[:, None]
    x = tf.abs((tf.cast(index, tf.float64) - centre + 0.5) * (1 / stretch))
    if interpolation == 'bicubic':
        near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
        weight = tf.where(x < 1, near, tf.where(x < 2, far, 0))
    else:
        weight = tf.maximum(1 - x, 0)
    weight = tf.where(index < high, weight, 0)
    weight = weight / tf.reduce_sum(weight, axis=0) * 2**FRACTION_BITS
    rounded = tf.cast(weight + tf.sign(weight) * 0.5, tf.int32)  # half away from zero: the cast truncates
    return tf.minimum(index, n_in - 1), rounded


def weigh(image: tf.Tensor, index: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """One pass along the first axis, uint8 [N, M, C] -> [count, M, C], in exact 32-bit integers."""
    shape = [tf.shape(index)[1], *tf.unstack(tf.shape(image)[1:])]
    half = tf.fill(shape, 2 ** (FRACTION_BITS - 1))  # rounds to nearest

    def add(tap, total):
        rows = tf.cast(tf.gather(image, index[tap]), tf.int32)
        return tap + 1, total + weights[tap][:, None, None] * rows

    _, total = tf.while_loop(lambda tap, _: tap < tf.shape(index)[0], add, [0, half])
    return tf.cast(tf.clip_by_value(tf.bitwise.right_shift(total, FRACTION_BITS), 0, 255), tf.uint8)
