"""The operations of `policies` as TensorFlow operations, bit for bit those of `image_ops`.

What depends on single values and neighbours is written here and runs outside of Python's lock. Moving, blurring and
turning hues is left to Pillow: TensorFlow would take several times as long for its double precision, and Pillow too
gives up the lock while it works.
"""

from collections.abc import Callable

import numpy as np

from jeffnet.data import image_ops
from jeffnet.data.augmentation import CODES, Augmentation, Draw, Operations
from jeffnet.data.image_ops import Fill
from jeffnet.data.tf_import import tf

LUMA = (19595, 38470, 7471)  # Pillow's shares of red, green and blue in grey, in 1 / 65536
Step = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


def carry_out(image: tf.Tensor, draw: Draw, augmentation: Augmentation, fill: Fill) -> tf.Tensor:
    """AugMix if there are chains, then the operations of a draw: uint8 [H, W, C], of which the size is known."""
    step = operation(image.shape, fill)
    if augmentation.mix:
        image = mix(image, draw, augmentation.mix.blended, step)
    return one_by_one(image, draw.operations, step)


def one_by_one(image: tf.Tensor, operations: Operations, step: Step) -> tf.Tensor:
    """Operations one after the other."""
    for place in range(operations.codes.shape[0]):
        image = step(image, operations.codes[place], operations.arguments[place])
    return image


def mix(image: tf.Tensor, draw: Draw, blended: bool, step: Step) -> tf.Tensor:
    """The weighted sum of all chains, blended with the image; or each chain blended into it, in order."""
    total = image if blended else tf.zeros(image.shape)
    for place in range(draw.weights.shape[0]):
        chain = Operations(draw.chains.codes[place], draw.chains.arguments[place])
        changed, weight = one_by_one(image, chain, step), draw.weights[place]
        total = blend(total, changed, weight) if blended else total + weight * tf.cast(changed, tf.float32)
    return total if blended else blend(image, to_bytes(total), draw.share)


def operation(shape: tf.TensorShape, fill: Fill) -> Step:
    """One operation of any kind on images of this shape, traced once."""
    native = {
        'Nothing': lambda image, arguments: image,
        'AutoContrast': auto_contrast,
        'Equalize': equalize,
        'Invert': lambda image, arguments: 255 - image,
        'Posterize': posterize,
        'Solarize': solarize,
        'SolarizeAdd': solarize_add,
        'Color': color,
        'Contrast': contrast,
        'Brightness': lambda image, arguments: blend(tf.zeros_like(image), image, arguments[0]),
        'Sharpness': sharpness,
        'Cutout': lambda image, arguments: cutout(image, arguments, fill),
    }

    def step(image: tf.Tensor, code: tf.Tensor, arguments: tf.Tensor) -> tf.Tensor:
        branches = {CODES[name]: lambda f=f: f(image, arguments) for name, f in native.items()}
        return tf.switch_case(code, branches, default=lambda: with_pillow(image, code, arguments, fill))

    spec = tf.TensorSpec
    return tf.function(step, input_signature=(spec(shape, tf.uint8), spec([], tf.int32), spec([3], tf.float64)))


def with_pillow(image: tf.Tensor, code: tf.Tensor, arguments: tf.Tensor, fill: Fill) -> tf.Tensor:
    """An operation that only `image_ops` has."""

    def run(image: np.ndarray, code: np.int32, arguments: np.ndarray) -> np.ndarray:
        found = image_ops.BY_CODE[int(code)](image_ops.picture(image), arguments.tolist(), fill)
        return np.asarray(found).reshape(image.shape)

    return tf.ensure_shape(tf.numpy_function(run, [image, code, arguments], tf.uint8), image.shape)


# --- helpers


def size_of(image: tf.Tensor) -> tuple[int, int, int]:
    """(height, width, channels), known when the graph is built."""
    height, width, channels = image.shape.as_list()
    assert height is not None and width is not None and channels is not None
    return height, width, channels


def to_bytes(values: tf.Tensor) -> tf.Tensor:
    """Cut to 0..255, and cut off behind the point."""
    return tf.cast(tf.clip_by_value(values, 0, 255), tf.uint8)


