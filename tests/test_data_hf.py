"""Hugging Face data sets give the bytes and labels that were stored, in every process, or say what is wrong."""

import io
import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import huggingface_hub
import numpy as np
import pytest
from PIL import Image

from jeffnet.data.hf import HubDataset
from jeffnet.data.source import DataError

datasets = pytest.importorskip('datasets')

NAMES = ['owl', 'cat', 'dog']


def picture(number):
    """A PNG file; random pixels make sure that a second encoding has another length."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (4, 5, 3), np.uint8)).save(stream, 'png')
    return stream.getvalue() + b'kept'


LABELS = [2, 0, 1, 2]
IMAGES = [picture(n) for n in range(4)]
FILES = [{'bytes': image, 'path': f'{n}.png'} for n, image in enumerate(IMAGES)]


def rows(split=None, label=None, image=None, **columns):
    """A set of four rows, with the features that are given."""
    columns = {'id': (list('abcd'), datasets.Value('string')), **columns}
    columns['image'] = (FILES, image or datasets.Image())
    columns['label'] = (LABELS, label or datasets.ClassLabel(names=NAMES))
    features = datasets.Features({name: feature for name, (_, feature) in columns.items()})
    return datasets.Dataset.from_dict({name: data for name, (data, _) in columns.items()}, features, split=split)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No network, a cache of its own for what load_dataset prepares, and no progress bars."""
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')  # for processes that a test starts; this one has read it already
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(datasets.config, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
    datasets.disable_progress_bars()


@pytest.fixture
def saved(tmp_path):
    """A folder of save_to_disk with train and validation, whose rows are those of `rows` in other orders."""
    splits = {'train': rows().select([3, 1]), 'validation': rows().select([2, 0, 1])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / 'saved')
    return tmp_path / 'saved'


def read_all(source):
    return [source.read(i) for i in range(len(source))]


def test_saved_splits(saved):
    source = HubDataset.open(saved)
    assert len(source) == 3 and source.labels.dtype == np.int32
    assert source.labels.tolist() == [1, 2, 0] and source.classes == NAMES
    assert read_all(source) == [IMAGES[2], IMAGES[0], IMAGES[1]]
    assert source.name(1) == f'{saved}[validation]::1 (0.png)'
    assert source.read(-1) == IMAGES[1] and source.read(np.int64(0)) == IMAGES[2]
    with pytest.raises(IndexError):
        source.read(3)
    for split in ('val', None):
        assert read_all(HubDataset.open(saved, split)) == read_all(source)
    train = HubDataset.open(str(saved), 'train')
    assert train.labels.tolist() == [2, 0] and read_all(train) == [IMAGES[3], IMAGES[1]]


def test_other_processes_and_threads_read(saved):
    source = HubDataset.open(saved)
    assert len(pickle.dumps(source)) < 20_000
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        assert list(pool.map(source.read, range(3))) == [IMAGES[2], IMAGES[0], IMAGES[1]]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.read, list(range(3)) * 50)) == [IMAGES[2], IMAGES[0], IMAGES[1]] * 50


def test_pickle_does_not_hold_the_images(tmp_path):
    big = {'bytes': bytes(1 << 20), 'path': None}
    features = datasets.Features({'image': datasets.Image(), 'label': datasets.ClassLabel(names=NAMES)})
    table = datasets.Dataset.from_dict({'image': [big] * 4, 'label': LABELS}, features)
    table.save_to_disk(tmp_path / 'validation')
    table.to_parquet(tmp_path / 'parquet' / 'validation-00000.parquet')
    for folder in ('validation', 'parquet'):
        source = HubDataset.open(tmp_path / folder)
        assert len(pickle.dumps(source)) < 20_000
        assert read_all(pickle.loads(pickle.dumps(source))) == [bytes(1 << 20)] * 4


def test_parquet_folder(tmp_path):
    rows().to_parquet(tmp_path / 'set' / 'validation-00000-of-00001.parquet')
    rows().select([1]).to_parquet(tmp_path / 'set' / 'train-00000-of-00001.parquet')
    source = HubDataset.open(tmp_path / 'set')
    assert read_all(source) == IMAGES and source.labels.tolist() == LABELS and source.classes == NAMES
    assert read_all(HubDataset.open(tmp_path / 'set', 'train')) == [IMAGES[1]]


