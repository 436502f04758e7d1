"""Labelled images in files of records, read in any order: prepared TFDS sets, TFRecord files of TF-Slim and TPU code.

TensorFlow is needed for files behind a URL such as gs:// only. The checksums of images are not compared, as that would
take longer in Python than decoding them; a damaged image shows when it is decoded.
"""

import copy
import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol

import numpy as np

from jeffnet.data.folder import SYNONYMS
from jeffnet.data.imagenet import synsets
from jeffnet.data.records_index import PIECE, Files, Keys, Record, Window, bytes_value, features, frames, index
from jeffnet.data.source import DataError
from jeffnet.data.tar import TarFiles

NAMES = ('file_name', 'image/filename', 'filename')  # features with the name of the image file
SLIM = Keys('image/encoded', 'image/class/label')


class Records(Files, Protocol):
    """Files of records, of which a single one can be read."""

    def record(self, number: int, place: int, span: tuple[int, int], whole: bool) -> Record:
        """The record at a place in a file; `span` is its offset and size, `whole` says that all of it will be read."""
        ...


class RecordFiles:
    """A `Source` over records of tf.Example; each process opens the files for itself, when it first reads."""

    def __init__(self, files: Records, keys: Keys, classes: list[str], first: int = 0):
        """Lists the records of all files; `first` is the number that they give to class 0.

        Raises DataError for files that are cut short or no such files, and for a record without image or valid label.
        """
        known = index(files, keys)
        self.files, self.keys, self.classes = files, keys, classes
        self.start, self.places, self.counts = 0, known.places, known.counts
        self.labels = (known.labels - first).astype(np.int32)
        wrong = np.flatnonzero((known.labels < first) | (known.labels >= first + len(classes)))
        if len(wrong):
            allowed = f'{first} to {first + len(classes) - 1}, as there are {len(classes)} classes'
            cause = f'label {known.labels[wrong[0]]} in {keys.label!r}; allowed: {allowed}'
            raise DataError(f'{self.where(int(wrong[0]))}: {cause}; choose another split, or correct the class names')

    def between(self, start: int, stop: int) -> 'RecordFiles':
        """The records from `start` to `stop` (exclusive)."""
        part = copy.copy(self)
        part.start, part.places, part.labels = self.start + start, self.places[start:stop], self.labels[start:stop]
        return part

    def __len__(self) -> int:
        return len(self.labels)

    def located(self, index: int) -> tuple[int, int]:
        """The number of the file, and the place of the record in it."""
        ends = np.cumsum(self.counts)
        number = int(np.searchsorted(ends, self.start + index, side='right'))
        return number, int(self.start + index - ends[number] + self.counts[number])

    def where(self, index: int) -> str:
        """The file and the place of the record in it, counted from 0."""
        number, place = self.located(index)
        return f'{self.files.paths[number]}: record {place}'

    def name(self, index: int) -> str:
        """The name of the image file where the record has it, else the file and the place of the record."""
        index = range(len(self))[index]
        with self.damage(index):
            window, at, size = self.record(index, whole=False)
            for name, start, stop in features(window, at, at + size):
                value = bytes_value(window, start, stop) if name in NAMES else None
                if value and value[0] < value[1]:
                    return os.fsdecode(window.at(value[0], value[1] - value[0]))
        return self.where(index)

    def read(self, index: int) -> bytes:
        """The image file's content; OSError, or DataError if the file is no longer what was indexed."""
        index = range(len(self))[index]
        with self.damage(index):
            window, at, size = self.record(index, whole=True)
            for name, start, stop in features(window, at, at + size):
                value = bytes_value(window, start, stop) if name == self.keys.image else None
                if value:
                    data = window.at(value[0], value[1] - value[0])
                    if len(data) == value[1] - value[0]:
                        return data
                    raise ValueError(f'only {len(data)} of {value[1] - value[0]} bytes could be read')
            raise ValueError(f'it has no image {self.keys.image!r}')

    def record(self, index: int, whole: bool) -> Record:
        """One record."""
        offset, size = self.places[index].tolist()
        return self.files.record(*self.located(index), (offset, size), whole)

    @contextmanager
    def damage(self, index: int) -> Iterator[None]:
        """Names the record that cannot be read as one."""
        try:
            yield
        except DataError:
            raise
        except ValueError as error:
            raise DataError(f'{self.where(index)}: is damaged ({error}); copy the file again') from None


