"""The data order as index arithmetic: a batch is a function of (seed, step), so a run resumes from its step alone."""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import numpy as np

Batch = dict[str, np.ndarray]


@lru_cache(maxsize=2)  # a batch touches at most two epochs in turn; one permutation of ImageNet takes 0.1 s
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of the examples in one epoch, int64 [size], read-only; every index once."""
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(size)
    order.flags.writeable = False  # the cache hands out this very array
    return order


def training_batch(seed: int, step: int, batch_size: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices [B] and positions [B] of one training batch; batches run across epoch ends.

    A position counts the examples since step 0. Raises ValueError for a negative seed or step, or a size below 1.
    """
    for name, value, least in (('seed', seed, 0), ('step', step, 0), ('batch_size', batch_size, 1), ('size', size, 1)):
        if value < least:
            raise ValueError(f'{name} is {value}; allowed: {least} or more')
    position = np.arange(step * batch_size, (step + 1) * batch_size)
    epoch, offset = position // size, position % size
    index = np.concatenate([permutation(seed, int(e), size)[offset[epoch == e]] for e in np.unique(epoch)])
    return index, position


def pad_batch(images: np.ndarray, labels: np.ndarray, batch_size: int) -> Batch:
    """A batch of constant size, [B, H, W, C]: rows that only fill it up are zeros with mask False."""
    missing = batch_size - len(labels)
    return {
        'image': np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)]) if missing else images,
        'label': np.pad(labels, (0, missing)).astype(np.int32),
        'mask': np.arange(batch_size) < len(labels),
    }


class EvaluationBatches:
    """One pass over a set in its own order, as often as it is iterated: every example once, all batches of one size.

    `read` starts a pass and yields images [n, H, W, C] and labels [n], n = batch_size except in the last one.
    """

    def __init__(self, read: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]], size: int, batch_size: int):
        if batch_size < 1:
            raise ValueError(f'batch_size is {batch_size}; allowed: 1 or more')
        self.read, self.size, self.batch_size = read, size, batch_size

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for images, labels in self.read():
            yield pad_batch(images, labels, self.batch_size)
