"""Both transforms of `preprocessing` as TensorFlow operations, for images whose size is known only when they are read.

`pil` is Pillow's 8-bit resize rebuilt from matrix products of whole numbers, bit for bit; see `resample`.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np

from jeffnet.data import image_ops, images, tf_image_ops
from jeffnet.data.augmentation import Augmentation, Draw
from jeffnet.data.preprocessing import Preprocessing, covered_share, crop_offset, resized_size
from jeffnet.data.settings import Size
from jeffnet.data.tf_image_ops import LUMA
from jeffnet.data.tf_import import tf

FRACTION_BITS = 22  # of Pillow's fixed-point weights: the sum of weight * pixel stays below 2^31
Box = tuple[tf.Tensor, ...]  # (top, left, height, width)
BAND = 16  # outputs of a resize that are computed as one matrix product; 8 to 32 are equally fast
LOW_BITS = 7  # of a weight, split off so that sums over many taps stay below 2^24
MOST_TAPS = 2**24 // (255 * 2 ** (LOW_BITS - 1))  # 1028: a bicubic resize to 1 / 257


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

    def place(height: int, width: int) -> tuple[Size, Size]:
        size = resized_size(height, width, preprocessing)
        return size, (crop_offset(size[0], target[0]), crop_offset(size[1], target[1]))

    return normalise(resample(decode(data, preprocessing), place, target, interpolation), preprocessing)


def training_image(data: tf.Tensor, draw: Draw, preprocessing: Preprocessing, augmentation: Augmentation) -> tf.Tensor:
    """Encoded bytes -> float32 [h, w, C]: random resized crop, flips, operations, normalised."""
    target = preprocessing.image_size
    image = decode(data, preprocessing, partial(random_crop, crops=draw.crops, ratio=augmentation.ratio))
    if preprocessing.kind == 'pil':
        image = resize_with_pillow(image, target, draw)
    else:
        resizes = [partial(tf.image.resize, image, target, name, antialias=False) for name in ('bicubic', 'bilinear')]
        image = tf.cond(draw.bicubic, *resizes)
        image = tf.cond(draw.hflip, lambda: image[:, ::-1], lambda: image)
        image = tf.cond(draw.vflip, lambda: image[::-1], lambda: image)
        if augmentation.changes_values:
            image = tf_image_ops.to_bytes(tf.round(image))  # rounded for the reason given in `images`
    if augmentation.changes_values:
        image = tf.ensure_shape(image, [*target, preprocessing.in_chans])
        image = tf_image_ops.carry_out(image, draw, augmentation, augmentation.fill(preprocessing))
    return normalise(image, preprocessing)


def resize_with_pillow(image: tf.Tensor, size: Size, draw: Draw) -> tf.Tensor:
    """uint8 [H, W, C] -> [*size, C], and flipped.

    Each random crop has a size of its own, whose kernels would cost `resample` most of its time; and TensorFlow takes
    longer to flip than Pillow to resize.
    """

    def run(image: np.ndarray, bicubic: np.bool, hflip: np.bool, vflip: np.bool) -> np.ndarray:
        resized = images.resize(image_ops.picture(image), size, 'bicubic' if bicubic else 'bilinear')
        return images.array(image_ops.flip(resized, bool(hflip), bool(vflip)))

    return tf.numpy_function(run, [image, draw.bicubic, draw.hflip, draw.vflip], tf.uint8)


def tf_crop(height: tf.Tensor, width: tf.Tensor, preprocessing: Preprocessing) -> Box:
    """`preprocessing.tf_crop` for a size known only when the image is read."""
    share, (target_height, target_width) = covered_share(preprocessing), preprocessing.image_size
    high, wide = tf.cast(height, tf.float64), tf.cast(width, tf.float64)
    crop_height = tf.cast(share * tf.minimum(high, wide * (target_height / target_width)), tf.int32)
    crop_width = tf.cast(share * tf.minimum(wide, high * (target_width / target_height)), tf.int32)
    crop_height, crop_width = tf.maximum(crop_height, 1), tf.maximum(crop_width, 1)
    return (height - crop_height + 1) // 2, (width - crop_width + 1) // 2, crop_height, crop_width


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
    height, width = preprocessing.image_size
    # Whole rows, since TensorFlow is slow with a last axis of three.
    mean, std = (np.tile(np.array(values, np.float32), width) for values in (preprocessing.mean, preprocessing.std))
    rows = tf.reshape(tf.cast(image, tf.float32), [height, width * preprocessing.in_chans])
    return tf.reshape((rows / 255 - mean) / std, [height, width, preprocessing.in_chans])


def resample(image: tf.Tensor, place: Callable[[int, int], tuple[Size, Size]], count: Size, interpolation: str):
    """uint8 [H, W, C] resized as Pillow does, of which only a box of `count` is computed: uint8 [*count, C].

    `place(H, W)` gives the size of the whole result and the offset of the box in it. Pillow's order is kept: horizontal
    pass, rounding to 8 bits, vertical pass. Rows out of the box's reach are skipped.
    """
    height, width, channels = tf.unstack(tf.shape(image))

    def kernels(height: np.int32, width: np.int32):
        size, offset = place(int(height), int(width))
        across = band_kernel(int(width), size[1], offset[1], count[1], interpolation)
        down, first = band_kernel(int(height), size[0], offset[0], count[0], interpolation)
        top = np.min(first)
        return *across, down, first - top, np.array([top, np.max(first) + down.shape[2]], np.int32)

    kinds = (tf.float32, tf.int32, tf.float32, tf.int32, tf.int32)
    across, left, down, above, reach = tf.numpy_function(kernels, [height, width], kinds)
    rows = tf.ensure_shape(reach, [2])
    columns = tf.transpose(image[rows[0] : rows[1]], [1, 0, 2])  # weighing along the first axis copies whole runs
    narrow = weigh(tf.reshape(columns, [width, -1]), across, left, count[1])
    lines = tf.transpose(tf.reshape(narrow, [count[1], -1, channels]), [1, 0, 2])
    low = weigh(tf.reshape(lines, [rows[1] - rows[0], -1]), down, above, count[0])
    return tf.reshape(low, [count[0], count[1], channels])


def weigh(image: tf.Tensor, parts: tf.Tensor, first: tf.Tensor, count: int) -> tf.Tensor:
    """One pass along the first axis, uint8 [N, M] -> [count, M]; `parts` and `first` are those of `band_kernel`."""
    parts = tf.ensure_shape(parts, [None, 2 * min(BAND, count), None])
    reached = tf.gather(image, tf.ensure_shape(first, [None])[:, None] + tf.range(tf.shape(parts)[2]))  # [bands, K, M]
    high, low = tf.split(tf.matmul(parts, tf.cast(reached, tf.float32)), 2, axis=1)
    sums = high + tf.floor(low * 2.0**-LOW_BITS) + 2.0 ** (FRACTION_BITS - LOW_BITS - 1)  # rounds to nearest
    whole = tf.clip_by_value(tf.floor(sums * 2.0 ** (LOW_BITS - FRACTION_BITS)), 0, 255)
    return tf.reshape(tf.cast(whole, tf.uint8), [-1, tf.shape(image)[1]])[:count]


@lru_cache(maxsize=64)  # of ImageNet's images, most have one of a few sizes
def band_kernel(n_in: int, n_out: int, start: int, count: int, interpolation: str) -> tuple[np.ndarray, np.ndarray]:
    """The outputs start to start + count of a resize n_in -> n_out as matrix products, one for each band of outputs.

    Returns float32 [bands, 2 * band, K] and the first of the K inputs of each band, int32. The upper half of a matrix
    holds the weights without their lowest bits, the lower half these: float32 holds whole numbers up to 2^24, and so
    the sums of either half are exact.
    """
    low, weights = taps(n_in, n_out, start, count, interpolation)
    if weights.shape[1] > MOST_TAPS:
        raise ValueError(f'a resize from {n_in} to {n_out} pixels is beyond this reader')
    band = min(BAND, count)
    bands = -(-count // band)
    filled = np.concatenate([low, np.repeat(low[-1:], bands * band - count)]).reshape(bands, band)
    reach = int(np.max(filled.max(axis=1) - filled.min(axis=1))) + weights.shape[1]
    first = np.minimum(filled.min(axis=1), max(n_in - reach, 0))
    matrices = np.zeros((bands * band, reach + weights.shape[1]), np.int64)
    columns = (filled - first[:, None]).reshape(-1)[:count, None] + np.arange(weights.shape[1])
    np.put_along_axis(matrices[:count], columns, weights, axis=1)
    matrices = matrices[:, : min(reach, n_in)].reshape(bands, band, -1)  # what is cut off has no weight
    high = (matrices + 2 ** (LOW_BITS - 1)) >> LOW_BITS
    parts = np.concatenate([high, matrices - (high << LOW_BITS)], axis=1)
    return parts.astype(np.float32), first.astype(np.int32)


def taps(n_in: int, n_out: int, start: int, count: int, interpolation: str) -> tuple[np.ndarray, np.ndarray]:
    """First inputs int64 [count] and whole-number weights int64 [count, T] of the outputs from `start` on.

    The bicubic kernel has a = -1/2, Keys 1981 (doi:10.1109/TASSP.1981.1163711).
    """
    scale = n_in / n_out
    stretch = max(scale, 1.0)  # shrinking widens the kernel: this is the antialiasing
    support = stretch * (2 if interpolation == 'bicubic' else 1)
    centre = (start + np.arange(count) + 0.5) * scale
    low = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    high = np.minimum((centre + support + 0.5).astype(np.int64), n_in)
    index = low[:, None] + np.arange(np.max(high - low))
    x = np.abs((index - centre[:, None] + 0.5) * (1 / stretch))
    if interpolation == 'bicubic':
        near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
        weight = np.where(x < 1, near, np.where(x < 2, far, 0))
    else:
        weight = np.maximum(1 - x, 0)
    weight = np.where(index < high[:, None], weight, 0)
    weight = weight / weight.sum(axis=1, keepdims=True) * 2**FRACTION_BITS
    return low, np.trunc(weight + np.copysign(0.5, weight)).astype(np.int64)  # half away from zero
