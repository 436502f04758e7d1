"""Sets as TensorFlow reads them, one example after the other: prepared TFDS sets, and TFRecord files."""

import os
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from jeffnet.data.folder import SYNONYMS, natural
from jeffnet.data.opening import how_to_prepare
from jeffnet.data.order import WHOLE, Shard
from jeffnet.data.records import NAMES, TfRecordFiles, record_classes, record_files
from jeffnet.data.source import DataError
from jeffnet.data.tf_import import tf

READ_IN_ORDER = 1  # files read at a time: with several, the order would depend on the number of processes


class Stream(ABC):
    """Labelled images, still encoded, in a fixed order; a process reads one stretch of it."""

    classes: list[str]  # class names by label

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def between(self, start: int, stop: int) -> tf.data.Dataset:
        """Dataset of (name, encoded bytes, label int32) of the examples start to stop (exclusive), in order."""

    def examples(self, shard: Shard = WHOLE) -> tf.data.Dataset:
        """`between` of a shard: a stretch of the set, so that the others' files need not be read."""
        return self.between(*stretch(len(self), shard))

    def indices(self, shard: Shard = WHOLE) -> np.ndarray:
        """The places in the set of a shard's images, int64 [n]."""
        return np.arange(*stretch(len(self), shard))

    def name(self, index: int) -> str:
        """What messages call this image; slow, as is `read`."""
        return os.fsdecode(self.one(index)[0])

    def read(self, index: int) -> bytes:
        """The image file's content."""
        return self.one(index)[1]

    def one(self, index: int) -> Any:
        """A single example: name, encoded bytes, label."""
        return next(self.between(index, index + 1).as_numpy_iterator())


def stretch(size: int, shard: Shard) -> tuple[int, int]:
    """First and last (exclusive) example of a shard."""
    return size * shard.rank // shard.count, size * (shard.rank + 1) // shard.count


class TfdsSplit(Stream):
    """One split of a TFDS builder, `tfds.ImageFolder` among them."""

    def __init__(self, builder: Any, split: str = 'validation'):
        """Raises DataError for a split that is not there, or a set without images and labels."""
        self.builder, self.split = builder, self.found_split(builder, split)
        features = dict(builder.info.features or {})
        # imagenet2012_real has two kinds of labels.
        labels = [name for name in ('label', 'original_label') if hasattr(features.get(name), 'names')]
        if type(features.get('image')).__name__ != 'Image' or not labels:
            held = ', '.join(f'{name} ({type(feature).__name__})' for name, feature in features.items()) or 'nothing'
            raise DataError(f'TFDS set {builder.name!r} holds {held}; expected image (Image) and label (ClassLabel)')
        self.label = labels[0]
        names = list(features[self.label].names)
        # tfds.ImageFolder sorts as text; here as everywhere, '2' comes before '10'.
        self.classes = sorted(names, key=natural) if type(builder).__name__ == 'ImageFolder' else names
        self.class_of = np.array([self.classes.index(name) for name in names], np.int32)
        self.size = builder.info.splits[self.split].num_examples

    @staticmethod
    def found_split(builder: Any, split: str) -> str:
        """The split itself or its synonym."""
        there = list(builder.info.splits)
        for name in SYNONYMS.get(split, (split,)):
            if name in there:
                return name
        if there:
            raise DataError(f'TFDS set {builder.name!r} has no split {split!r}; splits there: {", ".join(there)}')
        folder = builder.data_path.parent.parent
        raise DataError(f'TFDS set {builder.name!r} is not prepared; {how_to_prepare(builder.name, folder)}')

    def __len__(self) -> int:
        return self.size

    def between(self, start: int, stop: int) -> tf.data.Dataset:
        """Dataset of (name, encoded bytes, label); the name is the file's where the set has it, else TFDS' own."""
        import tensorflow_datasets as tfds

        whole = (start, stop) == (0, len(self))
        named = any(key in self.builder.info.features for key in NAMES)
        folder = isinstance(self.builder, tfds.ImageFolder)  # cannot read a part of a split
        part = self.split if whole or folder else tfds.core.ReadInstruction(self.split, start, stop, unit='abs')
        # Nothing is kept in memory: TFDS would cache small sets, decoded or not.
        config = tfds.ReadConfig(
            try_autocache=False, interleave_cycle_length=READ_IN_ORDER, add_tfds_id=not named, skip_prefetch=True
        )
        decoders = {'image': tfds.decode.SkipDecoding()}
        examples = self.builder.as_dataset(split=part, decoders=decoders, shuffle_files=False, read_config=config)
        if folder and not whole:
            examples = examples.skip(start).take(stop - start)
        return examples.map(self.parts)

    def parts(self, example: dict[str, Any]) -> tuple[Any, Any, Any]:
        """(name, encoded bytes, label) of one example."""
        name = next(example[key] for key in (*NAMES, 'tfds_id') if key in example)
        return name, example['image'], tf.gather(self.class_of, example[self.label])


