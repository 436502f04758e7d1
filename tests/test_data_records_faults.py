"""Sets that are not there, damaged or of another kind: one line that names what is wrong."""

import json
import pickle
import shutil
import sys

import pytest

from jeffnet.data import DataError
from jeffnet.data.opening import open_training
from tests.record_sets import IMAGES, everything


def fails(pattern, data, split='train', dataset=None, error: type[Exception] = DataError):
    """Opening must fail with one line."""
    with pytest.raises(error, match=pattern) as caught:
        open_training(str(data), split, dataset)
    assert '\n' not in str(caught.value)


def rewritten(path, change):
    """A JSON file with other values."""
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))


def test_splits_that_are_not_there(imagenet, arrays):
    fails(r"TFDS set 'imagenet2012' has no split 'test'; splits there: train, validation", imagenet / 'tfds', 'test')
    fails("TFDS set 'numbers' has no split 'validation'; splits there: train", arrays[0], 'validation')
    fails('holds no record files train-.*; splits there: validation', imagenet / 'records')
    fails(
        "has no folder 'test'; splits there: train, validation", imagenet / 'folders', 'test', None, FileNotFoundError
    )
    fails(r"'train\[40:\]': the part is \[40:\]; allowed", imagenet / 'tfds', 'train[40:]')
    fails('name two splits', arrays[0], 'test', 'numbers:train', ValueError)


def test_sets_that_are_not_there(imagenet, arrays, prepared):
    fails(r"no TFDS set 'nothing'; the folder holds: downloads, imagenet2012", imagenet / 'tfds', 'train', 'nothing')
    fails('has no version 4.0.0; versions there: 5.1.0', imagenet / 'tfds', 'train', 'imagenet2012:4.0.0')
    assert len(open_training(str(imagenet / 'tfds'), 'validation', 'imagenet2012:5.*.*')) == IMAGES
    shutil.copytree(arrays[1].data_dir, prepared[0] / 'numbers' / 'other' / '1.9.0')
    shutil.copytree(arrays[1].data_dir, prepared[0] / 'numbers' / 'more' / '1.0.0')
    fails('give one of its configurations, numbers/CONFIG; there: more, other', prepared[0], 'train', 'numbers')
    for name in ('small', '.config'):  # as TFDS wrote them: the default is small
        shutil.copytree(arrays[0] / 'numbers' / name, prepared[0] / 'numbers' / name)
    assert '/small/' in open_training(str(prepared[0]), 'train', 'numbers').name(0)
    shutil.copytree(arrays[1].data_dir, prepared[0] / 'numbers' / 'other' / '1.10.0')
    source = open_training(str(prepared[0]), 'train', 'numbers/other')
    assert '1.10.0' in source.name(0)  # newer than 1.9.0
    (prepared[1] / 'dataset_info.json').unlink()
    fails("'imagenet2012' is not prepared; prepare it", prepared[0], 'train', 'imagenet2012')


def test_damaged_files_are_named(prepared):
    data, folder = prepared
    path = sorted(folder.glob('*train*'))[1]
    whole = path.read_bytes()
    for content, says in [
        (whole[:-7], 'is cut short'),
        (whole[: len(whole) // 2], 'is cut short'),
        (b'', r'holds 0 records, and dataset_info.json says \d+'),
        (whole + whole, 'holds .* records, and dataset_info.json says'),
        (b'no record' * 99, 'is no TFRecord file, or a compressed one'),
        (whole + b'\0' * 12 + b'x' * 99, r'is damaged at byte \d+'),
    ]:
        path.write_bytes(content)
        fails(f'{path.name}: {says}', data)
    path.unlink()
    fails(f'{path.name}: is missing', data)
    (folder / 'features.json').write_text('{')
    fails('features.json: cannot be read', data, 'validation')


def test_sets_of_another_kind(prepared):
    data, folder = prepared
    rewritten(folder / 'dataset_info.json', lambda info: info.update(fileFormat='riegeli'))
    fails('is stored as riegeli, which can only be read in order', data)
    rewritten(folder / 'dataset_info.json', lambda info: info.update(fileFormat='tfrecord'))
    rewritten(folder / 'features.json', lambda held: held['featuresDict']['features'].pop('label'))
    fails(r'holds file_name \(Text\), image \(Image\); expected image \(Image\) and label \(ClassLabel\)', data)
    (folder / 'dataset_info.json').write_text('[]')
    fails("dataset_info.json: has no 'name'", data)


def written(path, *examples):
    """A TFRecord file of these features."""
    from jeffnet.data.tf_import import tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for values in examples:
            lists = {
                name: tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
                if isinstance(value, int)
                else tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                for name, value in values.items()
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=lists)).SerializeToString())


def test_records_without_image_or_label_are_named(tmp_path):
    path = tmp_path / 'train-00000-of-00001'
    good = {'image/encoded': b'image', 'image/class/label': 1}
    for bad, says in [
        (
            {'image/encoded': b'image'},
            "record 1 is no tf.Example .*it has no label 'image/class/label', but: image/enc",
        ),
        ({'image/class/label': 1, 'x': b''}, "record 1 .*it has no image 'image/encoded', but: image/class/label, x"),
        ({**good, 'image/class/label': b'1'}, "record 1 .*it has no label 'image/class/label'"),
        ({**good, 'image/class/label': 0}, r'record 1: label 0 in .*; allowed: 1 to 1000, as there are 1000 classes'),
        ({**good, 'image/class/label': 1001}, 'record 1: label 1001 in .*choose another split, or correct the class'),
        ({**good, 'image/class/label': -1}, 'record 1: label -1 in'),
        ({**good, 'image/class/label': 2**32 + 1}, 'record 1: label 4294967297 in'),
    ]:
        written(path, good, bad)
        fails(f'{path.name}: {says}', tmp_path, 'train', 'tfrecord')
    written(path, good)
    source = open_training(str(tmp_path), 'train', 'tfrecord')
    assert everything(source) == [(f'{path}: record 0', b'image', 0)]
    with pytest.raises(IndexError):
        source.read(1)


def test_a_file_that_changes_is_noticed(prepared):
    data, folder = prepared
    source, path = open_training(str(data), 'train'), min(folder.glob('*train*'))
    path.write_bytes(path.read_bytes()[:-100])
    for read in (source.read, source.name, pickle.loads(pickle.dumps(source)).read):
        with pytest.raises(DataError, match=f'{path.name}: has changed since'):
            read(0)


def test_a_record_that_cannot_be_read_whole_is_named(imagenet, monkeypatch):
    source = open_training(str(imagenet / 'records'), 'validation')
    inner = source.files.files.read_at
    for left in (5, 200):  # within the names, within the image
        monkeypatch.setattr(
            source.files.files, 'read_at', lambda number, at, size, n=left: inner(number, at, min(size, n))
        )
        with pytest.raises(DataError, match=r'validation-00000-of-00002: record 2: is damaged \('):
            source.read(2)


def test_array_record_files_need_their_package(arrays, monkeypatch):
    monkeypatch.setitem(sys.modules, 'array_record.python.array_record_data_source', None)
    fails('ArrayRecord files need .*, which is not installed: pip install array_record', arrays[0])


def test_damaged_array_record_files_are_named(arrays, tmp_path):
    folder = shutil.copytree(arrays[1].data_dir, tmp_path / 'set')
    path = min(folder.glob('*.array_record-*'))
    path.write_bytes(path.read_bytes()[:-100])
    fails('array_record-00000-of-00002: ', folder)
