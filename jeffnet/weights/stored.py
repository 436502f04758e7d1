"""An array in a file: its shape and type are known, its values are read when they are asked for.

Every format is read into a dict of these, so names and shapes are checked before anything large is allocated, and one
array at a time is in memory twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StoredArray:
    """Shape, type, and how to read the values (each time anew)."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @classmethod
    def of(cls, array: np.ndarray) -> 'StoredArray':
        """One that is in memory already."""
        return cls(array.shape, array.dtype, lambda: array)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def transpose(self, axes: Sequence[int]) -> 'StoredArray':
        """The array with its axes in another order."""
        return StoredArray(tuple(self.shape[a] for a in axes), self.dtype, lambda: self.read().transpose(axes))

    def reshape(self, shape: Sequence[int]) -> 'StoredArray':
        """The array with the same values in another shape."""
        return StoredArray(tuple(shape), self.dtype, lambda: self.read().reshape(shape))

    def mapped(self, function: Callable[[np.ndarray], np.ndarray], shape: Sequence[int]) -> 'StoredArray':
        """The array `function(values)`, which has this shape."""
        return StoredArray(tuple(shape), self.dtype, lambda: function(self.read()))
