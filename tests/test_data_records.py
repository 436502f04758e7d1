"""TFDS sets and TFRecord files read in any order are what TFDS, TensorFlow and protobuf read, without any of them."""

import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from jeffnet.data import ClassFolder, DataError, Preprocessing, pt, records, records_index
from jeffnet.data.augmentation import Augmentation
from jeffnet.data.imagenet import synsets
from jeffnet.data.opening import open_images, open_training
from jeffnet.data.records_index import Keys, Window
from tests.record_sets import IMAGES, SHARDS, everything

ROOT = Path(__file__).parents[1]
PIL = Preprocessing('pil', 32)


def of_tfds(builder, split):
    """The same as TFDS reads it, one file after the other."""
    import tensorflow_datasets as tfds

    if builder.info.file_format.value == 'array_record':  # of which as_dataset makes none
        examples = builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})
        return [('', example['image'], int(example['label'])) for example in examples]
    examples = builder.as_dataset(
        split=split,
        decoders={'image': tfds.decode.SkipDecoding()},
        shuffle_files=False,
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )
    return [
        (os.fsdecode(example.get('file_name', b'')), example['image'], int(example['label']))
        for example in examples.as_numpy_iterator()
    ]


# --- what is read


@pytest.mark.parametrize(
    'split',
    ['train', 'validation', 'train[:90%]', 'train[90%:]', 'train[10%:]', 'train[:5]', 'train[-7:]', 'train[11:12]',
     'train[33.4%:-10%]', 'validation[9:22]'],
)  # fmt: skip
def test_a_tfds_set_is_what_tfds_reads(split, imagenet):
    import tensorflow_datasets as tfds

    builder = tfds.builder('imagenet2012', data_dir=imagenet / 'tfds')
    assert builder.info.splits['train'].num_shards == SHARDS
    source = open_training(str(imagenet / 'tfds'), split)
    assert everything(source) == of_tfds(builder, split)
    assert source.classes == builder.info.features['label'].names == synsets()
    assert source.labels.dtype == np.int32 and len(source) == builder.info.splits[split].num_examples


def test_parts_are_rounded_as_by_tfds():
    import tensorflow_datasets as tfds

    slices = [
        ':',
        ':10%',
        '50%:',
        '-10%:',
        ':-25%',
        '12.5%:87.5%',
        '3:',
        ':7',
        '-4:',
        '2:-2',
        '1_0:',
        '10:50%',
        '5%:5%',
    ]
    for size in (10, 11, 25, 999, 1_281_167):
        info = tfds.core.SplitInfo(name='train', shard_lengths=[size], num_bytes=0)
        for part in slices:
            split = 'train' if part == ':' else f'train[{part}]'
            (theirs,) = tfds.core.splits.AbstractSplit.from_spec(split).to_absolute({'train': info})
            start, stop = theirs.from_ or 0, size if theirs.to is None else theirs.to
            if start < stop:
                assert records.part_bounds(part, size, split) == (start, stop), (size, part)
            else:
                with pytest.raises(DataError, match='not empty'):
                    records.part_bounds(part, size, split)


@pytest.mark.parametrize('part', ['', '3', ':101%', '11:', ':-11', '5:5', '1.5:', 'a:', ':%', '1:2:3', '-:', '.%:'])
def test_parts_that_are_none(part):
    with pytest.raises(DataError, match=r'split: the part is \[.*\]; allowed: \[START:STOP\] of 10 examples'):
        records.part_bounds(part, 10, 'split')


def test_record_files_are_what_tensorflow_reads(imagenet):
    stream = open_images(str(imagenet / 'records'), 'tf')
    source = open_images(str(imagenet / 'records'), 'pt')
    theirs = [(os.fsdecode(name), data, int(label)) for name, data, label in stream.examples().as_numpy_iterator()]
    assert everything(source) == theirs and source.classes == stream.classes
    assert everything(open_training(str(imagenet / 'records'), 'val[20%:50%]')) == theirs[6:15]


def test_labels_txt_gives_classes_and_the_first_number(imagenet, tmp_path):
    shutil.copytree(imagenet / 'records', tmp_path / 'records')
    (tmp_path / 'records' / 'labels.txt').write_text(
        '\n'.join(f'{n}:{name}' for n, name in enumerate(['-', *synsets()]))
    )
    source = open_training(str(tmp_path / 'records'), 'validation')
    assert source.classes[1:] == synsets() and len(source.classes) == 1001
    plain = open_training(str(imagenet / 'records'), 'validation')
    assert source.labels.tolist() == (plain.labels + 1).tolist()