def test_image_folder_refers_to_files(tmp_path):
    for index, (label, image) in enumerate(zip(LABELS, IMAGES, strict=True)):
        path = tmp_path / 'set' / ('val' if index else 'train') / NAMES[label] / f'{index}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    source = HubDataset.open(tmp_path / 'set')
    found = {source.read(i): source.classes[label] for i, label in enumerate(source.labels)}
    assert found == {image: NAMES[label] for image, label in list(zip(IMAGES, LABELS, strict=True))[1:]}
    assert f'{tmp_path}/set/val/{source.classes[source.labels[0]]}/' in source.name(0)
    (next((tmp_path / 'set/val/owl').iterdir())).unlink()
    with pytest.raises(FileNotFoundError, match=r'owl/1\.png'):
        read_all(source)


@pytest.mark.parametrize('form', ['torch', 'pandas'])
def test_saved_format_and_encoding(tmp_path, form):
    table = rows('validation', image=datasets.Image(decode=False)).with_format(form)
    table.save_to_disk(tmp_path / 'a')
    source = HubDataset.open(tmp_path / 'a')
    assert read_all(source) == IMAGES and source.labels.tolist() == LABELS


def test_columns_are_found_by_type_then_by_name(tmp_path):
    coarse, fine = datasets.ClassLabel(names=['x', 'y']), datasets.ClassLabel(names=['p', 'q', 'r'])
    other = {'mask': (FILES[::-1], datasets.Image()), 'coarse_label': ([0, 1, 0, 1], coarse)}
    table = rows('validation', **other, kind=(['b', 'a', 'b', 'b'], datasets.Value('string')))
    table.save_to_disk(tmp_path / 'a')
    source = HubDataset.open(tmp_path / 'a')
    assert read_all(source) == IMAGES and source.labels.tolist() == LABELS
    source = HubDataset.open(tmp_path / 'a', image_column='mask', label_column='coarse_label')
    assert read_all(source) == IMAGES[::-1] and source.labels.tolist() == [0, 1, 0, 1] and source.classes == ['x', 'y']
    source = HubDataset.open(tmp_path / 'a', label_column='kind')
    assert source.labels.tolist() == [1, 0, 1, 1] and source.classes == ['a', 'b']
    table = table.rename_columns({'label': 'fine_label', 'image': 'photo', 'mask': 'img'}).cast_column(
        'fine_label', fine
    )
    table.rename_column('id', 'image').save_to_disk(tmp_path / 'b')  # of text, and so not meant
    source = HubDataset.open(tmp_path / 'b')
    assert read_all(source) == IMAGES[::-1] and source.classes == ['p', 'q', 'r']
    table.rename_columns({'fine_label': 'one', 'img': 'other'}).save_to_disk(tmp_path / 'c')
    with pytest.raises(
        ValueError, match='several image columns; give image_column one of id, other, coarse_label, kind'
    ):
        HubDataset.open(tmp_path / 'c')
    with pytest.raises(ValueError, match=r'several label columns; give label_column one of id, other, .*, photo, one$'):
        HubDataset.open(tmp_path / 'c', image_column='photo')
    with pytest.raises(ValueError, match=r"a\[validation\]: has no column 'x'; give label_column one of id, mask, "):
        HubDataset.open(tmp_path / 'a', label_column='x')
    table.remove_columns(['fine_label', 'coarse_label']).save_to_disk(tmp_path / 'd')
    with pytest.raises(ValueError, match=r'has no label column; give label_column one of id, img, kind, photo$'):
        HubDataset.open(tmp_path / 'd')


def test_raw_bytes_and_numbers_without_names(tmp_path):
    columns = {'jpg': IMAGES, 'cls': LABELS}
    datasets.Dataset.from_dict(columns, split='validation').save_to_disk(tmp_path / 'a')
    source = HubDataset.open(tmp_path / 'a')
    assert read_all(source) == IMAGES and source.labels.tolist() == LABELS and source.classes == ['0', '1', '2']
    assert source.name(2) == f'{tmp_path}/a[validation]::2'
    assert HubDataset.open(tmp_path / 'a', classes=NAMES).classes == NAMES


def test_classes_asked_for(saved):
    source = HubDataset.open(saved, 'validation', ['cat', 'dog', 'fox', 'owl'])
    assert source.labels.tolist() == [0, 1, 3] and source.classes == ['cat', 'dog', 'fox', 'owl']
    assert HubDataset.open(saved, 'validation', tuple(NAMES)).labels.tolist() == [1, 2, 0]
    with pytest.raises(DataError, match=r"saved\[validation\]::2 .*: 'owl' is not among the classes asked for"):
        HubDataset.open(saved, 'validation', ['cat', 'dog'])


