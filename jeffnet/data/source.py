"""What a set of labelled images is to the readers, and what takes the place of an image that cannot be read."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from jeffnet.faults import DataError as DataError


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


MOST_BAD = 50  # images in a row that cannot be read, after which the set itself is taken to be at fault
BAD_IMAGE = ('error', 'skip')  # what a reader does with an image that cannot be read


def check_bad_image(choice: str) -> None:
    """Raises ValueError for a choice that is none."""
    if choice not in BAD_IMAGE:
        raise ValueError(f'on_bad_image is {choice!r}; allowed: {", ".join(BAD_IMAGE)}')


def substitute(
    prepare: Callable[[int], Any], index: int, size: int, on_bad_image: Callable[[str], None]
) -> tuple[Any, int]:
    """The next image of the set after `index` that can be read, as `prepare` gives it, and its place.

    It follows from the index alone, so that all processes and both readers take the same. `prepare` raises DataError
    for an image that cannot be read, and so does this after many in a row.
    """
    fault = ''
    for step in range(1, min(MOST_BAD, size - 1) + 1):
        other = (index + step) % size
        try:
            return prepare(other), other
        except DataError as error:
            fault = str(error)
            on_bad_image(fault)
    raise DataError(f'{min(MOST_BAD, size)} images in a row cannot be read, the last is {fault}')
