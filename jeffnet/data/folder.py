"""A folder of class folders: one sub-folder for each class, its images anywhere below it."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jeffnet.data.source import DataError as DataError

# Those of torchvision's ImageFolder.
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.ppm', '.pgm', '.tif', '.tiff')
SYNONYMS = {'validation': ('validation', 'val'), 'val': ('val', 'validation')}


@dataclass(frozen=True)
class ClassFolder:
    """The index of a set of images: paths in a fixed order, their labels int32 [N], and the class names by label."""

    root: Path
    paths: list[str]
    labels: np.ndarray
    classes: list[str]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The path of an image."""
        return self.paths[index]

    def read(self, index: int) -> bytes:
        """An image file's content."""
        with open(self.paths[index], 'rb') as file:
            return file.read()

    @classmethod
    def open(
        cls, data: str | os.PathLike, split: str | None = None, classes: Sequence[str] | None = None
    ) -> 'ClassFolder':
        """Indexes DATA, which holds class folders, or splits (train, validation or val) that do.

        Without a split, validation is taken where DATA has one. Labels follow the folder names in natural order, or
        `classes`, of which some may be absent. Raises FileNotFoundError for a missing folder, DataError for an unusable
        one.
        """
        root = split_folder(Path(data), split)
        found = [e.name for e in os.scandir(root) if e.is_dir() and not e.name.startswith('.')]
        found.sort(key=natural)
        if not found:
            raise DataError(f'{root}: holds no class folders; expected one sub-folder of images for each class')
        unknown = [name for name in found if classes is not None and name not in classes]
        if unknown:
            count = f'{len(unknown)} of {len(found)} class folders'
            raise DataError(f'{root}: the model does not know {count}, such as {unknown[0]!r}; remove or rename them')
        names = list(classes) if classes is not None else found
        images = {name: image_paths(root / name) for name in found}
        empty = [name for name in found if not images[name]]
        if empty:
            kinds = ', '.join(EXTENSIONS)
            raise DataError(f'{root / empty[0]}: holds no image ({kinds}); add images or remove this class folder')
        paths = [path for name in names for path in images.get(name, [])]
        labels = np.repeat(np.arange(len(names), dtype=np.int32), [len(images.get(name, [])) for name in names])
        return cls(root, paths, labels, names)


def natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """Sorts '2' before '10', as timm does: the class folders of ImageNet-V2 are '0' to '999'."""
    return [(text.lower(), int(number or 0)) for text, number in re.findall(r'(\D*)(\d*)', name)], name


def split_folder(data: Path, split: str | None) -> Path:
    """The folder of a split: DATA/split, or DATA itself when no split is asked for and it has no validation folder."""
    if not data.exists():
        raise FileNotFoundError(f'{data}: no such folder; give a folder of class folders, or the parent of validation/')
    if not data.is_dir():
        raise DataError(f'{data}: is a file; give a folder of class folders')
    names = SYNONYMS.get(split or 'validation', (split or 'validation',))
    for name in names:
        if (data / name).is_dir():
            return data / name
    if split is None or data.name in names:  # DATA is the split's own folder already
        return data
    raise FileNotFoundError(f'{data}: has no folder {split!r}; give the parent of that folder, or leave the split out')


def image_paths(folder: Path) -> list[str]:
    """The sorted paths of all images below a folder."""
    return sorted(found_images(folder, frozenset()))


def found_images(folder: str | os.PathLike, parents: frozenset[str]) -> Iterator[str]:
    """The paths of all images below a folder; links are followed, unless they lead back to a folder above."""
    real = os.path.realpath(folder)
    if real in parents:
        return
    for entry in os.scandir(folder):
        if entry.name.startswith('.'):  # macOS leaves ._name beside a file
            continue
        if entry.is_dir():
            yield from found_images(entry.path, parents | {real})
        # A link that leads nowhere is a fault of the set, to be named when it is read.
        elif entry.name.lower().endswith(EXTENSIONS) and (entry.is_file() or entry.is_symlink()):
            yield entry.path
