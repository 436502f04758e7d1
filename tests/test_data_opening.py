"""From DATA to a set: what lies there is recognised, and each fault is one line that says what to do."""

import io
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from jeffnet import validate
from jeffnet.data import ClassFolder
from jeffnet.data.opening import looks_like, open_images, parsed
from jeffnet.data.source import DataError


def png():
    """A small image file."""
    file = io.BytesIO()
    Image.new('RGB', (40, 40), (9, 99, 199)).save(file, 'PNG')
    return file.getvalue()


@pytest.fixture
def root(tmp_path):
    """One set of each kind that needs no library."""
    (tmp_path / 'folders' / 'cat').mkdir(parents=True)
    (tmp_path / 'folders' / 'cat' / '1.png').write_bytes(png())
    (tmp_path / 'tars').mkdir()
    with tarfile.open(tmp_path / 'tars' / 'val-000.tar', 'w') as archive:
        archive.add(tmp_path / 'folders' / 'cat', 'cat')
    (tmp_path / 'records').mkdir()
    (tmp_path / 'records' / 'train-00000-of-00001').touch()
    for name in ('prepared/mnist/3.0.1', 'two/mnist/3.0.1', 'two/cifar/small/1.0.0', 'imagenet/imagenet2012', 'bare'):
        (tmp_path / name).mkdir(parents=True)
    for name in ('prepared/mnist/3.0.1', 'two/mnist/3.0.1', 'two/cifar/small/1.0.0', 'bare'):
        (tmp_path / name / 'dataset_info.json').touch()
    (tmp_path / 'bare' / 'features.json').touch()
    (tmp_path / 'hf').mkdir()
    (tmp_path / 'hf' / 'dataset_dict.json').touch()
    return tmp_path


@pytest.mark.parametrize(
    ('place', 'kind'),
    [
        ('folders', ('folder', '')),
        ('tars', ('tar', '')),
        ('tars/val-000.tar', ('tar', '')),
        ('tars/val-{000..003}.tar', ('tar', '')),
        ('tars/*.tar', ('tar', '')),
        ('records', ('tfrecord', '')),
        ('prepared', ('tfds', 'mnist')),
        ('prepared/mnist/3.0.1', ('folder', '')),  # holds no features.json: no set
        ('imagenet', ('tfds', 'imagenet2012')),
        ('bare', ('tfds', '')),
        ('hf', ('hfds', '')),
        ('nowhere', ('folder', '')),
    ],
)
def test_sets_are_recognised(place, kind, root):
    assert looks_like(str(root / place)) == kind


def test_pytorch_takes_the_folders_beside_a_tfds_set(root):
    (root / 'imagenet' / 'validation').mkdir()
    assert looks_like(str(root / 'imagenet'), 'pt') == ('folder', '')
    assert looks_like(str(root / 'imagenet'), 'tf') == ('tfds', 'imagenet2012')


def test_the_official_archives_have_to_be_prepared(root):
    (root / 'tars' / 'ILSVRC2012_img_val.tar').touch()
    with pytest.raises(DataError, match=r"ImageNet's official archives; prepare them \(python -c"):
        looks_like(str(root / 'tars'))


def test_image_folder_of_tfds_counts_in_natural_order(root):
    for name in ('2', '10', '1'):
        folder = root / 'numbers' / 'validation' / name
        folder.mkdir(parents=True)
        (folder / 'x.png').write_bytes(png())
    stream = open_images(str(root / 'numbers'), 'tf', 'imagefolder')
    assert stream.classes == ['1', '2', '10']
    for name, _, label in stream.examples().as_numpy_iterator():
        assert stream.classes[label] == name.decode().split('/')[-2]


def test_several_tfds_sets_have_to_be_told_apart(root):
    with pytest.raises(DataError, match='holds the TFDS sets cifar, mnist; choose one with --dataset'):
        looks_like(str(root / 'two'))


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('folder', ('folder', '', None)),
        ('wds', ('tar', '', None)),
        ('imagenet2012', ('tfds', 'imagenet2012', None)),
        ('imagenet2012:train', ('tfds', 'imagenet2012', 'train')),
        ('tfds/imagenet2012:5.1.0', ('tfds', 'imagenet2012:5.1.0', None)),
        ('imagenet2012:5.1.0:train', ('tfds', 'imagenet2012:5.1.0', 'train')),
        ('tfds/cifar10_corrupted/fog_1', ('tfds', 'cifar10_corrupted/fog_1', None)),
        ('hfds/timm/mini-imagenet', ('hfds', 'timm/mini-imagenet', None)),
    ],
)
def test_dataset_words(text, expected):
    assert parsed(text) == expected


