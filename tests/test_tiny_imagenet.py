"""The small ImageNet is what it says: the same images, names and labels as folders, archives, TFDS set and records.

conftest.py has imported torchvision before: after TensorFlow, it would abort the process.
"""

import io
import json
import subprocess
import sys
import tarfile
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import tensorflow
import tensorflow_datasets as tfds
from PIL import Image

from jeffnet.data import ClassFolder
from jeffnet.data.imagenet import real_labels, synsets, validation_number
from tests import tiny_imagenet
from tests.tiny_imagenet import CMYK, PNG, SHARE, class_colour, train_files, validation_labels

IMAGES = 12


@pytest.fixture(scope='session')
def small(tmp_path_factory):
    """A set with everything made."""
    out = tiny_imagenet.write(tmp_path_factory.mktemp('imagenet') / 'small', IMAGES, classes=15)
    tiny_imagenet.prepare(out, shards=2)
    for split in ('train', 'validation'):
        tiny_imagenet.write_records(out, split)
    return out


def in_folders(out: Path, split: str) -> dict[str, tuple[bytes, int]]:
    """(content, label) by file name, as the class folders have them."""
    folder = ClassFolder.open(out / 'folders', split, synsets())
    paths = [Path(path) for path in folder.paths]
    return {p.name: (p.read_bytes(), int(label)) for p, label in zip(paths, folder.labels, strict=True)}


def in_tfds(out: Path, split: str) -> dict[str, tuple[bytes, int]]:
    """The same, as the prepared TFDS set has them."""
    builder = tfds.builder('imagenet2012', data_dir=out / 'tfds')
    assert builder.info.features['label'].names == synsets()
    examples = builder.as_dataset(split=split, decoders={'image': tfds.decode.SkipDecoding()})
    found = [(e['file_name'].decode(), (e['image'], int(e['label']))) for e in examples.as_numpy_iterator()]
    assert len(found) == builder.info.splits[split].num_examples == len(dict(found))
    return dict(found)


def in_records(out: Path, split: str) -> dict[str, tuple[bytes, int]]:
    """The same, as the TFRecord files have them."""
    files = [str(out / 'records' / f'{split}-{shard:05d}-of-00002') for shard in (0, 1)]
    spec = {name: tensorflow.io.FixedLenFeature([], tensorflow.string) for name in ('image/encoded', 'image/filename')}
    spec['image/class/label'] = tensorflow.io.FixedLenFeature([], tensorflow.int64)
    found = [tensorflow.io.parse_single_example(record, spec) for record in tensorflow.data.TFRecordDataset(files)]
    return {
        e['image/filename'].numpy().decode(): (e['image/encoded'].numpy(), int(e['image/class/label']) - 1)
        for e in found
    }


def image_of(content: bytes) -> Image.Image:
    """Decoded by Pillow."""
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize('other', [in_tfds, in_records])
def test_validation_images_are_the_same_everywhere(small, other):
    images = in_folders(small, 'validation')
    assert [validation_number(name) for name in sorted(images)] == list(range(1, IMAGES + 1))
    assert other(small, 'validation') == images


def test_training_images_are_the_same_but_for_the_exceptions(small):
    images, prepared = in_folders(small, 'train'), in_tfds(small, 'train')
    assert prepared.keys() == images.keys()
    assert [prepared[name][1] for name in images] == [label for _, label in images.values()]
    assert {name for name in images if prepared[name] != images[name]} == {PNG, CMYK}
    assert in_records(small, 'train') == prepared  # the exceptions too: TFDS converts them as the TPU code does


def test_exceptions_keep_their_pixels(small):
    images, prepared = in_folders(small, 'train'), in_tfds(small, 'train')
    assert (image_of(images[PNG][0]).format, image_of(images[CMYK][0]).mode) == ('PNG', 'CMYK')
    for name in (PNG, CMYK):
        before, after = image_of(images[name][0]).convert('RGB'), image_of(prepared[name][0])
        assert (after.format, after.mode, after.size) == ('JPEG', 'RGB', before.size)
        # The conversion halves the resolution of colour: only brightness, and colour on average, stay.
        brightness = [np.asarray(image.convert('L'), np.int32) for image in (before, after)]
        assert np.abs(brightness[0] - brightness[1]).max() <= 8
        colours = [np.asarray(image, np.float64).mean((0, 1)) for image in (before, after)]
        np.testing.assert_allclose(colours[0], colours[1], atol=2)


