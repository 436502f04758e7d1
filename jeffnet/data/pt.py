"""The PyTorch reader: class folders in, numpy batches out, the same pixels as `jeffnet.data.tf`.

Workers read with Pillow. Neither this module nor what it imports loads jax or tensorflow: workers start sooner.
One difference remains: `tf` asks for JPEG's fast DCT and Pillow has the accurate one only, so that on JPEG files the
pixels of `tf` differ from TensorFlow's, by 1 of 255 on average.
"""

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from itertools import count

import numpy as np
from torch.utils.data import DataLoader, Dataset

from jeffnet.data.folder import ClassFolder, DataError
from jeffnet.data.images import decode, evaluation_image, training_image
from jeffnet.data.order import Batch, EvaluationBatches, training_batch
from jeffnet.data.preprocessing import Augmentation, Preprocessing

SMALL_SET = 4096  # images; below it, starting workers takes longer than reading everything in one process


def evaluation_batches(
    folder: ClassFolder, preprocessing: Preprocessing, batch_size: int, workers: int | None = None
) -> EvaluationBatches:
    """Batches {'image' float32 [B, H, W, C], 'label' int32 [B], 'mask' bool [B]} of one pass over the set.

    `workers` None: none for a small set, else one per CPU. Iterating raises DataError with the path of a bad file.
    """
    starts = range(0, len(folder), max(batch_size, 1))
    steps = [[(i, i) for i in range(start, min(start + batch_size, len(folder)))] for start in starts]
    loader = data_loader(Images(folder, preprocessing), steps, workers)
    return EvaluationBatches(lambda: checked(loader), len(folder), batch_size)


def training_batches(
    folder: ClassFolder,
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
            index, position = training_batch(seed, step, batch_size, len(folder))
            yield list(zip(index.tolist(), position.tolist(), strict=True))

    images = Images(folder, preprocessing, augmentation, seed)
    for pixels, labels in checked(data_loader(images, steps(), workers)):
        yield {'image': pixels, 'label': labels}


class Images(Dataset):
    """(float32 [H, W, C], label) by (index, position in the data order); augmented if an augmentation is given.

    A file that is not an image gives the error itself: raised in a worker, it would arrive wrapped in two tracebacks.
    """

    def __init__(
        self, folder: ClassFolder, preprocessing: Preprocessing, augmentation: Augmentation | None = None, seed: int = 0
    ):
        self.folder, self.preprocessing = folder, preprocessing
        self.augmentation, self.seed = augmentation, seed

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, item: tuple[int, int]) -> tuple[np.ndarray, np.int32] | DataError:
        index, position = item
        try:
            image = decode(self.folder.paths[index], self.preprocessing)
        except DataError as error:
            return error
        if self.augmentation is None:
            return evaluation_image(image, self.preprocessing), self.folder.labels[index]
        crops, flip = self.augmentation.draw(self.seed, position)
        return training_image(image, crops, flip, self.preprocessing, self.augmentation), self.folder.labels[index]


def data_loader(images: Images, steps: Iterable[list[tuple[int, int]]], workers: int | None) -> DataLoader:
    """Batches of numpy arrays in the order of `steps`, read by `workers` processes that stay from pass to pass."""
    if workers is None:
        workers = 0 if len(images) < SMALL_SET else os.cpu_count() or 1
    if workers == 0:
        return DataLoader(images, batch_sampler=steps, collate_fn=collate)
    # Not fork: a forked copy of JAX's threads can deadlock.
    start = 'forkserver' if 'forkserver' in multiprocessing.get_all_start_methods() else 'spawn'
    return DataLoader(
        images,
        batch_sampler=steps,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=True,
        multiprocessing_context=start,
    )


def collate(items: list) -> tuple[np.ndarray, np.ndarray] | DataError:
    """Examples to a batch, [B, H, W, C] and int32 [B], or the first error among them."""
    for item in items:
        if isinstance(item, DataError):
            return item
    images, labels = zip(*items, strict=True)
    return np.stack(images), np.array(labels, np.int32)


def checked(loader: DataLoader) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Passes batches on, and raises the errors that workers hand over."""
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch
