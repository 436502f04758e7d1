"""Which class of the model a label of the data means, and what counts as right."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jeffnet.data.imagenet import class_names, subset, synsets
from jeffnet.data.source import DataError

SUBSETS = ('imagenet-a', 'imagenet-r', 'present')


@dataclass(frozen=True)
class Labels:
    """How labels are read: `model_class` [data classes] and, if answers are restricted, the allowed `classes`."""

    model_class: np.ndarray
    classes: np.ndarray | None = None
    note: str | None = None  # for people

    @classmethod
    def match(
        cls,
        data: Sequence[str],
        model: Sequence[str] | int,
        class_map: dict[str, int] | None = None,
        valid: str | None = None,
    ) -> 'Labels':
        """Matches the class names of the data with those of the model, or with their mere number.

        By name where both have names, with WordNet ids meaning ImageNet's classes; by `class_map` if it is given; else
        label n is class n. Raises DataError for classes that the model does not have.
        """
        count = model if isinstance(model, int) else len(model)
        note = None
        if class_map is not None:
            found = by_name(data, class_map, 'the class map')
            if found.max() >= count:
                raise DataError(f'the class map goes up to class {found.max()}, the model has {count}')
        elif not isinstance(model, int):
            found = by_name(data, {name: i for i, name in enumerate(model)}, 'the model')
        elif count == len(synsets()) and all(re.fullmatch(r'n\d{8}', name) for name in data):
            found = by_name(data, {name: i for i, name in enumerate(synsets())}, 'ImageNet')
        elif len(data) > count:
            raise DataError(f'the data has {len(data)} classes, but the model knows only {count}')
        else:
            found = np.arange(len(data), dtype=np.int32)
            if len(data) < count:
                note = f'the data has {len(data)} classes, the model {count}: labels mean the first {len(data)}'
        allowed = valid_classes(valid, found, count)
        if allowed is None and note is None and len(set(found.tolist())) < count:
            note = f'{len(data)} of the {count} classes are in the data; --valid-labels present leaves the others out'
        return cls(found, allowed, note)


def by_name(data: Sequence[str], classes: dict[str, int], owner: str) -> np.ndarray:
    """The class of each name, int32; DataError for names that are not known."""
    unknown = [name for name in data if name not in classes]
    if unknown:
        count = f'{len(unknown)} of {len(data)} classes of the data'
        raise DataError(f'{owner} does not know {count}, such as {unknown[0]!r}; remove or rename them')
    return np.array([classes[name] for name in data], np.int32)


def valid_classes(valid: str | None, found: np.ndarray, count: int) -> np.ndarray | None:
    """The classes that answers are restricted to: a known subset, those in the data, or those listed in a file."""
    if valid is None:
        return None
    if valid == 'present':
        allowed = np.unique(found)
    elif valid in SUBSETS:
        if count != len(synsets()):
            raise DataError(f'--valid-labels {valid}: needs a model of ImageNet, this one has {count} classes')
        allowed = np.array(subset(valid))
    else:
        allowed = np.unique(read_numbers(Path(valid)))
    if allowed.min() < 0 or allowed.max() >= count:
        wrong = allowed.min() if allowed.min() < 0 else allowed.max()
        raise DataError(f'--valid-labels {valid}: names class {wrong}, the model has 0 to {count - 1}')
    missing = np.setdiff1d(found, allowed)
    if len(missing):
        raise DataError(f'--valid-labels {valid}: leaves out class {missing[0]}, which is in the data')
    return allowed.astype(np.int32)


def read_numbers(path: Path) -> list[int]:
    """Whole numbers or WordNet ids, one per line."""
    if not path.is_file():
        raise DataError(f'--valid-labels {path}: no such file; allowed: {", ".join(SUBSETS)}, or a file of classes')
    place = {name: i for i, name in enumerate(synsets())}
    try:
        found = [place[word] if word in place else int(word) for word in path.read_text().replace(',', ' ').split()]
    except ValueError:
        found = []
    if not found:
        raise DataError(f'--valid-labels {path}: expected one class number or WordNet id per line')
    return found


def read_class_map(path: Path) -> dict[str, int]:
    """Class numbers by name: a JSON object, or lines `name number`, or names whose line numbers from 0 count."""
    if not path.is_file():
        raise DataError(f'--class-map {path}: no such file')
    try:
        if path.suffix == '.json':
            return checked_map({str(name): number for name, number in json.loads(path.read_text()).items()})
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        pairs = [line.rsplit(maxsplit=1) for line in lines]
        if all(len(pair) == 2 and pair[1].isdecimal() for pair in pairs):
            found = {name: int(number) for name, number in pairs}
        else:
            found = {name: number for number, name in enumerate(lines)}
    except (ValueError, AttributeError, TypeError, UnicodeDecodeError) as error:
        raise DataError(f'--class-map {path}: expected names and numbers ({error})') from error
    if len(found) != len(lines) or not found:
        raise DataError(f'--class-map {path}: is empty, or names a class twice')
    return found


def checked_map(numbers: dict[str, Any]) -> dict[str, int]:
    """The map itself; ValueError for what is no class number."""
    for name, number in numbers.items():
        if type(number) is not int or number < 0:
            raise ValueError(f'{name!r} has {number!r}')
    if not numbers:
        raise ValueError('it is empty')
    return numbers


def readable_names(data: Sequence[str], model: Sequence[str] | int) -> list[str]:
    """Names of the model's classes for people."""
    if not isinstance(model, int):
        return list(model)
    if model == len(synsets()):
        return class_names()
    return list(data)