def test_split_that_is_not_there(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="saved: has no split 'test'; splits there: train, validation"):
        HubDataset.open(saved, 'test')
    rows().save_to_disk(tmp_path / 'one')
    with pytest.raises(FileNotFoundError, match='one: does not tell which split it is; give split=None'):
        HubDataset.open(tmp_path / 'one')
    assert read_all(HubDataset.open(tmp_path / 'one', None)) == IMAGES
    rows('train').save_to_disk(tmp_path / 'two')
    with pytest.raises(FileNotFoundError, match="two: has no split 'validation'; splits there: train"):
        HubDataset.open(tmp_path / 'two')
    datasets.DatasetDict({'a': rows(), 'b': rows()}).save_to_disk(tmp_path / 'three')
    with pytest.raises(FileNotFoundError, match='three: has several splits; give one of them; splits there: a, b'):
        HubDataset.open(tmp_path / 'three', None)


@pytest.mark.parametrize(
    ('columns', 'message'),
    [
        ({'image': [[[1, 2]]], 'label': [0]}, "column 'image' holds List values, not image files; give another"),
        ({'image': [7], 'label': [0]}, "column 'image' holds Value values, not image files"),
        ({'image': [b''], 'label': [0.5]}, "column 'label' holds float.*, no class; give another label_column"),
        ({'image': [b''], 'label': [[1, 2]]}, "column 'label' holds [Ll]ist, no class"),
        ({'image': [b''], 'label': [-1]}, r'a\[validation\]::0: label -1 is negative'),
        ({'image': [b'', b''], 'label': [1, None]}, r"a\[validation\]::1: has no label in column 'label'"),
    ],
)
def test_unusable_columns(tmp_path, columns, message):
    datasets.Dataset.from_dict(columns, split='validation').save_to_disk(tmp_path / 'a')
    with pytest.raises(DataError, match=message) as error:
        HubDataset.open(tmp_path / 'a')
    assert '\n' not in str(error.value)


def test_rows_without_image(saved, monkeypatch):
    features = datasets.Features({'image': datasets.Image(decode=False), 'label': datasets.Value('int64')})
    images = [None, {'bytes': None, 'path': ''}, {'bytes': None, 'path': 'hf://x/y.png'}]
    table = datasets.Dataset.from_dict({'image': images, 'label': [0, 0, 0]}, features)
    monkeypatch.setattr(datasets, 'load_from_disk', lambda *_, **__: table)  # save_to_disk does not write such rows
    source = HubDataset.open(saved, None)
    causes = 'has no image; remove', 'has no image; remove', 'only refers to hf://x/y.png; download'
    for index, cause in enumerate(causes):
        with pytest.raises(DataError, match=f'saved::{index}: {cause}'):
            source.read(index)
    names = '::0', '::1', '::2 (hf://x/y.png)'
    assert [source.name(i) for i in range(3)] == [f'{saved}{name}' for name in names]


def test_empty_split(saved, monkeypatch):
    empty = datasets.DatasetDict({'validation': rows().select([])})
    monkeypatch.setattr(datasets, 'load_from_disk', lambda *_, **__: empty)  # it cannot read an empty set itself
    with pytest.raises(DataError, match=r'saved\[validation\]: holds no images; choose another split'):
        HubDataset.open(saved)


def test_set_that_is_not_there(tmp_path):
    with pytest.raises(
        (FileNotFoundError, DataError), match=r'someone/nothing: cannot be loaded as .*; check'
    ) as error:
        HubDataset.open('someone/nothing')
    assert '\n' not in str(error.value)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='empty: cannot be loaded as a Hugging Face data set'):
        HubDataset.open(tmp_path / 'empty')
    (tmp_path / 'empty' / 'dataset_dict.json').write_text('no JSON')
    with pytest.raises(DataError, match=r'empty: cannot be loaded .*; save it anew with save_to_disk'):
        HubDataset.open(tmp_path / 'empty')


def test_package_that_is_not_installed(monkeypatch, saved):
    monkeypatch.setitem(sys.modules, 'datasets', None)
    with pytest.raises(DataError, match="the package 'datasets', which is not installed; pip install datasets"):
        HubDataset.open(saved)


@pytest.mark.parametrize('module', ['tar', 'hf'])
def test_import_is_light(module):
    code = f'import sys, jeffnet.data.{module}; print(*sys.modules)'
    loaded = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split()
    assert not {'jax', 'tensorflow', 'torch', 'datasets'} & set(loaded)
