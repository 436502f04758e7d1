"""JPEG decoding as `tf.io.decode_and_crop_jpeg` does it, bit for bit, on Pillow and NumPy.

Published TensorFlow numbers were measured on such pixels: libjpeg's fast DCT, and only the box of a centre crop
decoded, whose border columns miss their neighbours' colours. Pillow can run the fast DCT but then repeats colour
samples instead of interpolating them; so it is asked for the samples as they are stored, and the rest of libjpeg-turbo
follows here: interpolation ("fancy upsampling") and YCbCr to RGB, in whole numbers.
"""

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from jeffnet.data.preprocessing import Box

FAST_DCT = (1, 1)  # Pillow's decoder settings: full size, JDCT_IFAST without interpolation of colours
BLOCK = 8  # pixels along a side of a DCT block

_offset = np.arange(256, dtype=np.int32) - 128
RED = (91881 * _offset + 32768) >> 16  # 1.402 Cr
BLUE = (116130 * _offset + 32768) >> 16  # 1.772 Cb
GREEN_CB = -22554 * _offset + 32768  # 0.34414 Cb, and half a unit for rounding
GREEN_CR = -46802 * _offset  # 0.71414 Cr


def decode_box(image: JpegImageFile, box: Box) -> np.ndarray:
    """The box (top, left, height, width) of an opened JPEG file, uint8 [height, width, 3]."""
    top, left, height, width = box
    rows, columns = slice(top, top + height), slice(left, left + width)
    if image.mode == 'CMYK':
        return from_cmyk(stored(image, 'CMYK')[rows, columns], 'adobe' in image.info)
    if image.mode == 'L':
        return np.repeat(stored(image, 'L')[rows, columns, None], 3, axis=2)
    if holds_rgb(image):
        return stored(image, 'RGB')[rows, columns]
    factors = [(horizontal, vertical) for _, horizontal, vertical, _ in image.layer]
    samples = stored(image, 'YCbCr')
    luma, *chroma = (plane(samples[..., i], factors[i], factors, box) for i in range(3))
    return to_rgb(luma, *chroma)


def stored(image: JpegImageFile, mode: str) -> np.ndarray:
    """The samples of the whole image with the fast DCT, uint8 [H, W] or [H, W, C]; colours repeated to full size."""
    if mode == 'YCbCr':
        image.draft(mode, image.size)
    image.decoderconfig = FAST_DCT
    return np.asarray(image)


def holds_rgb(image: JpegImageFile) -> bool:
    """Whether libjpeg takes the three components for RGB, which is rare: by the Adobe marker, or their names."""
    if 'jfif' in image.info:
        return False
    if 'adobe' in image.info:
        return image.info.get('adobe_transform') == 0
    return [component for component, *_ in image.layer] == [ord(c) for c in 'RGB']


def plane(samples: np.ndarray, factor: tuple[int, int], factors: list[tuple[int, int]], box: Box) -> np.ndarray:
    """One component of the box at full size, uint8 [height, width]; `samples` has them repeated, [H, W].

    libjpeg decodes from the block that holds the box's first column; what is left of it or right of the box's last
    column does not exist for the interpolation, what is above or below does.
    """
    top, left, height, width = box
    across, down = (max(sizes) // own for sizes, own in zip(zip(*factors, strict=True), factor, strict=True))
    start = left - left % (BLOCK * max(horizontal for horizontal, _ in factors))
    # libjpeg repeats samples where it has too few columns: of the whole image when it starts, or after cutting it.
    narrow = -(-samples.shape[1] // across) <= 2 or left + width - start <= across
    if (across, down) not in ((1, 2), (2, 1), (2, 2)) or (across == 2 and narrow):
        return samples[top : top + height, left : left + width]
    values = samples[:, start : left + width : across].astype(np.int32)
    values = interpolate_rows(values[::2], top, height) if down == 2 else values[top : top + height]
    full = rounded_rows(values, top) if across == 1 else interpolate_columns(values, 4 if down == 2 else 1)
    return full[:, left - start : left + width - start].astype(np.uint8)


def interpolate_rows(values: np.ndarray, top: int, height: int) -> np.ndarray:
    """Rows top to top + height of twice as many, each 3 parts of its own stored row and 1 of the nearer neighbour."""
    row = np.arange(top, top + height)
    near = np.clip(row // 2 + np.where(row % 2, 1, -1), 0, len(values) - 1)
    return 3 * values[row // 2] + values[near]


def rounded_rows(values: np.ndarray, top: int) -> np.ndarray:
    """Quarters of `interpolate_rows` to whole samples: even rows round half down, odd ones half up."""
    bias = 1 + (np.arange(top, top + len(values)) % 2)
    return (values + bias[:, None]) >> 2


def interpolate_columns(values: np.ndarray, parts: int) -> np.ndarray:
    """Twice as many columns, each 3 parts of its own stored column and 1 of the nearer one; the outermost are alone.

    `values` count 1 / `parts` of a sample. As in libjpeg, halves are rounded now down, now up.
    """
    before = np.concatenate([values[:, :1], values[:, :-1]], axis=1)
    after = np.concatenate([values[:, 1:], values[:, -1:]], axis=1)
    bits, even, odd = (4, 8, 7) if parts == 4 else (2, 1, 2)
    out = np.empty((values.shape[0], 2 * values.shape[1]), np.int32)
    out[:, ::2] = (3 * values + before + even) >> bits
    out[:, 1::2] = (3 * values + after + odd) >> bits
    return out


def to_rgb(luma: np.ndarray, cb: np.ndarray, cr: np.ndarray) -> np.ndarray:
    """Full-range BT.601 in libjpeg's 16-bit fixed point, three uint8 [H, W] -> uint8 [H, W, 3]."""
    out = np.empty((*luma.shape, 3), np.int32)
    out[..., 0] = RED[cr]
    out[..., 1] = (GREEN_CB[cb] + GREEN_CR[cr]) >> 16
    out[..., 2] = BLUE[cb]
    out += luma[..., None]
    return np.clip(out, 0, 255).astype(np.uint8)


def from_cmyk(inverted: np.ndarray, adobe: bool) -> np.ndarray:
    """TensorFlow's conversion, uint8 [H, W, 4] -> uint8 [H, W, 3]; Pillow inverts, as if all files were Adobe's."""
    ink = 255 - inverted.astype(np.int32)
    if not adobe:
        ink = 255 - ink
    return (ink[..., :3] * ink[..., 3:] // 255).astype(np.uint8)
