"""What a set of labelled images is to the readers, and the error of a faulty one."""

from typing import Protocol

import numpy as np


class DataError(ValueError):
    """The data set is at fault, not the program: the message names the path, the cause and what to do."""


class Source(Protocol):
    """Labelled images, still encoded, that can be read in any order, from several processes."""

    classes: list[str]  # class names by label
    labels: np.ndarray  # int32 [N]

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What messages call this image: its path, or archive and member."""
        ...

    def read(self, index: int) -> bytes:
        """The image file's content; OSError or DataError if it cannot be had."""
        ...


BAD_IMAGE = ('error', 'skip')  # what a reader does with an image that cannot be read


def check_bad_image(choice: str) -> None:
    """Raises ValueError for a choice that is none."""
    if choice not in BAD_IMAGE:
        raise ValueError(f'on_bad_image is {choice!r}; allowed: {", ".join(BAD_IMAGE)}')
