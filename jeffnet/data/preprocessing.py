"""Preprocessing as data, and the sizes and offsets that both readers compute from it.

Two transforms exist, because published numbers were measured with either:

- `pil`, as timm: accurate JPEG decoding, resize the short side (antialiased, 8 bit), then crop the centre;
- `tf`, as the TensorFlow releases: crop the centre, then resize without antialiasing, in float.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jeffnet.data.augmentation import Augmentation as Augmentation
from jeffnet.data.settings import CROP_MODES, INTERPOLATIONS, Box, Size, check, is_number
from jeffnet.models.table import ModelInfo, model_info

KINDS = ('pil', 'tf')
# Keras Applications' modes, by the names of the table: sizes as `pil`; what they make of the pixels is in mean and std.
KERAS: dict[str, str] = dict.fromkeys(('keras-caffe', 'keras-tf', 'keras-torch', 'keras-none', 'keras-centred'), 'pil')


def numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """The numbers of all channels, or None if the value is neither one number nor three; grey averages three."""
    values = tuple(value) if isinstance(value, (tuple, list, np.ndarray)) else (value,)
    if not all(is_number(v) for v in values) or len(values) not in (1, 3):
        return None
    if count == 1:
        return (float(sum(values)) / len(values),)
    return tuple(float(v) for v in values) * (count // len(values))


@dataclass(frozen=True)
class Preprocessing:
    """How an image file becomes the float32 [H, W, C] a model was trained for; bad values raise ValueError."""

    kind: str = 'pil'
    image_size: Size = (224, 224)  # (height, width); an int is taken for both
    crop_pct: float = 0.875  # share of the short side that the centre crop keeps
    interpolation: str = 'bicubic'
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of values in 0..1, in the order of the channels
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    in_chans: int = 3  # 3: decoded to RGB, 1: decoded to grey
    crop_mode: str = 'center'  # 'squash': both sides are resized by themselves, the shape of the image is lost
    bgr: bool = False  # whether colours are turned round at the end, as for networks from Caffe

    def __post_init__(self) -> None:
        size = self.image_size
        size = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
        whole = len(size) == 2 and all(isinstance(s, (int, np.integer)) and not isinstance(s, bool) for s in size)
        check('image_size', self.image_size, whole and min(size) > 0, 'a whole number above 0, or (height, width)')
        check('preprocessing', self.kind, self.kind in KINDS, ', '.join(KINDS))
        check('bgr', self.bgr, isinstance(self.bgr, bool), 'True or False')
        check('crop_pct', self.crop_pct, is_number(self.crop_pct) and 0 < self.crop_pct <= 1, 'above 0, at most 1')
        check('interpolation', self.interpolation, self.interpolation in INTERPOLATIONS, ', '.join(INTERPOLATIONS))
        check('crop_mode', self.crop_mode, self.crop_mode in CROP_MODES, ', '.join(CROP_MODES))
        check('in_chans', self.in_chans, self.in_chans in (1, 3), '1 (grey) or 3 (RGB)')
        mean, std = numbers(self.mean, self.in_chans), numbers(self.std, self.in_chans)
        check('mean', self.mean, mean is not None, 'one number, or one for each of the colours')
        check('std', self.std, std is not None and min(std) > 0, 'above 0; one number, or one for each of the colours')
        for name, value in (('image_size', tuple(int(s) for s in size)), ('mean', mean), ('std', std)):
            object.__setattr__(self, name, value)  # frozen: the settings are brought into one form only here

    @classmethod
    def of(cls, source: Any, **overrides: Any) -> 'Preprocessing':
        """That of a model (name, ModelInfo, or the dict of `to_dict`), with overrides; None overrides nothing."""
        source = model_info(source) if isinstance(source, str) else source
        names = {field.name for field in dataclasses.fields(cls)}
        if isinstance(source, cls):
            settings = source.to_dict()
        elif isinstance(source, Mapping):
            settings = dict(source)
        elif not isinstance(source, ModelInfo):
            known = 'the name of a model, a ModelInfo, a Preprocessing, or a dict of its fields'
            raise TypeError(f'preprocessing of {type(source).__name__}: expected {known}')
        else:
            settings = {
                name: getattr(source, name) for name in ('crop_pct', 'crop_mode', 'interpolation', 'mean', 'std')
            }
            kind = source.preprocessing
            settings |= {'kind': KERAS.get(kind, kind), 'bgr': kind == 'keras-caffe'}
            settings |= {'image_size': tuple(source.input_size[:2])}
        settings |= {name: value for name, value in overrides.items() if value is not None}
        unknown = sorted(settings.keys() - names)
        check('preprocessing field', unknown, not unknown, ', '.join(sorted(names)))
        return cls(**settings)

    def to_dict(self) -> dict[str, Any]:
        """The settings as a dict that JSON can hold, for the config of a checkpoint."""
        return dataclasses.asdict(self)

    def describe(self) -> str:
        """One line for people: the steps in their order."""
        height, width = self.image_size
        colour = 'grey' if self.in_chans == 1 else 'BGR' if self.bgr else 'RGB'
        squash = self.crop_mode == 'squash'
        if self.kind == 'pil':
            least = 'x'.join(map(str, least_size(self)))
            short = f'short side to {least.partition("x")[0]}' if height == width else f'to cover {least}'
            resize = f'squash to {least}' if squash else f'resize {short}'
            steps = f'{resize} ({self.interpolation}, antialiased), crop centre {height}x{width}'
        else:
            crop = f'crop centre {self.crop_pct:g}{" of each side" if squash else ""}'
            steps = f'{crop}, resize to {height}x{width} ({self.interpolation}, not antialiased)'
        mean, std = (', '.join(f'{v:g}' for v in values) for values in (self.mean, self.std))
        return f'{self.kind}: {colour}, {steps}, mean ({mean}), std ({std})'


def least_size(preprocessing: Preprocessing) -> Size:
    """The size that an image of `pil` covers after its resize, so that the crop keeps crop_pct of it."""
    height, width = preprocessing.image_size
    return math.floor(height / preprocessing.crop_pct), math.floor(width / preprocessing.crop_pct)


def resized_size(height: int, width: int, preprocessing: Preprocessing) -> Size:
    """Size after the resize of `pil`: `least_size` if it squashes, else what just covers it, in timm's rounding."""
    target = least_size(preprocessing)
    if preprocessing.crop_mode == 'squash':
        return target
    if target[0] == target[1]:  # the short side becomes the target, the long side is rounded down
        short = min(height, width)
        return target[0] * height // short, target[0] * width // short
    factor = min(height / target[0], width / target[1])
    return round(height / factor), round(width / factor)