@pytest.mark.parametrize('split', ['train', 'validation'])
def test_kinds_of_files(small, split):
    images = {name: image_of(content) for name, (content, _) in in_folders(small, split).items()}
    ordinary = [image for name, image in images.items() if name not in (PNG, CMYK)]
    assert {(image.format, image.mode) for image in ordinary} == {('JPEG', 'RGB'), ('JPEG', 'L')}
    assert {image.getexif().get(tiny_imagenet.ORIENTATION) for image in ordinary} == {None, 6}
    assert {'progressive' in image.info for image in ordinary} == {True, False}
    assert all(image.width % 2 and image.height % 2 for image in images.values())


def test_classes_have_colours_that_tell_them_apart(small):
    images = in_folders(small, 'validation')
    labels = np.array(sorted({label for _, label in images.values()}))
    colours = np.stack([class_colour(label) for label in labels])
    for name, (content, label) in images.items():
        image = image_of(content)
        if image.mode == 'RGB':
            estimate = (np.asarray(image).mean((0, 1)) - 127.5 * (1 - SHARE)) / SHARE
            assert labels[np.linalg.norm(colours - estimate, axis=1).argmin()] == label, name
    assert len({tuple(class_colour(label)) for label in range(1000)}) == 1000


def test_archives_have_the_official_layout(small):
    with tarfile.open(small / 'archives' / 'ILSVRC2012_img_val.tar') as archive:
        names = archive.getnames()
    assert sorted(names) == [f'ILSVRC2012_val_{number:08d}.JPEG' for number in range(1, IMAGES + 1)]
    assert names != sorted(names)
    found = {}
    with tarfile.open(small / 'archives' / 'ILSVRC2012_img_train.tar') as archive:
        for member in archive:
            with tarfile.open(fileobj=archive.extractfile(member)) as inner:
                for image in inner:
                    assert f'{image.name.split("_")[0]}.tar' == member.name
                    found[image.name] = inner.extractfile(image).read()
    assert found == {name: content for name, (content, _) in in_folders(small, 'train').items()}


def test_validation_labels_are_the_true_ones():
    published = json.loads((resources.files('timm') / 'data' / '_info' / 'imagenet_real_labels.json').read_text())
    labelled = [(label, real) for label, real in zip(validation_labels(50_000), published, strict=True) if real]
    # ReaL's annotators confirmed some 90 % of the labels; labels in another order would agree by chance only.
    assert sum(label in real for label, real in labelled) / len(labelled) > 0.85


def test_real_json_has_every_kind_of_entry(small):
    labels = real_labels(small / 'real.json')
    true = validation_labels(IMAGES)
    assert len(labels) == IMAGES
    assert {len(entry) for entry in labels} == {0, 1, 2}
    assert {label in entry for label, entry in zip(true, labels, strict=True) if entry} == {True, False}


def test_all_classes_are_possible():
    files = train_files(validation_labels(12), classes=1000, per_class=1)
    assert [label for _, label in files] == sorted([*range(1000), synsets().index(PNG[:9]), synsets().index(CMYK[:9])])
    assert len(dict(files)) == 1002


def test_the_seed_alone_decides(tmp_path):
    one, two, other = (tiny_imagenet.write(tmp_path / f'{n}', 4, seed=seed) for n, seed in enumerate([0, 0, 1]))
    files = sorted(path.relative_to(one) for path in one.rglob('*') if path.is_file())
    assert len(files) == 4 + 5 + 2 + 3  # validation, its classes and CMYK's, the exceptions; the archives and real.json
    assert all((one / path).read_bytes() == (two / path).read_bytes() for path in files)
    images = [path for path in files if path.suffix == '.JPEG']
    assert all((one / path).read_bytes() != (other / path).read_bytes() for path in images)


def test_an_earlier_set_is_not_mixed_with_a_new_one(tmp_path):
    tiny_imagenet.write(tmp_path, 1)
    with pytest.raises(FileExistsError, match='folders'):
        tiny_imagenet.write(tmp_path, 2)


@pytest.mark.parametrize('images', [0, 50_001])
def test_impossible_number_of_images(tmp_path, images):
    with pytest.raises(ValueError, match=f'images is {images}; the real set has 1 to 50000'):
        tiny_imagenet.write(tmp_path, images)


def test_command(tmp_path):
    arguments = ['--images', '3', '--classes', '6', '--seed', '1']
    command = [sys.executable, '-m', 'tests.tiny_imagenet', tmp_path / 'out', *arguments]
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True)
    assert len(in_folders(tmp_path / 'out', 'validation')) == 3
    assert len({label for _, label in in_folders(tmp_path / 'out', 'train').values()}) == 6