def test_faults_are_said(root):
    def fails(error, pattern, *arguments):
        with pytest.raises(error, match=pattern):
            open_images(*arguments)

    fails(ValueError, 'DATA is missing', '', 'pt')
    fails(ValueError, '--dataset hfds: expected folder, tar,', str(root), 'pt', 'hfds')
    fails(ValueError, 'name two splits', str(root), 'tf', 'imagenet2012:train', 'validation')
    for pipeline in ('tf', 'pt'):
        fails(DataError, r'holds no record files validation-\*-of-\*', str(root / 'records'), pipeline)
        fails(DataError, "'imagenet2012' is not prepared; prepare it: python -c .*builder..imagenet2012.*manual_dir",
              str(root / 'imagenet'), pipeline)  # fmt: skip
        fails(FileNotFoundError, 'nowhere: no such folder; give the folder that holds mnist', str(root / 'nowhere'),
              pipeline, 'mnist')  # fmt: skip


def test_a_record_file_that_is_cut_short_is_named(root):
    (root / 'records' / 'validation-00000-of-00001').write_bytes(b'\x05' + b'\0' * 9)
    for pipeline in ('tf', 'pt'):
        with pytest.raises(DataError, match='validation-00000-of-00001: is cut short'):
            open_images(str(root / 'records'), pipeline)


def test_class_folders_are_those_of_torchvision(root):
    from torchvision.datasets import ImageFolder

    rng = np.random.default_rng(0)
    for name in ('dog', 'ant', 'deep/er'):
        (root / 'folders' / name).mkdir(parents=True)
        for index in range(3):
            image = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
            image.save(root / 'folders' / name / f'{index}.{("jpg", "tiff", "PNG")[index]}')
    theirs, ours = ImageFolder(root / 'folders'), ClassFolder.open(root / 'folders')
    assert ours.classes == theirs.classes
    assert sorted(zip(ours.paths, ours.labels.tolist(), strict=True)) == sorted(theirs.samples)


def test_workers_load_neither_jax_nor_tensorflow():
    # A worker imports the script again, then the reader.
    code = (
        'import sys, jeffnet.validate, jeffnet.data.pt, jeffnet.data.tar, jeffnet.data.hf; '
        "heavy = ('jax', 'tensorflow', 'flax', 'objax', 'torchvision', 'datasets'); "
        'print([name for name in heavy if name in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


CASES = {
    'batch-size 2: is less than one image for each of the': ['--batch-size', '2'],
    'go together': ['--coordinator', 'localhost:1'],
    'hold no averaged weights beside the raw ones': ['--ema'],
    'name two splits': ['--dataset', 'a:train', '--split', 'validation'],
    '--predictions x.txt: expected a .csv file': ['--predictions', 'x.txt'],
    'no such file': ['--class-map', 'nowhere.txt'],
    '--coordinator localhost:99999: expected HOST:PORT': [
        '--coordinator',
        'localhost:99999',
        '--num-processes',
        '2',
        '--process-id',
        '0',
    ],
    '/proc/report: cannot be written': ['--report', '/proc/report'],
    '/proc/p.csv: cannot be written': ['--predictions', '/proc/p.csv'],
    'both name weights': ['--checkpoint', 'a', '--weights', 'b'],
}


@pytest.mark.parametrize('says', CASES)
def test_bad_arguments_end_with_status_2(says, root, capfd, monkeypatch):
    monkeypatch.setattr('jax.local_device_count', lambda: 3)
    argv = [str(root / 'folders'), '--model', 'pt_mnasnet_small', '--no-pretrained', *CASES[says]]
    assert validate.main('linen', 'tf', argv) == 2
    error = capfd.readouterr().err.strip()
    assert says in error and '\n' not in error
