"""What the settings of `preprocessing` and `augmentation` share: their types, and the check of a value."""

import math
from typing import Any

import numpy as np

INTERPOLATIONS = ('bicubic', 'bilinear')
CROP_MODES = ('center', 'squash')  # timm's words

Size = tuple[int, int]  # (height, width)
Box = tuple[int, int, int, int]  # (top, left, height, width)


def check(name: str, value: Any, passes: bool, allowed: str) -> None:
    """Raises the one ValueError of a bad setting: its name, its value and what is allowed."""
    if not passes:
        raise ValueError(f'{name} is {value!r}; allowed: {allowed}')


def is_number(value: Any) -> bool:
    """Whether value is a finite real number; JSON gives ints for floats, and True is not a number here."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)
