"""The data order, the padding of evaluation batches, and the index of a folder; no reader is imported."""

import os
import subprocess
import sys

import numpy as np
import pytest

from jeffnet.data import Augmentation, ClassFolder, DataError
from jeffnet.data.order import EvaluationBatches, Rows, Shard, pad_batch, permutation, training_batch


def drawn(seed, steps, batch_size, size):
    """The indices of some steps, one after the other."""
    return np.concatenate([training_batch(seed, step, batch_size, size)[0] for step in steps])


@pytest.mark.parametrize(('batch_size', 'size'), [(1, 7), (4, 10), (8, 8), (16, 5), (100, 33)])
def test_every_epoch_is_a_permutation(batch_size, size):
    epochs = 3 * batch_size  # so many epochs are a whole number of batches
    order = drawn(3, range(epochs * size // batch_size), batch_size, size).reshape(epochs, size)
    assert (np.sort(order, axis=1) == np.arange(size)).all()
    assert len({tuple(epoch) for epoch in order}) > 1


def test_a_batch_depends_on_seed_and_step_only():
    straight = drawn(5, range(9), 6, 20)
    permutation.cache_clear()
    assert (drawn(5, range(4, 9), 6, 20) == straight[24:]).all()
    assert (drawn(5, reversed(range(9)), 6, 20).reshape(9, 6)[::-1].ravel() == straight).all()
    assert (drawn(5, range(18), 3, 20) == straight).all()  # another batch size: the same order
    assert (drawn(6, range(9), 6, 20) != straight).any()


def test_the_order_does_not_change_with_a_release():
    assert training_batch(0, 0, 8, 10)[0].tolist() == [0, 7, 8, 6, 9, 5, 1, 3]
    assert permutation(seed=1, epoch=2, size=6).tolist() == [5, 0, 4, 2, 3, 1]


def test_positions_count_on_over_epochs():
    assert training_batch(0, 3, 4, 5)[1].tolist() == [12, 13, 14, 15]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((-1, 0, 4, 9), 'seed is -1'),
        ((0, -1, 4, 9), 'step is -1'),
        ((0, 0, 0, 9), 'batch_size is 0'),
        ((0, 0, 4, 0), 'size is 0'),
    ],
)
def test_bad_order_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        training_batch(*arguments)


def test_augmentation_depends_on_seed_and_position_only():
    augmentation = Augmentation()
    crops = augmentation.draw(7, 1000).crops
    assert (crops == augmentation.draw(7, 1000).crops).all()
    assert (crops != augmentation.draw(7, 1001).crops).any()
    assert (crops != augmentation.draw(8, 1000).crops).any()
    many = np.stack([augmentation.draw(7, position).crops for position in range(200)])
    assert many[..., 0].min() >= 0.08 and many[..., 0].max() <= 1
    assert many[..., 1].min() >= 3 / 4 and many[..., 1].max() <= 4 / 3
    assert 60 < sum(augmentation.draw(7, position).hflip for position in range(200)) < 140


def test_last_batch_is_padded_and_masked():
    rows = Rows(np.ones((3, 2, 2, 1), np.float32), np.array([4, 5, 6]), np.arange(3), [])
    batch = pad_batch(rows, np.array([7, 8, 9]), 5)
    assert batch['image'].shape == (5, 2, 2, 1) and batch['image'][3:].sum() == 0
    assert batch['label'].tolist() == [4, 5, 6, 0, 0] and batch['label'].dtype == np.int32
    assert batch['mask'].tolist() == [True, True, True, False, False]
    assert batch['index'].tolist() == [7, 8, 9, -1, -1]
    assert pad_batch(rows, np.array([7, 8, 9]), 3)['image'] is rows.images


def test_rows_that_failed_are_masked_where_they_are():
    rows = Rows(np.ones((2, 1, 1, 1), np.float32), np.array([4, 5]), np.array([0, 2]), ['x: is broken'])
    batch = pad_batch(rows, np.array([7, 8, 9]), 4)
    assert batch['mask'].tolist() == [True, False, True, False] and batch['index'].tolist() == [7, 8, 9, -1]
    assert batch['label'].tolist() == [4, 0, 5, 0] and batch['image'].ravel().tolist() == [1, 0, 1, 0]


def test_evaluation_batches_can_be_read_again():
    images, labels = np.zeros((2, 1, 1, 1), np.float32), np.array([1, 0])
    first, last = Rows(images, labels, np.arange(2), []), Rows(images[:1], labels[:1], np.arange(1), ['x: is broken'])
    batches = EvaluationBatches(lambda: [first, last], np.array([0, 2, 4]), 2)
    assert len(batches) == 2 and batches.size == 3
    for _ in range(2):
        assert [batch['index'].tolist() for batch in batches] == [[0, 2], [4, -1]]
        assert batches.faults == ['x: is broken']
    with pytest.raises(ValueError, match='batch_size is 0'):
        EvaluationBatches(list, np.arange(3), 0)