def test_array_records_are_what_tfds_reads(arrays):
    data_dir, builder = arrays
    for split in ('train', 'train[3:8]', 'train[:50%]'):
        for data, dataset in ((data_dir, None), (data_dir, 'numbers/small:1.10.0'), (builder.data_dir, None)):
            source = open_training(str(data), split, dataset)
            theirs = of_tfds(builder, split)
            assert [found[1:] for found in everything(source)] == [found[1:] for found in theirs]
    assert source.classes == ['0', '1']
    whole = open_training(str(data_dir), 'train')
    assert everything(open_images(str(data_dir), 'tf', split='train')) == everything(whole)
    copied = pickle.loads(pickle.dumps(whole))
    assert everything(copied) == everything(whole)
    last = builder.info.splits['train'].shard_lengths[-1] - 1
    assert copied.name(8).endswith(f'array_record-00001-of-00002: record {last}')


def test_files_behind_a_url(imagenet):
    tfds, files = imagenet / 'tfds', imagenet / 'records'
    for folder, dataset in ((tfds, 'imagenet2012'), (files, 'tfrecord')):
        local = open_training(str(folder), 'validation', dataset)
        remote = open_training(f'file://{folder}', 'validation', dataset)
        assert everything(pickle.loads(pickle.dumps(remote))) == everything(local)
    with pytest.raises(DataError, match=r"file:///nowhere: no TFDS set 'imagenet2012'; the folder holds: nothing"):
        open_training('file:///nowhere', 'train', 'imagenet2012')


# --- the wire format


def random_example(rng):
    """A tf.Example with features of all kinds around an image and its label, which may be in several forms."""
    from jeffnet.data.tf_import import tf

    kinds, train = rng.permutation(8), tf.train
    features = {
        'label': train.Feature(int64_list=train.Int64List(value=rng.integers(-(2**62), 2**62, 1 + kinds[0] % 3))),
        'image': train.Feature(bytes_list=train.BytesList(value=[rng.bytes(int(rng.choice([0, 3, 400, 9000])))])),
        'filename': train.Feature(bytes_list=train.BytesList(value=[b'a name' * int(kinds[1])])),
        'weights': train.Feature(float_list=train.FloatList(value=rng.random(kinds[2] * 50))),
        'none': train.Feature(),
        'empty': train.Feature(int64_list=train.Int64List()),
        'big': train.Feature(bytes_list=train.BytesList(value=[rng.bytes(int(kinds[3]) * 300), b''])),
    }
    names = [name for name in rng.permutation(list(features)) if name in ('label', 'image') or rng.random() < 0.7]
    return train.Example(features=train.Features(feature={name: features[name] for name in names}))


def in_memory(data, piece):
    """Bytes, of which `piece` are read at a time."""
    return Window(lambda offset, size: data[offset : offset + size], piece)


def test_the_wire_format_is_that_of_protobuf():
    rng, keys = np.random.default_rng(0), Keys('image', 'label')
    for piece in (1, 20, 64, 512, 10**6):  # bytes that are read at a time
        for _ in range(30):
            example = random_example(rng)
            data, held = b'??' + example.SerializeToString() + b'!!', example.features.feature

            label = records_index.record_label(in_memory(data, piece), 2, len(data) - 2, keys)
            assert label == held['label'].int64_list.value[0]
            window = in_memory(data, piece)
            found = {name: place for name, *place in records_index.features(window, 2, len(data) - 2)}
            assert found.keys() == held.keys()
            start, stop = records_index.bytes_value(window, *found['image'])
            assert data[start:stop] == held['image'].bytes_list.value[0]


def test_a_label_that_is_not_packed_and_unknown_fields():
    # Protobuf's readers take both forms of a list of numbers, and pass over what they do not know.
    feature = b'\x28\x05' + b'\x25abcd' + b'\x29abcdefgh' + b'\x1a\x03\x08\xac\x02'  # others first, then int64_list 300
    entry = b'\x0a\x05label\x12' + bytes([len(feature)]) + feature
    image = b'\x0a\x05image\x12\x04\x0a\x02\x0a\x00'
    inner = b''.join(b'\x0a' + bytes([len(part)]) + part for part in (entry, image))
    data = b'\x0a' + bytes([len(inner)]) + inner
    from jeffnet.data.tf_import import tf

    assert tf.train.Example.FromString(data).features.feature['label'].int64_list.value == [300]
    assert records_index.record_label(in_memory(data, 512), 0, len(data), Keys('image', 'label')) == 300


