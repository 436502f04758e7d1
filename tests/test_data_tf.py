"""The `tf` transform is that of the TensorFlow releases, in both readers; prepared TFDS sets are read as they are.

conftest.py has imported torchvision before: after TensorFlow, it would abort the process.
"""

import numpy as np
import pytest
import tensorflow
from PIL import Image

from jeffnet.data import Augmentation, ClassFolder, DataError, Preprocessing, pt, streams, tf, tf_images
from jeffnet.data.augmentation import random_crop
from jeffnet.data.preprocessing import covered_share, tf_crop

SHAPES = [(50, 300), (333, 61), (97, 97), (180, 241), (300, 200)]  # (height, width)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """One class of JPEG, one of PNG."""
    root = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(0)
    for suffix in ('jpg', 'png'):
        (root / suffix).mkdir()
        for index, (height, width) in enumerate(SHAPES):
            blocks = rng.integers(0, 256, (height // 9 + 1, width // 9 + 1, 3)).repeat(9, 0).repeat(9, 1)
            noise = rng.integers(-30, 30, (height, width, 3))
            image = np.clip(blocks[:height, :width] + noise, 0, 255).astype(np.uint8)
            Image.fromarray(image).save(root / suffix / f'{index}.{suffix}')
    return ClassFolder.open(root)


def pixels(reader, source, preprocessing):
    """All images of a set as one reader gives them."""
    batches = list(reader.evaluation_batches(source, preprocessing, 4))
    mask = np.concatenate([batch['mask'] for batch in batches])
    return np.concatenate([batch['image'] for batch in batches])[mask]


def released(path, size, interpolation):
    """The evaluation transform of the TensorFlow releases, 0..255: the image's centre, then its resize."""
    data = tensorflow.io.read_file(path)
    height, width, _ = tensorflow.io.decode_image(data, channels=3).shape
    side = int(size / (size + 32) * min(height, width))
    top, left = ((height - side) + 1) // 2, ((width - side) + 1) // 2
    if path.endswith('.jpg'):
        image = tensorflow.image.decode_and_crop_jpeg(data, [top, left, side, side], channels=3)
    else:
        image = tensorflow.io.decode_png(data, channels=3)[top : top + side, left : left + side]
    return tensorflow.image.resize([image], [size, size], method=interpolation)[0].numpy()


@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear'])
@pytest.mark.parametrize(('size', 'crop_pct'), [(224, 0.875), (260, 0.89), (64, 64 / 96)])
def test_tf_equals_the_tensorflow_releases(folder, size, crop_pct, interpolation):
    preprocessing = Preprocessing('tf', size, crop_pct, interpolation)
    mean, std = np.array(preprocessing.mean) * 255, np.array(preprocessing.std) * 255
    from_tf, from_pt = pixels(tf, folder, preprocessing) * std + mean, pixels(pt, folder, preprocessing) * std + mean
    for path, a, b in zip(folder.paths, from_tf, from_pt, strict=True):
        expected = released(path, size, interpolation)
        # The decoded pixels are equal; float32 sums of the resize are taken in another order, then normalised and back.
        assert np.abs(a - expected).max() < 1e-3, path
        assert np.abs(b - expected).max() < 1e-3, path


@pytest.mark.parametrize('size', [320, (40, 72)])
def test_tf_squashes_as_the_releases_of_efficientnetv2_at_320_pixels_and_more(folder, size):
    preprocessing = Preprocessing('tf', size, 1.0, 'bicubic', crop_mode='squash')
    mean, std = np.array(preprocessing.mean) * 255, np.array(preprocessing.std) * 255
    from_tf, from_pt = pixels(tf, folder, preprocessing) * std + mean, pixels(pt, folder, preprocessing) * std + mean
    for path, a, b in zip(folder.paths, from_tf, from_pt, strict=True):
        image = tensorflow.io.decode_image(tensorflow.io.read_file(path), channels=3, expand_animations=False)
        expected = tensorflow.image.resize(image, preprocessing.image_size, method='bicubic').numpy()
        assert np.abs(a - expected).max() < 1e-3, path  # as above
        assert np.abs(b - expected).max() < 1e-3, path


def test_tf_crop_of_other_shapes_is_the_same_in_both_readers(folder):
    preprocessing = Preprocessing('tf', (40, 72), 0.9, in_chans=1)
    a, b = pixels(tf, folder, preprocessing), pixels(pt, folder, preprocessing)
    assert a.shape == (len(folder), 40, 72, 1)
    assert np.abs(a - b).max() * 255 < 1e-2


def test_published_crop_shares_are_not_rounded():
    shares = {224: 0.875, 240: 0.882, 260: 0.89, 300: 0.904, 380: 0.922, 456: 0.934, 528: 0.943, 600: 0.949, 672: 0.955}
    for size, crop_pct in [*shares.items(), (528, 0.942)]:  # timm's b6 is cut, not rounded
        assert covered_share(Preprocessing('tf', size, crop_pct)) == size / (size + 32)
    assert covered_share(Preprocessing('tf', 224, 0.9)) == 0.9
    assert tf_crop(1, 1, Preprocessing('tf', 224)) == (0, 0, 1, 1)


def test_random_crop_is_the_same_in_both_readers():
    wide = Augmentation(scale=(0.5, 1), ratio=(0.3, 0.5))  # often no attempt fits a wide image: the fallback
    for augmentation in (Augmentation(), wide):
        for position, (height, width) in enumerate(
            [(1, 1), (5, 300), (300, 5), *np.random.default_rng(2).integers(1, 999, (30, 2))]
        ):
            crops = augmentation.draw(0, position).crops
            box = random_crop(int(height), int(width), crops, augmentation.ratio)
            assert tuple(int(side) for side in tf_images.random_crop(height, width, crops, augmentation.ratio)) == box
            assert box[0] >= 0 and box[1] >= 0 and 0 < box[2] <= height - box[0] and 0 < box[3] <= width - box[1]


def test_training_pixels_of_tf_agree(folder):
    streams_of = [
        reader.training_batches(folder, Preprocessing('tf', 32), Augmentation(), 10, 1) for reader in (tf, pt)
    ]
    a, b = (next(stream) for stream in streams_of)
    for stream in streams_of:
        stream.close()
    assert (a['label'] == b['label']).all()
    assert np.abs(a['image'] - b['image']).max() * 255 < 1e-2


# --- TFDS


@pytest.fixture(scope='module')
def prepared(tmp_path_factory, folder):
    """The same images as a prepared TFDS set `shapes` with the one split `validation`."""
    import tensorflow_datasets as tfds

    class Shapes(tfds.core.GeneratorBasedBuilder):
        """A set of the test."""

        VERSION = tfds.core.Version('1.0.0')

        def _info(self):
            label = tfds.features.ClassLabel(names=folder.classes)
            features = tfds.features.FeaturesDict({'image': tfds.features.Image(), 'label': label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {'validation': self._generate_examples()}

        def _generate_examples(self):
            for path, label in zip(folder.paths, folder.labels, strict=True):
                yield path, {'image': path, 'label': int(label)}

    data_dir = tmp_path_factory.mktemp('tfds')
    Shapes(data_dir=data_dir).download_and_prepare()
    return data_dir


def test_a_prepared_tfds_set_is_read(prepared, folder):
    source = streams.open_tfds(prepared, 'shapes')
    assert len(source) == len(folder) and source.classes == folder.classes
    preprocessing = Preprocessing('pil', 32)
    expected = {image.tobytes() for image in pixels(pt, folder, preprocessing)}
    assert {image.tobytes() for image in pixels(tf, source, preprocessing)} == expected  # TFDS shuffles once
    with pytest.raises(DataError, match="'shapes' has no split 'test'; splits there: validation"):
        streams.open_tfds(prepared, 'shapes', 'test')
    with pytest.raises(DataError, match="no TFDS set 'nothing'"):
        streams.open_tfds(prepared, 'nothing')
