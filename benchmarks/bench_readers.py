"""Preparing one image on one core: milliseconds of both readers and transforms, beside timm and bare Pillow.

    python -m benchmarks.bench_readers --out results/bench-readers.csv [--images 140] [--rounds 5]

All in one process that is bound to one core, taking turns image set by image set; files are in memory already. Pillow's
time is what a user would write: decode, resize, crop, normalise in NumPy. The bar is for the `pil` transform of either
reader, whose pixels are timm's to the bit: 1.3 times as many images per second as timm's own transform.
"""

import argparse
import io
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import timm.data
import torch
from PIL import Image

from benchmarks.pictures import picture
from benchmarks.table import output, say, write_table
from jeffnet.command_line import at_least
from jeffnet.data import Preprocessing, images

BAR = 1.3
BATCH = 7  # of tf.data; each holds the same sizes of images
REPEATS = 8  # so that what it has prepared ahead when the clock starts does not count
SETTINGS = [(224, 0.875, 'bicubic'), (300, 0.904, 'bilinear')]
FILTERS = {'bicubic': Image.Resampling.BICUBIC, 'bilinear': Image.Resampling.BILINEAR}


def pillow(size: int, crop_pct: float, interpolation: str) -> Callable[[bytes], np.ndarray]:
    """Resize and crop in the plainest way."""
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])

    def prepare(data: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(data)).convert('RGB')
        scale = int(size / crop_pct) / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), FILTERS[interpolation])
        left, top = (image.width - size) // 2, (image.height - size) // 2
        image = image.crop((left, top, left + size, top + size))
        return (np.asarray(image, np.float32) / 255 - mean) / std

    return prepare


def timm_transform(size: int, crop_pct: float, interpolation: str) -> Callable[[bytes], torch.Tensor]:
    """timm's own evaluation transform."""
    transform = timm.data.create_transform(size, interpolation=interpolation, crop_pct=crop_pct)
    return lambda data: transform(Image.open(io.BytesIO(data)).convert('RGB'))


Way = Callable[[list[bytes]], float]  # files -> seconds per image


def one_by_one(prepare: Callable[[bytes], object]) -> Way:
    """A function of one file, called for all."""

    def run(files: list[bytes]) -> float:
        start = time.perf_counter()
        for data in files:
            prepare(data)
        return (time.perf_counter() - start) / len(files)

    return run


def with_tensorflow(preprocessing: Preprocessing) -> Way:
    """The tf.data pipeline on one thread, as the reader builds it; building takes 0.1 s a pass and is left out."""
    from jeffnet.data.tf_images import evaluation_image
    from jeffnet.data.tf_import import tf

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1

    def run(files: list[bytes]) -> float:
        files_again = tf.data.Dataset.from_tensor_slices(files).repeat(REPEATS)
        prepared = files_again.map(lambda data: evaluation_image(data, preprocessing))
        batches = prepared.batch(BATCH).with_options(options).as_numpy_iterator()
        next(batches)
        start = time.perf_counter()
        rest = sum(len(batch) for batch in batches)
        return (time.perf_counter() - start) / rest

    return run


def ways(size: int, crop_pct: float, interpolation: str) -> dict[str, Way]:
    """All ways of preparing a list of files, by name."""
    found = {
        'Pillow': one_by_one(pillow(size, crop_pct, interpolation)),
        'timm': one_by_one(timm_transform(size, crop_pct, interpolation)),
    }
    for kind in ('pil', 'tf'):
        preprocessing = Preprocessing(kind, size, crop_pct, interpolation)
        found[f'pt reader, {kind}'] = one_by_one(partial(images.evaluation_image, preprocessing=preprocessing))
        found[f'tf reader, {kind}'] = with_tensorflow(preprocessing)
    return found


def same_pixels(setting: tuple[int, float, str], files: list[bytes]) -> bool:
    """Whether timm's transform and the `pil` ones of both readers make the same of every file, to the bit."""
    from jeffnet.data.tf_images import evaluation_image

    size, crop_pct, interpolation = setting
    preprocessing = Preprocessing('pil', size, crop_pct, interpolation)
    theirs = timm_transform(*setting)
    for data in files:
        expected = theirs(data).numpy().transpose(1, 2, 0)
        for own in (images.evaluation_image, evaluation_image):
            if not np.array_equal(np.asarray(own(data, preprocessing=preprocessing)), expected):
                return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=output, default='results/bench-readers.csv')
    parser.add_argument('--images', type=at_least(1), default=140)
    parser.add_argument('--rounds', type=at_least(1), default=5)
    arguments = parser.parse_args()
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    torch.set_num_threads(1)
    files = []
    for index in range(arguments.images):
        file = io.BytesIO()
        picture(index).save(file, 'jpeg', quality=90)
        files.append(file.getvalue())
    rows = []
    for setting in SETTINGS:
        runs = ways(*setting)
        same = same_pixels(setting, files)
        seconds = {way: [] for way in runs}
        for _ in range(arguments.rounds + 1):
            for way, run in runs.items():
                seconds[way].append(run(files))
        seconds = {way: found[1:] for way, found in seconds.items()}  # the first round warms up
        for way, found in seconds.items():
            own, bare, timm_own = (statistics.median(seconds[name]) for name in (way, 'Pillow', 'timm'))
            rows.append(
                {
                    'image_size': setting[0],
                    'interpolation': setting[2],
                    'way': way,
                    'ms': f'{1e3 * own:.2f}',
                    'worst_ms': f'{1e3 * max(found):.2f}',
                    'of_pillow': f'{bare / own:.2f}',
                    'of_timm': f'{timm_own / own:.2f}',
                    'ok': not way.endswith('pil') or (same and timm_own / own >= BAR),
                }
            )
            say(rows[-1])
    os.sched_setaffinity(0, cores)  # of which the description tells
    return write_table(arguments.out, rows)


if __name__ == '__main__':
    sys.exit(main())