def open_tfds(data_dir: str | os.PathLike, dataset: str, split: str = 'validation') -> TfdsSplit:
    """A split of `dataset` ('name' or 'name/config:version') prepared under a TFDS folder; DataError if not there."""
    import tensorflow_datasets as tfds  # slow to import, and needed for TFDS folders only

    try:
        builder: Any = tfds.builder(dataset, data_dir=os.fspath(data_dir))
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise DataError(f'{data_dir}: no TFDS set {dataset!r} ({str(error).splitlines()[0]})') from None
    except Exception as error:  # a file system or a damaged description can end in any
        cause = str(error.__cause__ or error).splitlines()[0]
        raise DataError(f'{data_dir}: TFDS set {dataset!r} cannot be opened ({cause})') from error
    if not list(builder.info.splits):
        raise DataError(f'{data_dir}: TFDS set {dataset!r} is not prepared; {how_to_prepare(dataset, data_dir)}')
    return TfdsSplit(builder, split)


class TfRecords(Stream):
    """Files of tf.Example records as TF-Slim and the TPU reference models write them, `validation-00000-of-00128`.

    They hold `image/encoded` and `image/class/label`, which counts from 1 (0 is a background class) unless a file
    labels.txt beside them gives other numbers. Class names come from there; without it, they are ImageNet's.
    """

    def __init__(self, data: str | os.PathLike, split: str = 'validation'):
        """Raises DataError for files that are not there, are cut short, or hold no records."""
        self.files = record_files(os.fspath(data), split)
        self.counts = count_records(self.files)
        if not len(self):
            raise DataError(f'{self.files[0]}: holds no records')
        self.classes, self.first = record_classes(os.path.dirname(self.files[0]))

    def __len__(self) -> int:
        return sum(self.counts)

    def between(self, start: int, stop: int) -> tf.data.Dataset:
        """Dataset of (name, encoded bytes, label)."""
        ends = np.cumsum(self.counts)
        skipped = min(int(np.searchsorted(ends, start, side='right')), len(self.files) - 1)  # files that stay closed
        before = int(ends[skipped - 1]) if skipped else 0
        return self.parsed(self.files[skipped:]).skip(start - before).take(stop - start)

    def parsed(self, files: list[str]) -> tf.data.Dataset:
        """All records of some files."""
        features = {
            'image/encoded': tf.io.FixedLenFeature([], tf.string),
            'image/class/label': tf.io.FixedLenFeature([], tf.int64),
            'image/filename': tf.io.FixedLenFeature([], tf.string, ''),
        }

        def parse(place, record):
            example = tf.io.parse_single_example(record, features)
            name = tf.strings.join(['record ', tf.strings.as_string(place), f' from {files[0]} on'])
            known = tf.strings.length(example['image/filename']) > 0
            label = tf.cast(example['image/class/label'], tf.int32) - self.first
            return tf.where(known, example['image/filename'], name), example['image/encoded'], label

        return tf.data.TFRecordDataset(files).enumerate().map(parse)


def count_records(paths: list[str]) -> list[int]:
    """The number of records in each file; only their lengths are read."""
    files = TfRecordFiles(paths)
    return [sum(1 for _ in files.records(number)) for number in range(len(paths))]