def test_only_a_little_of_a_large_record_is_read(imagenet, monkeypatch):
    sizes, inner = [], os.pread

    def pread(handle, size, offset):
        sizes.append(size)
        return inner(handle, size, offset)

    monkeypatch.setattr(os, 'pread', pread)
    source = open_training(str(imagenet / 'records'), 'validation')
    listing, images = sum(sizes), sum(len(source.read(i)) for i in range(len(source)))
    assert listing < 0.2 * images  # of 15 kB each; of ImageNet's, less
    sizes.clear()
    source.read(3)
    assert len(sizes) == 1


# --- the readers


class InOrder:
    """Class folders in the order of given file names."""

    def __init__(self, folder, names):
        places = {os.path.basename(path): place for place, path in enumerate(folder.paths)}
        self.folder, self.places, self.classes = folder, [places[name] for name in names], folder.classes
        self.labels = folder.labels[self.places]

    def __len__(self):
        return len(self.places)

    def name(self, index):
        return self.folder.name(self.places[index])

    def read(self, index):
        return self.folder.read(self.places[index])


@pytest.mark.parametrize('pipeline', ['tf', 'pt', 'workers'])
def test_training_batches_are_those_of_class_folders(pipeline, imagenet):
    from jeffnet.data import tf

    reader, workers = (tf, None) if pipeline == 'tf' else (pt, 2 if pipeline == 'workers' else 0)
    source = open_training(str(imagenet / 'tfds'), 'val')
    folder = ClassFolder.open(imagenet / 'folders', 'validation', synsets())
    same = InOrder(folder, [source.name(i) for i in range(len(source))])
    streams = [
        reader.training_batches(images, PIL, Augmentation(), 8, seed=5, start_step=2, workers=number)
        for images, number in ((source, workers), (same, workers and 0))
    ]
    for _ in range(5):  # beyond the end of an epoch
        a, b = (next(stream) for stream in streams)
        assert (a['label'] == b['label']).all() and (a['image'] == b['image']).all()
    for stream in streams:
        stream.close()


@pytest.mark.parametrize('name', ['tfds', 'records'])
def test_validation_is_the_same_with_both_readers(name, imagenet):
    from jeffnet.data import tf

    ours, theirs = (open_images(str(imagenet / name), pipeline) for pipeline in ('pt', 'tf'))
    batches = [list(r.evaluation_batches(s, PIL, 7)) for r, s in ((pt, ours), (tf, theirs))]
    for a, b in zip(*batches, strict=True):
        assert all((a[key] == b[key]).all() for key in ('image', 'label', 'mask', 'index'))


def test_threads_read_what_one_reads(imagenet):
    source = open_training(str(imagenet / 'tfds'), 'train')
    alone, order = everything(source), np.random.default_rng(0).integers(0, len(source), 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: (source.name(i), source.read(i)), order))
    assert found == [alone[i][:2] for i in order]


def test_tensorflow_is_not_needed(imagenet):
    code = (
        'import sys; sys.modules.update(dict.fromkeys(("tensorflow", "tensorflow_datasets", "google.protobuf")))\n'
        'from jeffnet.data import opening, pt, Preprocessing\n'
        'for data in sys.argv[1:]:\n'
        "    source = opening.open_training(data, 'validation')\n"
        '    print(sum(len(b["mask"]) for b in pt.evaluation_batches(source, Preprocessing("pil", 32), 5)))\n'
    )
    command = [sys.executable, '-c', code, imagenet / 'tfds', imagenet / 'records']
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == [str(IMAGES)] * 2, done.stderr


def test_all_kinds_open_for_training(imagenet):
    folders = imagenet / 'folders'
    for dataset in (None, 'folder', 'imagefolder'):
        training = open_training(str(folders), 'train', dataset)
        validation = open_training(str(folders), 'validation', dataset, training.classes)
        assert validation.classes == training.classes and len(validation) == IMAGES
    named = [open_training(str(folders), 'val', None, training.classes).labels, validation.labels]
    assert all((a == b).all() for a, b in pairwise(named))
