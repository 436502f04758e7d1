"""Augmented batches: the same bits from both readers, for every policy, number of processes and start.

conftest.py has imported torchvision before: after TensorFlow, it would abort the process.
"""

import gc
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jeffnet.data import Augmentation, ClassFolder, Preprocessing, policies, pt, tf
from jeffnet.data.images import training_image
from jeffnet.data.order import Shard, training_batch
from jeffnet.data.source import DataError


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Eleven small images: JPEG, PNG, and one of a single value."""
    root = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(5)
    for index in range(11):
        height, width = rng.integers(20, 90, 2)
        blocks = rng.integers(0, 256, (height // 9 + 1, width // 9 + 1, 3)).repeat(9, 0).repeat(9, 1)[:height, :width]
        image = (
            np.full_like(blocks, 90) if index == 7 else np.clip(blocks + rng.integers(-30, 30, blocks.shape), 0, 255)
        )
        target = root / f'class{index % 3}' / f'{index}.{"png" if index % 2 else "jpg"}'
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(target)
    return ClassFolder.open(root)


SMALL = Preprocessing('pil', (29, 35))


def batches(reader, folder, augmentation, count=3, preprocessing=SMALL, batch_size=12, **options):
    """The first batches of a stream."""
    options = {'workers': 0, **options} if reader is pt else options
    stream = reader.training_batches(folder, preprocessing, augmentation, batch_size, seed=6, **options)
    try:
        return [next(stream) for _ in range(count)]
    finally:
        stream.close()


@pytest.mark.parametrize(
    ('auto', 'channels'),
    [(None, 3), ('rand-m9-mstd0.5-inc1', 3), ('rand-m9-mstd0.5-inc1', 1), ('rand-m9-n3-tweights', 3), ('v0', 3),
     ('v0r', 3), ('original-mstd0.5', 3), ('originalr', 3), ('3a', 3), ('augmix-m5-w4-d2', 3), ('augmix-m9-b1', 1),
     ('augmix-m9-b1', 3), ('tf-randaug-n2-m15', 3)],
)  # fmt: skip
def test_both_readers_give_the_same_bits(folder, auto, channels):
    augmentation = Augmentation(auto=auto, color_jitter=(0.4, 0.4, 0.4, 0.2), interpolation='random', vflip=0.3)
    preprocessing = Preprocessing('pil', (29, 35), in_chans=channels)
    pairs = zip(*(batches(reader, folder, augmentation, 3, preprocessing) for reader in (pt, tf)), strict=True)
    for ours, theirs in pairs:  # 36 images
        assert (ours['image'] == theirs['image']).all() and (ours['label'] == theirs['label']).all()
        assert ours['image'].shape == (12, 29, 35, channels) and ours['label'].dtype == np.int32


def test_operations_follow_crop_and_flips(folder):
    """A pixel-wise operation changes what crop and flips leave, and nothing else."""
    plain, changed = (
        batches(pt, folder, Augmentation(vflip=0.5, **more), 1)[0]['image'] for more in ({}, {'auto': '3a'})
    )
    mean, std = np.float32(SMALL.mean), np.float32(SMALL.std)
    plain, changed = (np.rint((image * std + mean) * 255).astype(int) for image in (plain, changed))
    for position, (before, after) in enumerate(zip(plain, changed, strict=True)):
        draw = Augmentation(vflip=0.5, auto='3a').draw(6, position)
        if policies.OPERATIONS[draw.operations.codes[0]] == 'Solarize':
            assert (after == np.where(before < 128, before, 255 - before)).all()


def test_tf_pixels_are_rounded_to_bytes_before_operations(folder):
    """Both readers agree but for sums of the resize that are half-way between two bytes."""
    preprocessing = Preprocessing('tf', 29, mean=0.0, std=1.0)
    augmentation = Augmentation(auto='tf-randaug-m1')
    ours, theirs = (batches(reader, folder, augmentation, 1, preprocessing)[0]['image'] * 255 for reader in (pt, tf))
    assert np.abs(ours - np.rint(ours)).max() < 1e-4  # whole numbers, once through float32
    assert (np.rint(ours) != np.rint(theirs)).mean() < 0.001


@pytest.mark.parametrize(('reader', 'counts'), [(pt, (2, 4)), (tf, (2,))])
def test_shards_make_up_the_whole(reader, counts, folder):
    augmentation = Augmentation(interpolation='random')  # operations would only add time
    whole = batches(reader, folder, augmentation, 2, repeats=3, start_step=2)
    for count in counts:
        parts = [
            batches(reader, folder, augmentation, 2, shard=Shard(rank, count), repeats=3, start_step=2)
            for rank in range(count)
        ]
        for step, batch in enumerate(whole):
            for key in batch:
                assert (np.concatenate([part[step][key] for part in parts]) == batch[key]).all()
    with pytest.raises(ValueError, match='batch_size is 12; allowed: multiples of 5, the processes'):
        reader.training_batches(folder, SMALL, augmentation, 12, 6, shard=Shard(0, 5))


@pytest.mark.parametrize('reader', [pt, tf])
def test_repeats_show_an_image_with_several_augmentations(reader, folder):
    images, labels = (np.concatenate([b[key] for b in batches(reader, folder, Augmentation(), 3, repeats=3)])
                      for key in ('image', 'label'))  # fmt: skip
    groups = labels[:33].reshape(11, 3)
    assert (groups == groups[:, :1]).all()
    assert sorted(groups[:, 0]) == sorted(folder.labels)
    first = images[:33].reshape(11, 3, -1)
    same = (first[:, 0] == first[:, 1]).all(axis=1) | (first[:, 1] == first[:, 2]).all(axis=1)
    assert same.sum() <= 1  # that of a single value


@pytest.mark.parametrize('reader', [pt, tf])
def test_any_step_starts_at_once_and_sizes_may_change(reader, folder):
    augmentation = Augmentation()
    far = batches(reader, folder, augmentation, 2, start_step=100_000)
    again = batches(reader, folder, augmentation, 1, start_step=100_001)
    assert (far[1]['image'] == again[0]['image']).all()
    larger = batches(reader, folder, augmentation, 1, Preprocessing('pil', 40), start_step=100_001)
    assert larger[0]['image'].shape[1:] == (40, 40, 3) and (larger[0]['label'] == again[0]['label']).all()


class Lazy:
    """A source whose labels are computed when they are first asked for, and that cannot be asked in a worker."""

    def __init__(self, folder):
        self.paths, self.classes, self.asked = folder.paths, folder.classes, 0

    @property
    def labels(self):
        self.asked += 1
        return np.arange(len(self.paths), dtype=np.int64)

    def __len__(self):
        return len(self.paths)

    def name(self, index):
        return self.paths[index]

    def read(self, index):
        with open(self.paths[index], 'rb') as file:
            return file.read()


@pytest.mark.parametrize('reader', [pt, tf])
def test_labels_are_asked_for_once_and_only_when_needed(reader, folder):
    source = Lazy(folder)
    stream = reader.training_batches(source, SMALL, Augmentation(), 4, 0, **({'workers': 0} if reader is pt else {}))
    assert source.asked == 0
    labels = [next(stream)['label'] for _ in range(3)]
    stream.close()
    assert source.asked == 1 and labels[0].dtype == np.int32


def test_workers_give_the_same_batches_and_end_when_closed(folder):
    augmentation = Augmentation(auto='rand-m9-mstd0.5-inc1')
    assert 'paths' not in vars(pt.Images(folder, SMALL).files)  # the index of a class folder stays at home
    alone = batches(pt, folder, augmentation, 3)
    before = set(multiprocessing.active_children())
    stream = pt.training_batches(folder, SMALL, augmentation, 12, seed=6, workers=1)
    for expected in alone:
        found = next(stream)
        assert (found['image'] == expected['image']).all() and (found['label'] == expected['label']).all()
    assert len(set(multiprocessing.active_children()) - before) == 1
    stream.close()  # with batches still on their way
    del stream
    gc.collect()
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.parametrize('reader', [pt, tf])
def test_bad_arguments_fail_before_the_first_batch(reader, folder):
    for arguments, message in (((0, 1), 'batch_size is 0'), ((4, -1), 'seed is -1'), ((4, 0, -1), 'step is -1')):
        with pytest.raises(ValueError, match=message):
            reader.training_batches(folder, SMALL, Augmentation(), *arguments)
    with pytest.raises(ValueError, match='repeats is 0; allowed: 1 or more'):
        reader.training_batches(folder, SMALL, Augmentation(), 4, 0, repeats=0)


# ------------------------------------------------------------------------------------------- images that cannot be read


@pytest.fixture
def damaged(folder, tmp_path):
    """The folder with two files in a row that are none, and one that is cut short."""
    root = tmp_path / 'damaged'
    shutil.copytree(Path(folder.paths[0]).parents[1], root)
    source = ClassFolder.open(root)
    for place in (3, 4):
        Path(source.paths[place]).write_bytes(b'no image')
    Path(source.paths[8]).write_bytes(Path(source.paths[8]).read_bytes()[:40])
    return source


@pytest.mark.parametrize('reader', [pt, tf])
def test_the_next_image_stands_in_for_one_that_cannot_be_read(reader, folder, damaged):
    augmentation, faults = Augmentation(interpolation='random'), []
    found = batches(reader, damaged, augmentation, 3, on_bad_image=faults.append)
    assert {Path(fault.partition(': ')[0]).name for fault in faults} == {Path(damaged.paths[i]).name for i in (3, 4, 8)}
    stand_in = {3: 5, 4: 5, 8: 9}
    for step, (batch, whole) in enumerate(zip(found, batches(reader, folder, augmentation, 3), strict=True)):
        index, position = training_batch(6, step, 12, 11)
        places = [stand_in.get(int(i), int(i)) for i in index]
        assert (batch['label'] == np.asarray(folder.labels)[places]).all()
        same = np.array(places) == index
        assert (batch['image'][same] == whole['image'][same]).all()
        for row in np.flatnonzero(~same):
            draw = augmentation.draw(6, int(position[row]), SMALL.interpolation)
            data = Path(damaged.paths[places[row]]).read_bytes()
            assert (batch['image'][row] == training_image(data, draw, SMALL, augmentation)).all()
    parts = [batches(reader, damaged, augmentation, 3, shard=Shard(k, 2), on_bad_image=faults.append) for k in (0, 1)]
    for batch, *shards in zip(found, *parts, strict=True):
        assert (np.concatenate([shard['image'] for shard in shards]) == batch['image']).all()


@pytest.mark.parametrize('reader', [pt, tf])
def test_a_set_without_images_that_can_be_read_ends(reader, damaged):
    for path in damaged.paths:
        Path(path).write_bytes(b'no image')
    with pytest.raises(DataError, match='11 images in a row cannot be read, the last is'):
        batches(reader, damaged, Augmentation(), 1, on_bad_image=lambda fault: None)
