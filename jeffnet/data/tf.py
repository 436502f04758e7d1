"""The tf.data reader: a `Source` or a `Stream` in, numpy batches out, the same pixels as `jeffnet.data.pt`."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count, starmap
from typing import Any

import numpy as np

from jeffnet.data.augmentation import Augmentation, Draw
from jeffnet.data.folder import ClassFolder
from jeffnet.data.images import decode, readable
from jeffnet.data.images import evaluation_image as pillow_image
from jeffnet.data.order import WHOLE, Batch, EvaluationBatches, Rows, Shard, check_batch_size, training_batch
from jeffnet.data.preprocessing import Preprocessing
from jeffnet.data.source import BAD_IMAGE, DataError, Source, check_bad_image, substitute
from jeffnet.data.streams import Stream
from jeffnet.data.tf_images import evaluation_image, training_image
from jeffnet.data.tf_import import tf

Places = tuple[np.ndarray, np.ndarray]  # of a batch: in the data set, and in the order


def evaluation_batches(
    source: Source | Stream,
    preprocessing: Preprocessing,
    batch_size: int,
    workers: int | None = None,
    *,
    shard: Shard = WHOLE,
    on_bad_image: str = BAD_IMAGE[0],
) -> EvaluationBatches:
    """Batches of one pass over the set, or over this process's shard of it, each image once.

    They hold 'image' float32 [B, H, W, C], 'label' int32 [B], 'mask' bool [B] and 'index' int32 [B], the place in the
    set. `workers` None: as many threads as pay off. An image that cannot be read ends the pass with a DataError that
    names it, or with `on_bad_image='skip'` has mask False.
    """
    check_batch_size(batch_size)
    check_bad_image(on_bad_image)
    if isinstance(source, Stream):
        indices, feed = source.indices(shard), Feed(partial(source.examples, shard), tf.identity)
    else:
        indices = shard.indices(len(source))
        feed = feed_of(source, indices)
    read = partial(Pass, feed, preprocessing, batch_size, workers, on_bad_image)
    return EvaluationBatches(read, indices, batch_size)


@dataclass(frozen=True)
class Feed:
    """Where encoded images come from: a dataset of (name, reference, label), and reference -> encoded bytes."""

    examples: Callable[[], tf.data.Dataset]
    load: Callable[[tf.Tensor], tf.Tensor]


def feed_of(source: Source, indices: np.ndarray) -> Feed:
    """These images of a set, in this order."""
    names, labels = [os.fsencode(source.name(int(i))) for i in indices], np.asarray(source.labels)[indices]
    references = names if isinstance(source, ClassFolder) else indices
    return Feed(lambda: tf.data.Dataset.from_tensor_slices((names, references, labels)), loader(source))


def loader(source: Source) -> Callable[[tf.Tensor], tf.Tensor]:
    """Path or index -> encoded bytes. TensorFlow reads files itself, outside of Python's lock."""
    if isinstance(source, ClassFolder):
        return tf.io.read_file
    return lambda index: tf.ensure_shape(tf.numpy_function(lambda i: source.read(int(i)), [index], tf.string), [])


