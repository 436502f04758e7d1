"""Both transforms of `preprocessing` as TensorFlow operations, for images whose size is known only when they are read.

`pil` decodes with TensorFlow, to Pillow's pixels, and resizes with Pillow itself.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from jeffnet.data import image_ops, images, tf_image_ops
from jeffnet.data.augmentation import Augmentation, Draw
from jeffnet.data.preprocessing import Preprocessing, covered_share, crop_offset, resized_size
from jeffnet.data.settings import Size
from jeffnet.data.tf_image_ops import LUMA
from jeffnet.data.tf_import import tf

Box = tuple[tf.Tensor, ...]  # (top, left, height, width)


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

    def resize(image: np.ndarray) -> np.ndarray:
        size = resized_size(image.shape[0], image.shape[1], preprocessing)
        top, left = (crop_offset(whole, part) for whole, part in zip(size, target, strict=True))
        box = (top, left, *target)
        first, last = images.rows_read(len(image), size, box, interpolation)
        rows = image_ops.picture(image[first:last])
        return images.array(images.resized_rows(rows, first, len(image), size, box, interpolation))

    return normalise(tf.numpy_function(resize, [decode(data, preprocessing)], tf.uint8), preprocessing)


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

    TensorFlow takes longer to flip than Pillow to resize.
    """

    def run(image: np.ndarray, bicubic: np.bool, hflip: np.bool, vflip: np.bool) -> np.ndarray:
        resized = images.resize(image_ops.picture(image), size, 'bicubic' if bicubic else 'bilinear')
        return images.array(image_ops.flip(resized, bool(hflip), bool(vflip)))

    return tf.numpy_function(run, [image, draw.bicubic, draw.hflip, draw.vflip], tf.uint8)


def tf_crop(height: tf.Tensor, width: tf.Tensor, preprocessing: Preprocessing) -> Box:
    """`preprocessing.tf_crop` for a size known only when the image is read."""
    share, (target_height, target_width) = covered_share(preprocessing), preprocessing.image_size
    high, wide = tf.cast(height, tf.float64), tf.cast(width, tf.float64)
    largest = high, wide
    if preprocessing.crop_mode == 'center':
        ratio = target_height / target_width
        largest = tf.minimum(high, wide * ratio), tf.minimum(wide, high * (target_width / target_height))
    crop_height, crop_width = (tf.maximum(tf.cast(share * side, tf.int32), 1) for side in largest)
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
    if preprocessing.bgr:
        image = image[:, :, ::-1]
    # Whole rows, since TensorFlow is slow with a last axis of three.
    mean, std = (np.tile(np.array(values, np.float32), width) for values in (preprocessing.mean, preprocessing.std))
    rows = tf.reshape(tf.cast(image, tf.float32), [height, width * preprocessing.in_chans])
    return tf.reshape((rows / 255 - mean) / std, [height, width, preprocessing.in_chans])