def crop_offset(size: int, crop: int) -> int:
    """First row or column of the centre crop of `pil`, half-way cases to the even one.

    No padding is needed: with crop_pct <= 1 a resized image is never smaller than the crop.
    """
    return round((size - crop) / 2)


def covered_share(preprocessing: Preprocessing) -> float:
    """The share of the short side that `tf` crops.

    Published crop_pct values are S / (S + 32) rounded or cut to three places; the TensorFlow releases crop by the exact
    ratio.
    """
    height, width = preprocessing.image_size
    exact = height / (height + 32)
    rounded = height == width and abs(preprocessing.crop_pct - exact) < 1e-3
    return exact if rounded else preprocessing.crop_pct


def tf_crop(height: int, width: int, preprocessing: Preprocessing) -> Box:
    """The centre crop of `tf`: the covered share of the largest box of the target's shape, or of all if it squashes."""
    share, (target_height, target_width) = covered_share(preprocessing), preprocessing.image_size
    largest = height, width
    if preprocessing.crop_mode == 'center':
        ratio = target_height / target_width
        largest = min(height, width * ratio), min(width, height * (target_width / target_height))
    crop_height, crop_width = (max(1, int(share * side)) for side in largest)
    return (height - crop_height + 1) // 2, (width - crop_width + 1) // 2, crop_height, crop_width


def normalise(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """(image / 255 - mean) / std in float32, the order of torchvision, [H, W, C] of 0..255 -> [H, W, C]."""
    height, width, channels = image.shape
    if preprocessing.bgr:
        image = image[:, :, ::-1]
    # Whole rows and in place: with a last axis of three, NumPy takes ten times as long.
    mean, std = (np.tile(np.array(values, np.float32), width) for values in (preprocessing.mean, preprocessing.std))
    rows = image.reshape(height, width * channels).astype(np.float32)
    rows /= np.float32(255)
    rows -= mean
    rows /= std
    return rows.reshape(height, width, channels)
