"""One encoded image to the array that a model takes, with Pillow and NumPy alone: both transforms of `preprocessing`.

Images lie as they are stored: like timm and the TensorFlow releases, nothing here turns them by their EXIF orientation.
"""

import io
import math
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from jeffnet.data import image_ops
from jeffnet.data.augmentation import Augmentation, Draw, random_crop
from jeffnet.data.jpeg import decode_box
from jeffnet.data.preprocessing import Preprocessing, crop_offset, normalise, resized_size, tf_crop
from jeffnet.data.settings import Box, Size
from jeffnet.data.source import DataError

FILTERS = {'bicubic': Image.Resampling.BICUBIC, 'bilinear': Image.Resampling.BILINEAR}
REACH = {'bicubic': 2, 'bilinear': 1}  # pixels on either side, of the larger of both sizes
TABLE_SIZE = 1024  # steps per pixel of TensorFlow's table of bicubic weights
PNG = b'\x89PNG\r\n\x1a\n'
DEEP_GREY = ('I', 'I;16', 'I;16L', 'I;16B', 'I;16N')


def load_image(path: str | os.PathLike, source: Any, **overrides: Any) -> np.ndarray:
    """An image file as a model takes it, float32 `[1, H, W, C]`, normalised.

    `source` is the name of a model, a `ModelInfo`, a `Preprocessing`, or the `preprocessing` of a checkpoint; fields
    can be overridden. Raises FileNotFoundError, DataError for a file that is no image, ValueError for an unknown name,
    or TypeError for any other source.
    """
    preprocessing = Preprocessing.of(source, **overrides)
    if not os.path.isfile(path):
        raise FileNotFoundError(f'{os.fspath(path)}: no such image file')
    with readable(os.fspath(path)), open(path, 'rb') as file:
        return evaluation_image(file.read(), preprocessing)[None]


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Whatever reading and decoding raise in here becomes a DataError that names the image."""
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError, IndexError, Image.DecompressionBombError) as error:  # plug-ins raise any
        cause = str(error).replace('cannot identify image file', 'no image format that is known')
        cause = re.sub(r' <_io\.BytesIO object at \w+>', '', cause)  # another one in each run
        raise DataError(f'{name}: cannot be read as an image ({cause})') from error


def evaluation_image(data: bytes, preprocessing: Preprocessing) -> np.ndarray:
    """An encoded image -> float32 [h, w, C], normalised."""
    target, interpolation = preprocessing.image_size, preprocessing.interpolation
    if preprocessing.kind == 'tf':
        pixels = decode_as_tf(data, lambda height, width: tf_crop(height, width, preprocessing), preprocessing.in_chans)
        return normalise(tf_resize(pixels, target, interpolation), preprocessing)
    image = decode(data, preprocessing.in_chans)
    size = resized_size(image.height, image.width, preprocessing)
    top, left = (crop_offset(whole, part) for whole, part in zip(size, target, strict=True))
    return normalise(array(resized_box(image, size, (top, left, *target), interpolation)), preprocessing)


def decode(data: bytes, in_chans: int = 3) -> Image.Image:
    """An RGB or grey image; grey comes from RGB for every format, since JPEG's own grey differs from it by rounding."""
    with opened(data) as image:
        return to_colours(image, in_chans)


def opened(data: bytes) -> Image.Image:
    """An encoded image, its pixels not yet decoded."""
    if data.startswith(PNG):
        check_png(data)
    return Image.open(io.BytesIO(data))


def check_png(data: bytes) -> None:
    """Raises ValueError for a damaged chunk; Pillow stops with the last row and would miss it, TensorFlow does not."""
    place = len(PNG)
    while place + 12 <= len(data):
        size, kind = struct.unpack('>I4s', data[place : place + 8])
        end = place + 8 + size
        if kind[:1].isupper() and data[end : end + 4] != struct.pack('>I', zlib.crc32(data[place + 4 : end])):
            raise ValueError(f'bad checksum of its {kind.decode("ascii", "replace")} chunk')
        if kind == b'IEND':
            return
        place = end + 4
    raise ValueError('the file is cut off')


def to_colours(image: Image.Image, in_chans: int) -> Image.Image:
    """RGB (3 channels) or grey (1) of any kind of image, in 8 bits; transparency is dropped."""
    if image.mode in DEEP_GREY:  # the high byte, as TensorFlow; Pillow itself would cut at white
        values = np.asarray(image)
        if values.min() < 0 or values.max() >= 2**16:
            raise ValueError('more than 16 bits per pixel')
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == 'F':
        raise ValueError('floating-point pixels')
    image.info.pop('transparency', None)  # else Pillow warns that it is lost, once for each such palette
    image.load()
    colour = image if image.mode == 'RGB' else image.convert('RGB')  # which would copy RGB
    return colour if in_chans == 3 else colour.convert('L')


def decode_as_tf(data: bytes, box_of: Callable[[int, int], Box], in_chans: int) -> np.ndarray:
    """The box of an encoded image that `box_of(H, W)` gives, uint8 [h, w, C]; JPEG as TensorFlow decodes it."""
    with opened(data) as image:
        box = box_of(image.height, image.width)
        if not isinstance(image, JpegImageFile):
            return array(crop(to_colours(image, in_chans), box))
        pixels = decode_box(image, box)
    return pixels if in_chans == 3 else array(Image.fromarray(pixels).convert('L'))


