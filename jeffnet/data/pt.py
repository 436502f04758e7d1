"""The PyTorch reader: images of any `Source` in, numpy batches out, the same pixels as `jeffnet.data.tf`.

Workers read with Pillow. Neither this module nor what it imports loads jax or tensorflow: workers start sooner.
"""

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from jeffnet.data.augmentation import Augmentation
from jeffnet.data.folder import ClassFolder
from jeffnet.data.images import evaluation_image, readable, training_image
from jeffnet.data.order import WHOLE, Batch, EvaluationBatches, Rows, Shard, check_batch_size, training_batch
from jeffnet.data.preprocessing import Preprocessing
from jeffnet.data.source import BAD_IMAGE, DataError, Source, check_bad_image, substitute

SMALL_SET = 4096  # images; below it, starting workers takes longer than reading everything in one process
Reference = int | str  # an image's place in the set, or its path
Item = tuple[Reference, int]  # and its position in the data order


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

    def read() -> Iterator[Rows]:
        labels = np.asarray(source.labels)
        for step, (images, good, faults) in enumerate(passed(loader, on_bad_image)):
            yield Rows(images, labels[indices[step * batch_size + good]].astype(np.int32), good, faults)

    steps = [items(source, indices[at : at + batch_size]) for at in range(0, len(indices), batch_size)]
    loader = data_loader(Images(source, preprocessing), steps, workers)
    return EvaluationBatches(read, indices, batch_size)


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
    order(start_step)  # bad arguments fail here, not with the first batch

    def stream() -> Generator[Batch]:
        labels, ahead = np.asarray(source.labels), deque[tuple[np.ndarray, np.ndarray]]()

        def steps() -> Iterator[list[Item]]:
            for step in count(start_step):
                index, position = order(step)
                ahead.append((index, position))
                yield items(source, index, position)

        images = Images(source, preprocessing, augmentation, seed)
        for pixels, good, faults in passed(data_loader(images, steps(), workers), BAD_IMAGE[bool(on_bad_image)]):
            index, position = ahead.popleft()
            if faults and on_bad_image:
                for fault in faults:
                    on_bad_image(fault)
                pixels, index = completed(images, source, pixels, good, index, position, on_bad_image)
            yield {'image': pixels, 'label': labels[index].astype(np.int32)}

    return stream()


def completed(
    images: 'Images', source: Source, pixels: np.ndarray, good: np.ndarray, index: np.ndarray, position: np.ndarray,
    on_bad_image: Callable[[str], None],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The batch whose rows `good` were read, with other images in the rows that were not; and the places of all."""
    whole, places = np.zeros((len(index), *pixels.shape[1:]), np.float32), index.copy()
    whole[good] = pixels

    def prepare(other: int, at: int) -> np.ndarray:
        image = images[items(source, np.array([other]), position[at : at + 1])[0]]
        if isinstance(image, DataError):
            raise image
        return image

    for row in set(range(len(index))).difference(good.tolist()):
        whole[row], places[row] = substitute(partial(prepare, at=row), int(index[row]), len(source), on_bad_image)
    return whole, places


def items(source: Source, indices: np.ndarray, positions: np.ndarray | None = None) -> list[Item]:
    """What the workers get of some images: where they are, and their positions."""
    references: list[Reference] = indices.tolist()
    if isinstance(source, ClassFolder):
        references = [source.paths[i] for i in indices]
    return list(zip(references, (indices if positions is None else positions).tolist(), strict=True))


class Paths:
    """A class folder for workers, which are given paths: its index of every image stays in the main process."""

    def name(self, path: str) -> str:
        """The path."""
        return path

    def read(self, path: str) -> bytes:
        """An image file's content."""
        with open(path, 'rb') as file:
            return file.read()


class Images(Dataset):
    """float32 [H, W, C] by (reference, position in the data order); augmented if an augmentation is given.

    A file that is not an image gives the error itself: raised in a worker, it would arrive wrapped in two tracebacks.
    """

    def __init__(
        self, source: Source, preprocessing: Preprocessing, augmentation: Augmentation | None = None, seed: int = 0
    ):
        self.files: Any = Paths() if isinstance(source, ClassFolder) else source
        self.size, self.preprocessing = len(source), preprocessing
        self.augmentation, self.seed = augmentation, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, item: Item) -> np.ndarray | DataError:
        reference, position = item
        try:
            with readable(self.files.name(reference)):
                return self.prepare(self.files.read(reference), position)
        except DataError as error:
            return error

    def prepare(self, data: bytes, position: int) -> np.ndarray:
        """An encoded image as the model takes it."""
        if self.augmentation is None:
            return evaluation_image(data, self.preprocessing)
        draw = self.augmentation.draw(self.seed, position, self.preprocessing.interpolation)
        return training_image(data, draw, self.preprocessing, self.augmentation)


def data_loader(images: Images, steps: Iterable[list[Item]], workers: int | None) -> DataLoader:
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
    """Examples to (images [n, H, W, C], rows int64 [n], messages of those that failed).

    The images travel as a tensor: between processes PyTorch shares its memory, while an array would go through a pipe.
    """

    def __init__(self, empty: np.ndarray):
        self.empty = empty

    def __call__(self, examples: list[np.ndarray | DataError]) -> tuple[torch.Tensor, np.ndarray, list[str]]:
        good = [row for row, example in enumerate(examples) if not isinstance(example, DataError)]
        read = [example for example in examples if not isinstance(example, DataError)]
        images = np.stack(read) if read else self.empty
        faults = [str(example) for example in examples if isinstance(example, DataError)]
        return torch.from_numpy(images), np.array(good, np.int64), faults


def passed(loader: DataLoader, on_bad_image: str) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
    """The loader's batches as arrays; raises the first fault, unless bad images are to be skipped."""
    for images, good, faults in loader:
        if faults and on_bad_image != 'skip':
            raise DataError(faults[0])
        yield images.numpy(), good, faults