# Where the bytes come from


class TfRecordFiles:
    """TFRecord files on this machine or behind a URL."""

    def __init__(self, paths: list[str]):
        self.paths = paths
        # An archive is but a file that is read by place.
        self.files = UrlFiles(paths) if any('://' in path for path in paths) else TarFiles(paths)
        self.stamps = self.files.stamps

    def records(self, number: int) -> Iterator[Record]:
        """All records of a file."""
        with ExitStack() as stack:
            window = Window(partial(self.files.read_at, number))
            if isinstance(self.files, TarFiles):  # it would keep files open that are walked only once
                handle = stack.enter_context(open(self.paths[number], 'rb')).fileno()
                window = Window(lambda offset, size: os.pread(handle, size, offset))
            for offset, size in frames(window, self.stamps[number][0], self.paths[number]):
                yield window, offset, size

    def record(self, number: int, place: int, span: tuple[int, int], whole: bool) -> Record:
        """A single record, at its span."""
        return Window(partial(self.files.read_at, number), span[1] if whole else PIECE), *span


class ArrayRecordFiles:
    """ArrayRecord files, which the package array_record reads; it gives records as a whole, for their labels too."""

    def __init__(self, paths: list[str]):
        try:
            from array_record.python.array_record_data_source import ArrayRecordDataSource
        except ImportError as error:
            cause = f'ArrayRecord files need {error.name}, which is not installed: pip install array_record'
            raise DataError(f'{paths[0]}: {cause}; or prepare the set as tfrecord') from error
        if '://' in paths[0]:
            raise DataError(f'{paths[0]}: ArrayRecord files are read from a folder only; copy the set to one')
        self.paths = paths
        self.stamps = [(status.st_size, status.st_mtime_ns) for status in map(os.stat, paths)]
        try:
            self.files = [ArrayRecordDataSource(path) for path in paths]
        except Exception as error:
            cause = str(error).splitlines()[0]
            raise DataError(f'{paths[0]}: this file or one beside it is no ArrayRecord file ({cause})') from error

    def records(self, number: int) -> Iterator[Record]:
        """All records of a file."""
        for place in range(len(self.files[number])):
            yield self.record(number, place, (0, 0), True)

    def record(self, number: int, place: int, span: tuple[int, int], whole: bool) -> Record:
        """A single record, at its place."""
        try:
            data = self.files[number][place]
        except Exception as error:  # the package has no error of its own
            raise DataError(f'{self.paths[number]}: record {place} cannot be read ({error}); copy it again') from error
        return Window(lambda offset, size: data[offset : offset + size], len(data)), 0, len(data)


class UrlFiles:
    """Files behind URLs, read through TensorFlow; they are opened anew each time, as its files share a position."""

    def __init__(self, paths: list[str]):
        self.paths = paths
        with remote(paths[0]) as gfile:
            self.stamps = [(status.length, status.mtime_nsec) for status in map(gfile.stat, paths)]

    def read_at(self, number: int, offset: int, size: int) -> bytes:
        """Bytes of a file."""
        with remote(self.paths[number]) as gfile, gfile.GFile(self.paths[number], 'rb') as file:
            file.seek(offset)
            return file.read(size)


@contextmanager
def remote(path: str) -> Iterator[Any]:
    """TensorFlow's functions for files behind URLs; its errors as DataError."""
    try:
        from jeffnet.data.tf_import import tf
    except ModuleNotFoundError as error:
        raise DataError(
            f'{path}: is read through TensorFlow, which is not installed: pip install tensorflow'
        ) from error
    try:
        yield tf.io.gfile
    except tf.errors.OpError as error:
        raise DataError(f'{path}: cannot be read ({error.message}); check the URL and the access to it') from error


def listed(folder: str) -> list[str]:
    """The names in a folder, sorted; none if there is no such folder."""
    if '://' not in folder:
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    with remote(folder) as gfile:
        return sorted(name.rstrip('/') for name in gfile.listdir(folder)) if gfile.isdir(folder) else []


