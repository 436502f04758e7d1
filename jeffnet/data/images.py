"""One image file to the array that a model takes, with Pillow and NumPy alone: both transforms of `preprocessing`."""

import os
from typing import Any

import numpy as np
from PIL import Image

from jeffnet.data.folder import DataError
from jeffnet.data.preprocessing import (
    Augmentation,
    Box,
    Preprocessing,
    Size,
    crop_offset,
    normalise,
    random_crop,
    resized_size,
    tf_crop,
)

FILTERS = {'bicubic': Image.Resampling.BICUBIC, 'bilinear': Image.Resampling.BILINEAR}
TABLE_SIZE = 1024  # steps per pixel of TensorFlow's table of bicubic weights


def load_image(path: str | os.PathLike, source: Any, **overrides: Any) -> np.ndarray:
    """An image file as a model takes it, float32 `[1, H, W, C]`, normalised.

    `source` is a `Preprocessing`, a `ModelInfo`, or the `preprocessing` of a checkpoint; fields can be overridden.
    Raises FileNotFoundError, or DataError for a file that is no image.
    """
    preprocessing = Preprocessing.of(source, **overrides)
    if not os.path.isfile(path):
        raise FileNotFoundError(f'{os.fspath(path)}: no such image file')
    return evaluation_image(decode(path, preprocessing), preprocessing)[None]


def decode(path: str | os.PathLike, preprocessing: Preprocessing) -> Image.Image:
    """An RGB or grey image; grey comes from RGB for every format, since JPEG's own grey differs from it by rounding."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith('I'):  # 16-bit grey: the high byte, as TensorFlow; Pillow would cut at white
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            colour = image.convert('RGB')
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's plug-ins raise any
        raise DataError(f'{os.fspath(path)}: cannot be read as an image ({error})') from error
    return colour if preprocessing.in_chans == 3 else colour.convert('L')


def evaluation_image(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """An image -> float32 [h, w, C], normalised."""
    target, interpolation = preprocessing.image_size, preprocessing.interpolation
    if preprocessing.kind == 'pil':
        size = resized_size(image.height, image.width, preprocessing)
        top, left = (crop_offset(whole, part) for whole, part in zip(size, target, strict=True))
        pixels = array(crop(resize(image, size, interpolation), (top, left, *target)))
    else:
        box = tf_crop(image.height, image.width, preprocessing)
        pixels = tf_resize(array(crop(image, box)), target, interpolation)
    return normalise(pixels, preprocessing)


def training_image(
    image: Image.Image, crops: np.ndarray, flip: bool, preprocessing: Preprocessing, augmentation: Augmentation
) -> np.ndarray:
    """An image -> float32 [h, w, C]: random resized crop, flip, normalised."""
    target, interpolation = preprocessing.image_size, augmentation.interpolation or preprocessing.interpolation
    cropped = crop(image, random_crop(image.height, image.width, crops, augmentation.ratio))
    if preprocessing.kind == 'pil':
        pixels = array(resize(cropped, target, interpolation))
    else:
        pixels = tf_resize(array(cropped), target, interpolation)
    return normalise(pixels[:, ::-1] if flip else pixels, preprocessing)


def crop(image: Image.Image, box: Box) -> Image.Image:
    """The box (top, left, height, width) of an image."""
    top, left, height, width = box
    return image.crop((left, top, left + width, top + height))


def resize(image: Image.Image, size: Size, interpolation: str) -> Image.Image:
    """Pillow's resize with the horizontal pass first: Pillow 13 by itself would reverse the passes for some shapes."""
    height, width = size
    return image.resize((width, image.height), FILTERS[interpolation]).resize((width, height), FILTERS[interpolation])


def array(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, C], with a channel axis for grey too."""
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def tf_resize(image: np.ndarray, size: Size, interpolation: str) -> np.ndarray:
    """tf.image.resize without antialiasing: uint8 [H, W, C] -> float32 [h, w, C]; bicubic may leave 0..255."""
    rows, columns = (tf_taps(n_in, n_out, interpolation) for n_in, n_out in zip(image.shape[:2], size, strict=True))
    down = np.sum([weight[:, None, None] * image[index] for index, weight in zip(*rows, strict=True)], axis=0)
    return np.sum([weight[:, None] * down[:, index] for index, weight in zip(*columns, strict=True)], axis=0)


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