def blend(low: tf.Tensor, high: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Pillow's blend, in float32: `low` at factor 0, `high` at 1, beyond them as well."""
    start, factor = tf.cast(low, tf.float32), tf.cast(factor, tf.float32)
    return to_bytes(start + factor * (tf.cast(high, tf.float32) - start))


def luma(image: tf.Tensor) -> tf.Tensor:
    """The grey of an image in Pillow's fixed point, uint8 [H, W]."""
    if image.shape[2] == 1:
        return image[:, :, 0]
    red, green, blue = (tf.cast(channel, tf.int32) for channel in tf.unstack(image, axis=2))
    total = red * LUMA[0] + green * LUMA[1] + blue * LUMA[2] + 2**15
    return tf.cast(tf.bitwise.right_shift(total, 16), tf.uint8)


def look_up(image: tf.Tensor, tables: tf.Tensor) -> tf.Tensor:
    """Each value replaced by that of its channel's table, [C, 256]."""
    return tf.gather(tf.cast(tf.reshape(tables, [-1]), tf.uint8), places(image))


def places(image: tf.Tensor) -> tf.Tensor:
    """Each value's place in the tables of all channels, int32 [H, W, C]."""
    height, width, channels = size_of(image)
    offsets = np.tile(256 * np.arange(channels, dtype=np.int32), width)  # whole rows: TensorFlow is slow with three
    rows = tf.cast(tf.reshape(image, [height, width * channels]), tf.int32)
    return tf.reshape(rows + offsets, [height, width, channels])


# --- operations: uint8 [H, W, C], float64 [3] -> uint8 [H, W, C]


def auto_contrast(image: tf.Tensor, arguments: tf.Tensor) -> tf.Tensor:
    """Each channel stretched to 0..255, but for a channel of one value."""
    height, width, channels = size_of(image)
    rows = tf.reshape(image, [height, width * channels])
    extremes = (reduce(rows, axis=0) for reduce in (tf.reduce_min, tf.reduce_max))
    low, high = (tf.cast(tf.reshape(row, [width, channels]), tf.float64) for row in extremes)
    low, high = tf.reduce_min(low, axis=0)[:, None], tf.reduce_max(high, axis=0)[:, None]  # [C, 1]
    values = tf.range(256, dtype=tf.float64)
    scale = 255.0 / tf.maximum(high - low, 1)
    stretched = tf.clip_by_value(values * scale + -low * scale, 0, 255)
    return look_up(image, tf.where(high > low, stretched, values))


def equalize(image: tf.Tensor, arguments: tf.Tensor) -> tf.Tensor:
    """Each channel's values spread, so that all are about as frequent."""
    height, width, channels = size_of(image)
    size = 256 * channels
    histogram = tf.math.bincount(tf.reshape(places(image), [-1]), minlength=size, maxlength=size)
    histogram = tf.reshape(histogram, [channels, 256])
    last = 255 - tf.argmax(tf.cast(histogram[:, ::-1] > 0, tf.int32), axis=1, output_type=tf.int32)  # highest value
    step = (height * width - tf.gather(histogram, last, axis=1, batch_dims=1))[:, None] // 255
    values = tf.range(256)
    spread = (tf.cumsum(histogram, axis=1, exclusive=True) + step // 2) // tf.maximum(step, 1)
    return look_up(image, tf.where(step > 0, tf.minimum(spread, 255), values))


def posterize(image: tf.Tensor, arguments: tf.Tensor) -> tf.Tensor:
    """Only the highest bits are kept."""
    lost = 8 - tf.minimum(tf.cast(arguments[0], tf.int32), 8)
    return tf.bitwise.bitwise_and(image, tf.cast(256 - tf.bitwise.left_shift(1, lost), tf.uint8))


def solarize(image: tf.Tensor, arguments: tf.Tensor) -> tf.Tensor:
    """Values from a threshold on are inverted; one of 256, which uint8 does not hold, inverts none."""
    return tf.where(tf.cast(image, tf.int16) < tf.cast(arguments[0], tf.int16), image, 255 - image)


def solarize_add(image: tf.Tensor, arguments: tf.Tensor) -> tf.Tensor:
    """Dark values are raised."""
    most = 255 - tf.minimum(tf.cast(arguments[0], tf.int32), 255)
    raised = tf.minimum(image, tf.cast(most, tf.uint8)) + tf.cast(255 - most, tf.uint8)
    return tf.where(image < 128, raised, image)


def color(image: tf.Tensor, arguments: tf.Tensor) -> tf.Tensor:
    """Away from grey, or towards it."""
    grey = luma(image)
    return tf.stack([blend(grey, channel, arguments[0]) for channel in tf.unstack(image, axis=2)], axis=2)


def contrast(image: tf.Tensor, arguments: tf.Tensor) -> tf.Tensor:
    """Away from the mean grey, or towards it."""
    height, width, _ = size_of(image)
    mean = tf.cast(tf.reduce_sum(tf.cast(luma(image), tf.int64)), tf.float64) / (height * width)
    return blend(tf.floor(mean + 0.5), image, arguments[0])


def sharpness(image: tf.Tensor, arguments: tf.Tensor) -> tf.Tensor:
    """Away from the smoothed image, or towards it; the outermost pixels stay as they are."""
    height, width, channels = size_of(image)
    if height < 3 or width < 3:
        return image
    values = tf.cast(tf.reshape(image, [height, width * channels]), tf.float32)
    column = values[:-2] + values[1:-1] + values[2:]
    box = column[:, : -2 * channels] + column[:, channels:-channels] + column[:, 2 * channels :]
    inner = values[1:-1, channels:-channels]
    smooth = tf.floor((box + 4 * inner) / 13 + 0.5)  # 13 is odd: never half-way, so float32 rounds as Pillow does
    low = smooth + tf.cast(arguments[0], tf.float32) * (inner - smooth)
    middle = tf.concat([values[1:-1, :channels], low, values[1:-1, -channels:]], axis=1)
    return tf.reshape(to_bytes(tf.concat([values[:1], middle, values[-1:]], axis=0)), image.shape)


def cutout(image: tf.Tensor, arguments: tf.Tensor, fill: Fill) -> tf.Tensor:
    """A square around a point of the image is filled."""
    height, width, _ = size_of(image)
    half, y, x = tf.unstack(tf.cast(arguments * tf.constant([1, height, width], tf.float64), tf.int32))
    rows, columns = tf.range(height)[:, None], tf.range(width)[None]
    inside = (rows >= y - half) & (rows < y + half) & (columns >= x - half) & (columns < x + half)
    return tf.where(inside[:, :, None], tf.constant(fill, tf.uint8), image)
