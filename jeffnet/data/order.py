"""The data order as index arithmetic: a batch is a function of (seed, step), so a run resumes from its step alone."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Batch = dict[str, np.ndarray]


@lru_cache(maxsize=2)  # a batch touches at most two epochs in turn; one permutation of ImageNet takes 0.1 s
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of the examples in one epoch, int64 [size], read-only; every index once."""
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(size)
    order.flags.writeable = False  # the cache hands out this very array
    return order


@dataclass(frozen=True)
class Shard:
    """The part that one of several processes reads: in evaluation every `count`-th image of the set from `rank` on,
    in training the `rank`-th of `count` equal runs of rows in each batch.
    """

    rank: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise ValueError(f'shard is {self.rank} of {self.count}; allowed: 0 <= rank < count')

    def indices(self, size: int) -> np.ndarray:
        """The images of this shard in a set of `size`, int64 [n]."""
        return np.arange(self.rank, size, self.count)


WHOLE = Shard()


def training_batch(
    seed: int, step: int, batch_size: int, size: int, *, shard: Shard = WHOLE, repeats: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Indices [n] and positions [n] of a shard's rows of one training batch; batches run across epoch ends.

    A position counts the examples of all shards since step 0. `repeats` positions in a row read the same image, with
    another augmentation each: Hoffer et al. 2019 (arXiv:1901.09335). Raises ValueError for a negative seed or step, a
    size below 1, or a batch_size that the shards do not divide.
    """
    least = {'seed': (seed, 0), 'step': (step, 0), 'batch_size': (batch_size, 1), 'size': (size, 1)}
    for name, (value, low) in {**least, 'repeats': (repeats, 1)}.items():
        if value < low:
            raise ValueError(f'{name} is {value}; allowed: {low} or more')
    if batch_size % shard.count:
        raise ValueError(f'batch_size is {batch_size}; allowed: multiples of {shard.count}, the processes')
    rows = batch_size // shard.count
    first = step * batch_size + shard.rank * rows
    position = np.arange(first, first + rows)
    epoch, offset = np.divmod(position // repeats, size)
    index = np.concatenate([permutation(seed, int(e), size)[offset[epoch == e]] for e in np.unique(epoch)])
    return index, position


@dataclass(frozen=True)
class Rows:
    """What a reader has of one batch: `good` says which of its rows `images` and `labels` are, the rest failed."""

    images: np.ndarray  # [n, H, W, C], n at most the batch size
    labels: np.ndarray  # int32 [n]
    good: np.ndarray  # int64 [n], ascending
    faults: list[str]  # one message for each image that could not be read
    names: list[str] | None = None  # of the whole batch, where only the reader knows them


def pad_batch(rows: Rows, indices: np.ndarray, batch_size: int) -> Batch:
    """A batch of constant size, [B, H, W, C]: rows that fill it up, or could not be read, are zeros with mask False.

    `indices` are the images' places in the set; of rows that fill up, -1.
    """
    if len(rows.good) == batch_size:
        images, labels = rows.images, rows.labels.astype(np.int32)
    else:
        images = np.zeros((batch_size, *rows.images.shape[1:]), rows.images.dtype)
        images[rows.good] = rows.images
        labels = np.zeros(batch_size, np.int32)
        labels[rows.good] = rows.labels
    mask = np.zeros(batch_size, bool)
    mask[rows.good] = True
    index = np.full(batch_size, -1, np.int32)
    index[: len(indices)] = indices
    return {'image': images, 'label': labels, 'mask': mask, 'index': index}


class EvaluationBatches:
    """One pass over a set in its own order, as often as it is iterated: every example once, all batches of one size.

    `read` starts a pass and yields the `Rows` of each batch; `indices` are the places in the set of what it reads.
    After a pass, `faults` has a message for each image that could not be read.
    """

    def __init__(self, read: Callable[[], Iterable[Rows]], indices: np.ndarray, batch_size: int):
        check_batch_size(batch_size)
        self.read, self.indices, self.batch_size = read, indices, batch_size
        self.faults: list[str] = []

    @property
    def size(self) -> int:
        """Number of examples in a pass."""
        return len(self.indices)

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for batch, _ in self.named():
            yield batch

    def named(self) -> Iterator[tuple[Batch, list[str] | None]]:
        """Batches, and the names of their images where only the reader knows them."""
        self.faults = []
        for step, rows in enumerate(self.read()):
            self.faults += rows.faults
            at = slice(step * self.batch_size, (step + 1) * self.batch_size)
            yield pad_batch(rows, self.indices[at], self.batch_size), rows.names


def check_batch_size(batch_size: int) -> None:
    """Raises ValueError for a batch without images."""
    if batch_size < 1:
        raise ValueError(f'batch_size is {batch_size}; allowed: 1 or more')