@pytest.mark.parametrize('size', [0, 1, 5, 12])
@pytest.mark.parametrize('count', [1, 2, 5])
def test_shards_share_a_set_out(size, count):
    parts = [Shard(rank, count).indices(size) for rank in range(count)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(ValueError, match=f'shard is {count} of {count}; allowed'):
        Shard(count, count)


# --- class folders


@pytest.fixture
def data(tmp_path):
    """train/ and val/ with the classes cat and dog; only names matter here, the files are empty."""
    for name in (
        'train/dog/b.JPG',
        'train/dog/a.png',
        'train/cat/deep/x.webp',
        'train/cat/note.txt',
        'val/dog/v.bmp',
        'val/cat/v.jpeg',
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / 'train' / '.cache').mkdir()
    return tmp_path


def test_paths_and_labels_are_sorted(data):
    folder = ClassFolder.open(data / 'train')
    assert folder.classes == ['cat', 'dog'] and len(folder) == 3
    inside = [path.removeprefix(str(folder.root)) for path in folder.paths]
    assert inside == [
        '/cat/deep/x.webp',
        '/dog/a.png',
        '/dog/b.JPG',
    ]
    assert folder.labels.tolist() == [0, 1, 1] and folder.labels.dtype == np.int32


def test_classes_are_in_natural_order_as_timm_has_them(tmp_path):
    names = ['0', '2', '10', '999', 'b2', 'B10', 'c']
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / 'x.png').touch()
        (tmp_path / name / '._x.png').touch()  # beside a file, by macOS
    folder = ClassFolder.open(tmp_path)
    assert folder.classes == names and len(folder) == len(names)


@pytest.mark.parametrize('split', [None, 'val', 'validation'])
def test_validation_is_found_under_both_names(data, split):
    assert ClassFolder.open(data, split).root == data / 'val'
    assert ClassFolder.open(data / 'val', split).root == data / 'val'


def test_links_are_followed_but_not_in_circles(data):
    (data / 'train' / 'cat' / 'back').symlink_to(data / 'train' / 'cat', target_is_directory=True)
    (data / 'train' / 'cat' / 'other').symlink_to(data / 'val' / 'dog', target_is_directory=True)
    (data / 'train' / 'cat' / 'gone.png').symlink_to(data / 'nowhere.png')
    os.mkfifo(data / 'train' / 'cat' / 'pipe.png')
    (data / 'train' / 'cat' / 'folder.png').mkdir()
    folder = ClassFolder.open(data / 'train')
    names = [os.path.relpath(path, folder.root / 'cat') for path in folder.paths if '/cat/' in path]
    assert names == ['deep/x.webp', 'gone.png', 'other/v.bmp']


def test_class_order_can_be_given(data):
    folder = ClassFolder.open(data, 'train', classes=['dog', 'bird', 'cat'])
    assert folder.classes == ['dog', 'bird', 'cat'] and folder.labels.tolist() == [0, 0, 2]


def test_folder_errors_name_path_and_remedy(data):
    def fails(error, pattern, *arguments, **keywords):
        with pytest.raises(error, match=pattern):
            ClassFolder.open(*arguments, **keywords)

    fails(FileNotFoundError, 'nowhere: no such folder; give', data / 'nowhere')
    fails(FileNotFoundError, "has no folder 'test'; give the parent", data, 'test')
    fails(DataError, 'is a file; give a folder', data / 'train' / 'dog' / 'a.png')
    fails(DataError, 'holds no class folders; expected one sub-folder', data / 'train' / 'dog')
    fails(DataError, "does not know 1 of 2 class folders, such as 'dog'; remove", data, 'train', classes=['cat'])
    (data / 'train' / 'emu').mkdir()
    fails(DataError, r'emu: holds no image \(.jpg.*\); add images or remove', data, 'train')


def test_readers_and_package_import_nothing_they_do_not_need():
    checks = 'import sys; import {}; assert not {} & set(sys.modules), sys.modules.keys()'
    heavy = {'jax', 'tensorflow', 'torch', 'torchvision'}
    for module, unwanted in (
        ('jeffnet.data', heavy),
        ('jeffnet.validate', heavy),
        ('jeffnet.data.pt', heavy - {'torch'}),
    ):
        subprocess.run([sys.executable, '-c', checks.format(module, unwanted)], check=True)
