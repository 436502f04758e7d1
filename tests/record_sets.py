"""TFDS sets and TFRecord files for tests, as fixtures, and what is in a source."""

import shutil

import numpy as np
import pytest

from tests import tiny_imagenet

IMAGES, SHARDS = 30, 3


@pytest.fixture(scope='session')
def imagenet(tmp_path_factory):
    """The tiny ImageNet as class folders, a TFDS set of several shards, and TFRecord files."""
    out = tiny_imagenet.write(tmp_path_factory.mktemp('imagenet'), images=IMAGES)
    tiny_imagenet.prepare(out, shards=SHARDS)
    tiny_imagenet.write_records(out)
    return out


@pytest.fixture
def prepared(imagenet, tmp_path):
    """A copy of the TFDS set, to be spoilt: its folder, and that of the version."""
    shutil.copytree(imagenet / 'tfds', tmp_path / 'tfds')
    return tmp_path / 'tfds', next((tmp_path / 'tfds' / 'imagenet2012').iterdir())


@pytest.fixture(scope='session')
def arrays(tmp_path_factory):
    """The TFDS set `numbers` in the format array_record: two configurations, no file names, two class names."""
    import tensorflow_datasets as tfds

    class Numbers(tfds.core.GeneratorBasedBuilder):
        """A set of the test."""

        VERSION = tfds.core.Version('1.10.0')
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name='small'), tfds.core.BuilderConfig(name='empty')]

        def _info(self):
            label = tfds.features.ClassLabel(num_classes=2)
            features = tfds.features.FeaturesDict({'image': tfds.features.Image(), 'label': label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {'train': self._generate_examples()}

        def _generate_examples(self):
            rng = np.random.default_rng(3)
            for number in range(9):
                yield number, {'image': rng.integers(0, 256, (40, 50, 3), np.uint8), 'label': number % 2}

    data_dir = tmp_path_factory.mktemp('arrays')
    config = tfds.download.DownloadConfig(num_shards=2)
    builder = Numbers(data_dir=data_dir, config='small', file_format='array_record')
    builder.download_and_prepare(download_config=config)
    return data_dir, builder


def everything(source):
    """(name, image file, label) of all images, in order."""
    return [(source.name(i), source.read(i), int(source.labels[i])) for i in range(len(source))]
