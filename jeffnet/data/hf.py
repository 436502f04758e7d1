"""Images of a Hugging Face `datasets` set: on the hub, in a folder that `save_to_disk` wrote, or in a local folder."""

import importlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from jeffnet.data.folder import SYNONYMS
from jeffnet.data.source import DataError
from jeffnet.data.tar_index import number_labels

IMAGES = ('image', 'img', 'jpg', 'jpeg', 'png', 'webp')  # the last four: what WebDataset shards become
LABELS = ('label', 'labels', 'fine_label', 'cls')


class HubDataset:
    """One split of a set; the rows stay in its memory-mapped files, and a worker process maps them by itself."""

    def __init__(self, rows: Any, where: str, labels: np.ndarray, classes: list[str]):
        self.rows = rows  # a datasets.Dataset with one column, of images that are not decoded
        self.where = where
        self.labels, self.classes = labels, classes

    @classmethod
    def open(
        cls,
        name: str | os.PathLike,
        split: str | None = 'validation',
        classes: Sequence[str] | None = None,
        *,
        config: str | None = None,
        revision: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
    ) -> 'HubDataset':
        """Opens a set by its hub name (`owner/name`) or its folder; `config` is the subset, where there are several.

        A hub name is downloaded and prepared on first use, with all its splits. `split` None: validation, or the only
        split. Columns are found by type, then by name. Classes are `classes`, else those of the label column. Raises
        FileNotFoundError for a missing set or split, DataError for an unusable one.
        """
        name = os.fspath(name)
        splits = load_splits(name, config, revision)
        chosen = choose_split(splits, split, name)
        table, where = splits[chosen], f'{name}[{chosen}]' if chosen else name
        if not len(table):
            raise DataError(f'{where}: holds no images; choose another split')
        features = table.features
        image = image_column or find_column(features, where, 'image', ('Image',), IMAGES)
        label = label_column or find_column(features, where, 'label', ('ClassLabel',), LABELS)
        for key, column in (('image_column', image), ('label_column', label)):
            if column not in features:
                raise DataError(f'{where}: has no column {column!r}; give {key} one of {", ".join(features)}')
        files = cls(encoded(table, image, where), where, np.empty(0, np.int32), [])
        files.labels, files.classes = column_labels(table, label, classes, files)
        return files

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """The set, its split and the row, with the name of the file where the set keeps it."""
        index = range(len(self))[index]
        row = self.rows.with_format('arrow')[index : index + 1].column(0)[0]  # without a copy of the image
        path = row['path'].as_py() if row.is_valid else None
        return f'{self.where}::{index}' + (f' ({path})' if path else '')

    def read(self, index: int) -> bytes:
        """The image file's content; OSError or DataError if it cannot be had."""
        index = range(len(self))[index]
        (image,) = self.rows[index].values()
        if image is None or (image['bytes'] is None and not image['path']):
            raise DataError(f'{self.where}::{index}: has no image; remove this row')
        if image['bytes'] is not None:
            return image['bytes']
        if '://' in image['path']:
            raise DataError(
                f'{self.where}::{index}: only refers to {image["path"]}; download the set and give its folder'
            )
        with open(image['path'], 'rb') as file:
            return file.read()


def load_splits(name: str, config: str | None, revision: str | None) -> dict[str, Any]:
    """The sets of a name by split, '' for one that does not say which split it is."""
    try:
        datasets = importlib.import_module('datasets')
    except ModuleNotFoundError as error:
        missing = f'the package {error.name!r}, which is not installed; pip install datasets'
        raise DataError(f'{name}: Hugging Face data sets need {missing}') from error
    saved = any(os.path.isfile(os.path.join(name, file)) for file in ('state.json', 'dataset_dict.json'))
    try:
        if saved:
            found = datasets.load_from_disk(name, keep_in_memory=False)
        else:
            found = datasets.load_dataset(name, config, revision=revision, keep_in_memory=False)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
        cause = ' '.join(str(error).split())[:400] or type(error).__name__
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else DataError
        advice = (
            'save it anew with save_to_disk' if saved else 'check the name, config and revision, and log in if needed'
        )
        raise kind(f'{name}: cannot be loaded as a Hugging Face data set ({cause}); {advice}') from error
    if isinstance(found, datasets.DatasetDict):
        return {str(split): table for split, table in found.items()}
    folder = os.path.basename(os.path.abspath(name))
    known = {*sum(SYNONYMS.values(), ()), 'train', 'test'}
    return {str(found.split or (folder if folder in known else '')): found}


def choose_split(splits: dict[str, Any], split: str | None, name: str) -> str:
    """The split to take, by the name it has there."""
    for synonym in SYNONYMS.get(split or 'validation', (split or 'validation',)):
        if synonym in splits:
            return synonym
    if split is None and len(splits) == 1:
        return next(iter(splits))
    if splits.keys() == {''}:
        raise FileNotFoundError(f'{name}: does not tell which split it is; give split=None to take it as it is')
    there = f'splits there: {", ".join(splits)}'
    if split is None:
        raise FileNotFoundError(f'{name}: has several splits; give one of them; {there}')
    raise FileNotFoundError(f'{name}: has no split {split!r}; {there}')


def find_column(features: Any, where: str, what: str, kinds: tuple[str, ...], names: tuple[str, ...]) -> str:
    """The one column of a kind, else the first of the usual names, among that kind where there are several."""
    typed = [column for column, feature in features.items() if type(feature).__name__ in kinds]
    if len(typed) == 1:
        return typed[0]
    for name in names:
        if name in (typed or features):
            return name
    cause = f'has several {what} columns' if typed else f'has no {what} column'
    raise DataError(f'{where}: {cause}; give {what}_column one of {", ".join(features)}')


def encoded(table: Any, column: str, where: str) -> Any:
    """The image column alone, as {'bytes', 'path'} of the files, not as pixels."""
    datasets = importlib.import_module('datasets')
    feature = table.features[column]
    files = isinstance(feature, datasets.Image) or getattr(feature, 'dtype', '') in ('binary', 'large_binary', 'string')
    if not files and not (isinstance(feature, dict) and {'bytes', 'path'} <= feature.keys()):
        kind = f'column {column!r} holds {type(feature).__name__} values, not image files'
        raise DataError(f'{where}: {kind}; give another image_column, or store it as datasets.Image()')
    # A format such as 'torch', kept by save_to_disk, would give tensors.
    return table.with_format(None).select_columns([column]).cast_column(column, datasets.Image(decode=False))


def column_labels(
    table: Any, column: str, classes: Sequence[str] | None, files: HubDataset
) -> tuple[np.ndarray, list[str]]:
    """Labels as int32 [N], and the class names, from a column of class numbers or names."""
    feature = table.features[column]
    names = getattr(feature, 'names', None)
    kind = str(getattr(feature, 'dtype', type(feature).__name__))
    if names is None and not kind.startswith(('int', 'uint', 'string', 'large_string')):
        raise DataError(f'{files.where}: column {column!r} holds {kind}, no class; give another label_column')
    # Only this column is read, as one table: row by row, the images would be read too.
    values = table.select_columns([column]).with_format('arrow')[:].column(column).to_pylist()
    if None in values:
        raise DataError(f'{files.name(values.index(None))}: has no label in column {column!r}; remove this row')
    asked = (list(classes), 'the classes asked for') if classes is not None else None
    if names is None:
        return number_labels(values, asked, files.name)
    labels, own = number_labels(values, (list(names), f'the class names of column {column!r}'), files.name)
    if asked is None or asked[0] == own:
        return labels, own
    return number_labels([own[label] for label in labels], asked, files.name)
