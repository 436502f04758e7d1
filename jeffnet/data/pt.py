"""The PyTorch reader: images of any `Source` in, numpy batches out, the same pixels as `jeffnet.data.tf`.

Workers read with Pillow. Neither this module nor what it imports loads jax or tensorflow: workers start sooner.
"""

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from jeffnet.data.images import evaluation_image, readable, training_image
from jeffnet.data.order import WHOLE, Batch, EvaluationBatches, Rows, Shard, check_batch_size, training_batch
from jeffnet.data.preprocessing import Augmentation, Preprocessing
from jeffnet.data.source import BAD_IMAGE, DataError, Source, check_bad_image

SMALL_SET = 4096  # images; below it, starting workers takes longer than reading everything in one process
Item = tuple[np.ndarray, np.int32] | DataError


def evaluation_batches(
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    workers: int | None = None,
    *,
    shard: Shard = WHOLE,
    on_bad_image: str = BAD_IMAGE[0],
) -> EvaluationBatches:
    """Batches of one pass over the set, or over this process's shard of it, each image once.

    They hold 'image' float32 [B, H, W, C], 'label' int32 [B], 'mask' bool [B] and 'index' int32 [B], the place in the
    set. `workers` None: none for a small set, else one per CPU. An image that cannot be read ends the pass with a
    DataError that names it, or with `on_bad_image='skip'` has mask False.
    """
    check_batch_size(batch_size)
    check_bad_image(on_bad_image)
    indices = shard.indices(len(source))
    steps = [[(int(i), int(i)) for i in indices[at : at + batch_size]] for at in range(0, len(indices), batch_size)]
    loader = data_loader(Images(source, preprocessing), steps, workers)
    return EvaluationBatches(lambda: passed(loader, on_bad_image), indices, batch_size)


def training_batches(
    source: Source,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    workers: int | None = None,
) -> Iterator[Batch]:
    """Endless batches {'image' float32 [B, H, W, C], 'label' int32 [B]}, each a function of (seed, step) alone."""

    def steps():
        for step in count(start_step):
            index, position = training_batch(seed, step, batch_size, len(source))
            yield list(zip(index.tolist(), position.tolist(), strict=True))

    images = Images(source, preprocessing, augmentation, seed)
    for rows in passed(data_loader(images, steps(), workers), BAD_IMAGE[0]):
        yield {'image': rows.images, 'label': rows.labels}


class Images(Dataset):
    """(float32 [H, W, C], label) by (index, position in the data order); augmented if an augmentation is given.

    A file that is not an image gives the error itself: raised in a worker, it would arrive wrapped in two tracebacks.
    """

    def __init__(
        self, source: Source, preprocessing: Preprocessing, augmentation: Augmentation | None = None, seed: int = 0
    ):
        self.source, self.preprocessing = source, preprocessing
        self.augmentation, self.seed = augmentation, seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, item: tuple[int, int]) -> Item:
        index, position = item
        try:
            with readable(self.source.name(index)):
                return self.prepare(self.source.read(index), position), self.source.labels[index]
        except DataError as error:
            return error

    def prepare(self, data: bytes, position: int) -> np.ndarray:
        """An encoded image as the model takes it."""
        if self.augmentation is None:
            return evaluation_image(data, self.preprocessing)
        crops, flip = self.augmentation.draw(self.seed, position)
        return training_image(data, crops, flip, self.preprocessing, self.augmentation)


def data_loader(images: Images, steps: Iterable[list[tuple[int, int]]], workers: int | None) -> DataLoader:
    """Batches in the order of `steps`, read by `workers` processes that stay from pass to pass."""
    if workers is None:
        workers = 0 if len(images) < SMALL_SET else os.cpu_count() or 1
    empty = np.zeros((0, *images.preprocessing.image_size, images.preprocessing.in_chans), np.float32)
    options: dict[str, Any] = {'batch_sampler': steps, 'collate_fn': Collate(empty)}
    if workers:
        # Not fork: a forked copy of JAX's threads can deadlock.
        start = 'forkserver' if 'forkserver' in multiprocessing.get_all_start_methods() else 'spawn'
        if start == 'forkserver':  # one process imports what all workers need
            multiprocessing.set_forkserver_preload([__name__])
        options |= {'num_workers': workers, 'persistent_workers': True, 'multiprocessing_context': start}
        options['worker_init_fn'] = end_with_parent
    return DataLoader(images, **options)


def end_with_parent(worker: int) -> None:
    """Ends this worker when the main process is gone, however it ended; PyTorch itself watches the fork server only."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch():
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Collate:
    """Examples to (images [n, H, W, C], labels int32 [n], rows int64 [n], messages of those that failed).

    The images travel as a tensor: between processes PyTorch shares its memory, while an array would go through a pipe.
    """

    def __init__(self, empty: np.ndarray):
        self.empty = empty

    def __call__(self, items: list[Item]) -> tuple[torch.Tensor, np.ndarray, np.ndarray, list[str]]:
        good = [row for row, item in enumerate(items) if not isinstance(item, DataError)]
        read = [item for item in items if not isinstance(item, DataError)]
        images = np.stack([item[0] for item in read]) if read else self.empty
        labels = np.array([item[1] for item in read], np.int32)
        faults = [str(item) for item in items if isinstance(item, DataError)]
        return torch.from_numpy(images), labels, np.array(good, np.int64), faults


def passed(loader: DataLoader, on_bad_image: str) -> Iterator[Rows]:
    """The loader's batches; raises the first fault, unless bad images are to be skipped."""
    for images, labels, good, faults in loader:
        if faults and on_bad_image != 'skip':
            raise DataError(faults[0])
        yield Rows(images.numpy(), labels, good, faults)