def content(path: str) -> str:
    """A text file."""
    if '://' not in path:
        with open(path, encoding='utf-8') as file:
            return file.read()
    with remote(path) as gfile, gfile.GFile(path) as file:
        return file.read()


# Parts of splits


def split_part(split: str) -> tuple[str, str]:
    """The name of a split and its slice, 'train[:90%]' -> ('train', ':90%'); the slice of a whole one is ':'."""
    name, bracket, rest = split.partition('[')
    return (name, rest[:-1]) if bracket and rest.endswith(']') else (split, ':')


def part_bounds(part: str, size: int, where: str) -> tuple[int, int]:
    """Start and stop of a slice such as ':90%', '10%:' or '-5000:', rounded as TFDS does; DataError for another."""
    match = re.fullmatch(r'(?:(-?[\d_.]+)(%?))?:(?:(-?[\d_.]+)(%?))?', part)
    try:
        if not match:
            raise ValueError
        percent = bool(match[2] or match[4])
        low, high = ((float(n) if percent else int(n)) if n else None for n in match.group(1, 3))
        if max(abs(low or 0), abs(high or 0)) > (100 if percent else size):
            raise ValueError
        start, stop = (n if n is None or not percent else round(n * size / 100) for n in (low, high))
        start, stop, _ = slice(start, stop).indices(size)
        if start >= stop:
            raise ValueError
    except ValueError:
        allowed = f'[START:STOP] of {size} examples or in percent, not empty, such as [:90%] or [1000:]'
        raise DataError(f'{where}: the part is [{part}]; allowed: {allowed}') from None
    return start, stop


# Prepared TFDS sets


def open_tfds(folder: str, split: str) -> RecordFiles:
    """A split of the TFDS set whose dataset_info.json is in `folder`, or a part of it, 'train[:90%]'.

    Raises DataError for a split that is not there, a set without images and labels, and files that are not usable.
    """
    info = description(folder, 'dataset_info.json')
    where, file_format = f'TFDS set {info["name"]!r}', info.get('fileFormat', 'tfrecord')
    splits, (name, part) = {entry['name']: entry for entry in info.get('splits', [])}, split_part(split)
    found = next((known for known in SYNONYMS.get(name, (name,)) if known in splits), None)
    if found is None:
        raise DataError(f'{where} has no split {name!r}; splits there: {", ".join(splits) or "none"}')
    if file_format not in FORMATS:
        cause = (
            f'is stored as {file_format}, which can only be read in order, and so not for training or by pt_ scripts'
        )
        raise DataError(f'{where} {cause}; prepare it as {" or ".join(FORMATS)}')
    lengths = np.array(splits[found].get('shardLengths', []), np.int64)
    start, stop = part_bounds(part, int(lengths.sum()), f'{where}: split {split!r}')
    ends = np.cumsum(lengths)
    shards = np.flatnonzero((ends > start) & (ends - lengths < stop))  # the others' files need not be read
    paths = [shard_path(folder, info['name'], splits[found], file_format, int(shard)) for shard in shards]
    missing = {os.path.basename(path) for path in paths} - set(listed(folder))
    if missing:
        raise DataError(f'{os.path.join(folder, min(missing))}: is missing; copy the set again, or prepare it anew')
    keys, classes = image_and_label(folder, where)
    source = RecordFiles(FORMATS[file_format](paths), keys, classes)
    for path, count, expected in zip(paths, source.counts, lengths[shards], strict=True):
        if count != expected:
            cause = f'holds {count} records, and dataset_info.json says {expected}'
            raise DataError(f'{path}: {cause}; copy the set again, or prepare it anew')
    skipped = ends[shards[0]] - lengths[shards[0]]
    return source.between(start - int(skipped), stop - int(skipped))


FORMATS = {'tfrecord': TfRecordFiles, 'array_record': ArrayRecordFiles}