def training_image(data: bytes, draw: Draw, preprocessing: Preprocessing, augmentation: Augmentation) -> np.ndarray:
    """An encoded image -> float32 [h, w, C]: random resized crop, flips, operations, normalised."""
    target, interpolation = preprocessing.image_size, 'bicubic' if draw.bicubic else 'bilinear'

    def box_of(height, width):
        return random_crop(height, width, draw.crops, augmentation.ratio)

    if preprocessing.kind == 'tf':
        pixels = tf_resize(decode_as_tf(data, box_of, preprocessing.in_chans), target, interpolation)
        pixels = pixels[:: -1 if draw.vflip else 1, :: -1 if draw.hflip else 1]
        if not augmentation.changes_values:
            return normalise(pixels, preprocessing)
        # Rounded, where the TensorFlow releases cut off: sums such as 89.99999 would make noise of flat areas.
        image = image_ops.picture(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    else:
        image = decode(data, preprocessing.in_chans)
        image = resize(crop(image, box_of(image.height, image.width)), target, interpolation)
        image = image_ops.flip(image, draw.hflip, draw.vflip)
    if augmentation.changes_values:
        image = image_ops.carry_out(image, draw, augmentation, augmentation.fill(preprocessing))
    return normalise(array(image), preprocessing)


def crop(image: Image.Image, box: Box) -> Image.Image:
    """The box (top, left, height, width) of an image."""
    top, left, height, width = box
    return image.crop((left, top, left + width, top + height))


def resize(image: Image.Image, size: Size, interpolation: str) -> Image.Image:
    """Pillow's resize with the horizontal pass first: Pillow 13 by itself would reverse the passes for some shapes."""
    height, width = size
    return image.resize((width, image.height), FILTERS[interpolation]).resize((width, height), FILTERS[interpolation])


def resized_box(image: Image.Image, size: Size, box: Box, interpolation: str) -> Image.Image:
    """The box (top, left, height, width) of `resize(image, size)`, bit for bit, without computing most of the rest."""
    first, last = rows_read(image.height, size, box, interpolation)
    rows = crop(image, (first, 0, last - first, image.width))
    return resized_rows(rows, first, image.height, size, box, interpolation)


def rows_read(height: int, size: Size, box: Box, interpolation: str) -> tuple[int, int]:
    """The rows, from the first to before the last, of an image of so many that a box of its resize depends on."""
    scale = height / size[0]
    reach = 2 + REACH[interpolation] * max(scale, 1)
    return max(0, math.floor(box[0] * scale - reach)), min(height, math.ceil((box[0] + box[2]) * scale + reach))


def resized_rows(rows: Image.Image, first: int, whole: int, size: Size, box: Box, interpolation: str) -> Image.Image:
    """`resized_box` of an image of `whole` rows, of which only those of `rows_read` are given.

    The vertical pass takes the columns of the box alone. The rows that it does not read are black: Pillow's weights
    depend on the height, so it must stay.
    """
    top, left, height, width = box
    wide = rows.resize((size[1], rows.height), FILTERS[interpolation])
    columns = crop(wide, (-first, left, whole, width)).resize((width, size[0]), FILTERS[interpolation])
    return crop(columns, (top, 0, height, width))


def array(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, C], with a channel axis for grey too."""
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def tf_resize(image: np.ndarray, size: Size, interpolation: str) -> np.ndarray:
    """tf.image.resize without antialiasing: uint8 [H, W, C] -> float32 [h, w, C]; bicubic may leave 0..255."""
    rows, columns = (tf_taps(n_in, n_out, interpolation) for n_in, n_out in zip(image.shape[:2], size, strict=True))
    low = weigh(image.astype(np.float32), *rows)
    # Turned, so that a column is a run of memory.
    return weigh(np.ascontiguousarray(low.transpose(1, 0, 2)), *columns).transpose(1, 0, 2)


def weigh(image: np.ndarray, index: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Sums along the first axis, float32 [N, M, C] -> [n, M, C]; `index` and `weight` are those of `tf_taps`."""
    total = weight[0][:, None, None] * image[index[0]]
    for places, factors in zip(index[1:], weight[1:], strict=True):
        total += factors[:, None, None] * image[places]
    return total


def tf_taps(n_in: int, n_out: int, interpolation: str) -> tuple[np.ndarray, np.ndarray]:
    """Input indices [T, n_out] and float32 weights [T, n_out] of one axis, as TensorFlow computes them, in float32.

    Bicubic (a = -1/2) reads its weights at 1024 steps per pixel; taps outside the image get none, the others all.
    """
    half, scale = np.float32(0.5), np.float32(n_in) / np.float32(n_out)
    place = (np.arange(n_out, dtype=np.float32) + half) * scale - half
    floor = np.floor(place)
    if interpolation == 'bilinear':
        index = np.stack([floor, np.ceil(place)])
        weight = np.stack([1 - (place - floor), place - floor])
    else:
        x = np.rint((place - floor) * TABLE_SIZE) / np.float32(TABLE_SIZE)
        index = floor + np.arange(-1, 3)[:, None]
        near, far = np.stack([x, 1 - x]), np.stack([1 + x, 2 - x])
        near, far = (1.5 * near - 2.5) * near * near + 1, ((-0.5 * far + 2.5) * far - 4) * far + 2
        weight = np.stack([far[0], near[0], near[1], far[1]]) * ((index >= 0) & (index < n_in))
        weight = weight / weight.sum(axis=0)
    return np.clip(index, 0, n_in - 1).astype(np.int64), weight.astype(np.float32)