class Pass:
    """One pass over encoded images, batch after batch.

    When TensorFlow fails it names no file and gives up the batch. Its images are then prepared one by one, and a new
    pipeline goes on behind it.
    """

    def __init__(self, feed: Feed, preprocessing: Preprocessing, batch_size: int, workers: int | None, bad_image: str):
        self.feed, self.preprocessing, self.batch_size = feed, preprocessing, batch_size
        self.workers, self.bad_image = workers, bad_image

    def __iter__(self) -> Iterator[Rows]:
        step, batches = 0, self.batches(0)
        while True:
            try:
                images, labels, names = next(batches)
            except StopIteration:
                return
            except tf.errors.OpError as error:
                yield self.one_by_one(step, error)
                batches = self.batches(step + 1)
            else:
                yield Rows(images, labels, np.arange(len(labels)), [], decoded(names))
            step += 1

    def batches(self, step: int) -> Iterator:
        """The batches from `step` on: images, labels, names."""
        prepared = self.feed.examples().skip(step * self.batch_size).map(self.prepare, **parallel(self.workers))
        return prepared.batch(self.batch_size).prefetch(2).as_numpy_iterator()

    def prepare(self, name: tf.Tensor, reference: tf.Tensor, label: tf.Tensor):
        """The image as the model takes it, its label and its name."""
        return evaluation_image(self.feed.load(reference), self.preprocessing), label, name

    def one_by_one(self, step: int, error: tf.errors.OpError) -> Rows:
        """The readable images of one batch, and the faults of the others; raises the first unless they are skipped."""
        window = self.feed.examples().skip(step * self.batch_size).take(self.batch_size)
        names, images, labels, good, faults = [], [], [], [], []
        try:
            examples = list(window)
        except tf.errors.OpError as cause:  # the records themselves
            raise DataError(f'TensorFlow cannot read the data set: {cause.message}') from None
        encoded = tf.data.Dataset.from_tensor_slices(tuple(map(tf.stack, zip(*examples, strict=True))))
        prepared = encoded.map(self.prepare).as_numpy_iterator()  # goes on behind an image that fails
        for row, example in enumerate(examples):
            names.append(os.fsdecode(example[0].numpy()))
            try:
                image, label, _ = next(prepared)
            except tf.errors.OpError as cause:
                faults.append(self.fault(names[-1], example[1], cause))
                continue
            images.append(image)
            labels.append(label)
            good.append(row)
        if not faults:
            raise DataError(f'TensorFlow cannot read the data set: {error.message}')
        if self.bad_image != 'skip':
            raise DataError(faults[0])
        empty = np.zeros((0, *self.preprocessing.image_size, self.preprocessing.in_chans), np.float32)
        return Rows(
            np.stack(images) if images else empty, np.array(labels, np.int32), np.array(good, np.int64), faults, names
        )

    def fault(self, name: str, reference: tf.Tensor, cause: tf.errors.OpError) -> str:
        """The message of one bad image: Pillow's, as in the PyTorch reader, else TensorFlow's."""
        try:
            with readable(name):
                pillow_image(bytes(self.feed.load(reference).numpy()), self.preprocessing)
        except DataError as error:
            return str(error)
        except tf.errors.OpError:  # the bytes cannot be had
            pass
        return f'{name}: cannot be read as an image ({cause.message})'


def decoded(names: np.ndarray) -> list[str]:
    """The names of a batch."""
    return [os.fsdecode(name) for name in names]


def training_batches(
    source: Source,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    workers: int | None = None,
    *,
    shard: Shard = WHOLE,
    repeats: int = 1,
    on_bad_image: Callable[[str], None] | None = None,
) -> Generator[Batch]:
    """Endless batches {'image' float32 [B, H, W, C], 'label' int32 [B]}, each a function of (seed, step) alone.

    `batch_size` counts the rows of all processes; a shard gets its own run of them. Each image comes `repeats` times in
    a row, see `order.training_batch`. An image that cannot be read raises a DataError that names it; or `on_bad_image`
    is told, and the next image of the set stands in. Raises ValueError for a batch_size that the processes do not
    divide.
    """
    order = partial(training_batch, seed, batch_size=batch_size, size=len(source), shard=shard, repeats=repeats)
    order(start_step)  # bad arguments fail here, not in TensorFlow

    def stream() -> Generator[Batch]:
        prepared = TrainingImages(source, preprocessing, augmentation, seed)
        labels, first = np.asarray(source.labels), start_step
        rows = batch_size // shard.count
        batches = prepared.dataset(lambda: map(order, count(first)), rows, parallel(workers)).prefetch(2)
        ahead = batches.as_numpy_iterator()
        for step in count(start_step):
            index, position = order(step)
            try:
                images = next(ahead)
            except tf.errors.OpError as error:
                if on_bad_image is None:
                    raise bad_training_image(source, index, error) from None
                images, index = one_by_one(prepared.alone, index, position, len(source), on_bad_image)
                first = step + 1
                ahead = batches.as_numpy_iterator()
            yield {'image': images, 'label': labels[index].astype(np.int32)}

    return stream()