def description(folder: str, name: str) -> dict:
    """A JSON file of a TFDS set; DataError if it is none."""
    path = os.path.join(folder, name)
    try:
        held = json.loads(content(path))
    except (OSError, ValueError) as error:
        raise DataError(f'{path}: cannot be read ({error}); prepare the set anew') from None
    needed = 'name' if name == 'dataset_info.json' else 'featuresDict'
    if not isinstance(held, dict) or needed not in held:
        raise DataError(f'{path}: has no {needed!r}; prepare the set anew with a newer TFDS')
    return held


def shard_path(folder: str, name: str, split: dict, file_format: str, shard: int) -> str:
    """The file of a shard, as the template in dataset_info.json says."""
    template = split.get('filepathTemplate') or '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'
    number, count = f'{shard:05d}', f'{len(split["shardLengths"]):05d}'
    variables = {'DATASET': name, 'SPLIT': split['name'], 'FILEFORMAT': file_format, 'SHARD_INDEX': number}
    variables |= {'NUM_SHARDS': count, 'SHARD_X_OF_Y': f'{number}-of-{count}'}
    return os.path.join(folder, template.format(**variables))


def image_and_label(folder: str, where: str) -> tuple[Keys, list[str]]:
    """The features with image and label, and the class names."""
    held = description(folder, 'features.json')['featuresDict'].get('features', {})
    kinds = {name: feature.get('pythonClassName', '').rpartition('.')[2] for name, feature in held.items()}
    # imagenet2012_real has two kinds of labels.
    label = next((name for name in ('label', 'original_label') if kinds.get(name) == 'ClassLabel'), None)
    if kinds.get('image') != 'Image' or label is None:
        found = ', '.join(f'{name} ({kind})' for name, kind in kinds.items()) or 'nothing'
        raise DataError(f'{where} holds {found}; expected image (Image) and label (ClassLabel)')
    if f'{label}.labels.txt' in listed(folder):
        lines = content(os.path.join(folder, f'{label}.labels.txt')).split('\n')
        return Keys('image', label), [line.strip() for line in lines if line.strip()]
    return Keys('image', label), [str(n) for n in range(int(held[label]['classLabel']['numClasses']))]


# TFRecord files


def open_records(data: str, split: str) -> RecordFiles:
    """The record files of a split in a folder, see `jeffnet.data.streams.TfRecords`; 'train[:90%]' is a part of it.

    Raises FileNotFoundError for a missing folder, DataError for files that are not there or not usable.
    """
    name, part = split_part(split)
    files = TfRecordFiles(record_files(data, name))
    classes, first = record_classes(os.path.dirname(files.paths[0]))
    source = RecordFiles(files, SLIM, classes, first)
    if not len(source):
        raise DataError(f'{files.paths[0]}: holds no records')
    return source.between(*part_bounds(part, len(source), f'{data}: split {split!r}'))


def record_files(data: str, split: str) -> list[str]:
    """The record files of a split in a folder, by their names."""
    if '://' not in data and not os.path.isdir(data):
        raise FileNotFoundError(f'{data}: no such folder; give the folder of the record files')
    names = [name for name in listed(data) if is_record_file(name)]
    for start in SYNONYMS.get(split, (split,)):
        found = [os.path.join(data, name) for name in names if name.startswith(start)]
        if found:
            return found
    there = ', '.join(sorted({re.split(r'[-.]', name)[0] for name in names})) or 'none'
    raise DataError(f'{data}: holds no record files {split}-*-of-* or {split}*.tfrecord; splits there: {there}')


def is_record_file(path: str) -> bool:
    """Whether the name is one that TensorFlow's tools give."""
    return bool(re.search(r'(-\d{5}-of-\d{5}|\.tfrecords?)$', path))


def record_classes(folder: str) -> tuple[list[str], int]:
    """Class names by label, from labels.txt or ImageNet's, and the number that the records give to the first."""
    if 'labels.txt' not in listed(folder):
        return synsets(), 1
    text = content(os.path.join(folder, 'labels.txt'))
    names = [line.strip().rpartition(':')[2] for line in text.splitlines() if line.strip()]
    numbers = [int(n) for n in re.findall(r'^\s*(\d+):', text, re.MULTILINE)]
    if names and names[0] == 'background':
        return names[1:], 1
    return names, numbers[0] if numbers else 0