@dataclass
class TrainingImages:
    """Images of a data set as training sees them, by their places in it and their numbers in the order.

    All go through tf.data: called eagerly or as a tf.function, the same operations give other last bits.
    """

    source: Source
    preprocessing: Preprocessing
    augmentation: Augmentation
    seed: int

    def dataset(self, order: Callable[[], Iterable[Places]], rows: int, threads: dict[str, Any]) -> tf.data.Dataset:
        """Batches float32 [rows, H, W, C] of what `order` gives, which is called again for each pass."""
        kind = tf.string if isinstance(self.source, ClassFolder) else tf.int64
        signature = (tf.TensorSpec(rows, kind), tf.TensorSpec((rows, flat(self.draw(0)).size), tf.float64))
        examples = tf.data.Dataset.from_generator(lambda: starmap(self.example, order()), output_signature=signature)
        load = loader(self.source)

        def prepare(reference: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
            return training_image(load(reference), unflat(row, self.draw(0)), self.preprocessing, self.augmentation)

        return examples.unbatch().map(prepare, **threads).batch(rows, drop_remainder=True)

    def draw(self, position: int) -> Draw:
        """What chance does to the image with this number."""
        return self.augmentation.draw(self.seed, position, self.preprocessing.interpolation)

    def example(self, index: np.ndarray, position: np.ndarray) -> tuple:
        """Files, or places, of images, and their draws."""
        files = [os.fsencode(self.source.paths[i]) for i in index] if isinstance(self.source, ClassFolder) else index
        return files, np.stack([flat(self.draw(int(p))) for p in position])

    def alone(self, position: int, index: int) -> np.ndarray:
        """One image, float32 [H, W, C]; DataError if it cannot be read."""
        self.next = np.array([index]), np.array([position])
        try:
            return next(self.singles.as_numpy_iterator())[0]
        except tf.errors.OpError as error:
            raise bad_training_image(self.source, self.next[0], error) from None

    @cached_property
    def singles(self) -> tf.data.Dataset:
        """A pass of one image, `next`; kept because a data set takes seconds to trace."""
        return self.dataset(lambda: [self.next], 1, {})


def one_by_one(
    prepare: Callable[[int, int], np.ndarray], index: np.ndarray, position: np.ndarray, size: int,
    on_bad_image: Callable[[str], None],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The images of a batch of which some cannot be read, others in their rows, and the places of all in the set."""
    images, places = [], index.copy()
    for row, (place, number) in enumerate(zip(index.tolist(), position.tolist(), strict=True)):
        try:
            images.append(prepare(number, place))
        except DataError as error:
            on_bad_image(str(error))
            image, places[row] = substitute(partial(prepare, number), place, size, on_bad_image)
            images.append(image)
    return np.stack(images), places


def flat(draw: Draw) -> np.ndarray:
    """A draw as one row, float64 [F], which holds all its types exactly; tf.data crashes on parts that are empty."""
    return np.concatenate([np.ravel(part) for part in tf.nest.flatten(draw)])


def unflat(row: tf.Tensor, like: Draw) -> Draw:
    """The draw of a row, with the shapes and types of another one."""
    parts = [np.asarray(part) for part in tf.nest.flatten(like)]
    pieces = tf.split(row, [part.size for part in parts])
    shaped = [tf.cast(tf.reshape(x, part.shape), part.dtype) for x, part in zip(pieces, parts, strict=True)]
    return tf.nest.pack_sequence_as(like, shaped)


def bad_training_image(source: Source, indices: np.ndarray, error: tf.errors.OpError) -> DataError:
    """The error that names the first of these images which cannot be decoded."""
    for index in indices:
        name = source.name(int(index))
        try:
            with readable(name):
                decode(source.read(int(index)))
        except DataError as cause:
            return cause
    return DataError(f'TensorFlow cannot read an image of the data set: {error.message}')


def parallel(workers: int | None) -> dict[str, Any]:
    """Keywords of Dataset.map: images are prepared by several threads, and stay in order."""
    return {'num_parallel_calls': workers or tf.data.AUTOTUNE, 'deterministic': True}
