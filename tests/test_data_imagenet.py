"""The tables of ImageNet facts agree with timm's and TensorFlow Datasets' own; files in a wrong form are named."""

import json
import re
import subprocess
import sys
from importlib import resources

import pytest

from jeffnet.data.imagenet import class_names, real_labels, subset, synsets, validation_number
from jeffnet.data.source import DataError

TIMM = resources.files('timm') / 'data' / '_info'


def test_synsets_are_those_of_timm_and_tfds():
    tfds = resources.files('tensorflow_datasets') / 'datasets' / 'imagenet2012' / 'labels.txt'
    assert synsets() == (TIMM / 'imagenet_synsets.txt').read_text().split()
    assert synsets() == tfds.read_text().split()


def test_class_names_are_the_first_synonyms():
    lines = (TIMM / 'imagenet_synset_to_lemma.txt').read_text().splitlines()
    lemmas = dict(line.split('\t') for line in lines)
    first = [lemmas[wordnet_id].split(', ')[0] for wordnet_id in synsets()]
    assert [re.sub(r' \(\w+\)$', '', name) for name in class_names()] == first
    assert len(set(class_names())) == 1000
    assert (class_names()[0], class_names()[134], class_names()[517]) == ('tench', 'crane (bird)', 'crane (machine)')


@pytest.mark.parametrize(('name', 'letter'), [('imagenet-a', 'a'), ('imagenet-r', 'r')])
def test_subsets_are_those_of_timm(name, letter):
    indices = [int(index) for index in (TIMM / f'imagenet_{letter}_indices.txt').read_text().split()]
    assert subset(name) == indices == sorted(set(indices))
    assert len(indices) == 200


def test_unknown_subset_names_the_allowed_ones():
    with pytest.raises(ValueError, match=r"'imagenet-s'; allowed: imagenet-a, imagenet-r$"):
        subset('imagenet-s')


def test_callers_cannot_change_the_tables():
    synsets().clear()
    class_names().clear()
    subset('imagenet-a').clear()
    assert (len(synsets()), len(class_names()), len(subset('imagenet-a'))) == (1000, 1000, 200)


def test_real_labels_of_the_published_file():
    labels = real_labels(TIMM / 'imagenet_real_labels.json')
    assert (len(labels), labels[:4]) == (50_000, [[], [970, 795], [230, 231], [809]])
    assert sum(not entry for entry in labels) == 3163  # the paper's 46,837 images have a label


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('[[1], [2', 'cannot be read as JSON'),
        ('[' * 100_000, 'cannot be read as JSON'),
        ('{"ILSVRC2012_val_00000001.JPEG": [1]}', 'has a dict; expected a list'),
        ('[]', 'has 0 entries'),
        (json.dumps([[1]] * 50_001), 'has 50001 entries'),
        ('[[1], 2]', 'entry 2 is 2;'),
        ('[[], [1, 1000]]', r'entry 2 is \[1, 1000\];'),
        ('[[-1]]', r'entry 1 is \[-1\];'),
        ('[[1.0]]', r'entry 1 is \[1.0\];'),
        ('[[true]]', r'entry 1 is \[true\];'),
        ('[["1"]]', r'entry 1 is \["1"\];'),
    ],
)
def test_real_labels_names_a_file_in_another_form(tmp_path, content, message):
    path = tmp_path / 'real.json'
    path.write_text(content, encoding='utf-8')
    with pytest.raises(DataError, match=f'^{re.escape(str(path))}: {message}'):
        real_labels(path)


def test_real_labels_names_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'real\.json: no such file'):
        real_labels(tmp_path / 'real.json')


@pytest.mark.parametrize(
    ('name', 'number'),
    [
        ('ILSVRC2012_val_00000001.JPEG', 1),
        ('x/ILSVRC2012_val_00000293.JPEG', 293),
        ('val.tar/n01440764/ILSVRC2012_val_00050000.JPEG', 50_000),
        ('x\\ILSVRC2012_val_00000293.jpg', 293),
        ('val/ILSVRC2012_val_00000293_n01440764.JPEG', 293),
        ('ILSVRC2012_val_00000000.JPEG', None),
        ('ILSVRC2012_val_00050001.JPEG', None),
        ('ILSVRC2012_val_293.JPEG', None),
        ('ILSVRC2012_test_00000293.JPEG', None),
        ('xILSVRC2012_val_00000293.JPEG', None),
        ('ILSVRC2012_val_00000293.JPEG/other.JPEG', None),
        ('n01440764_293.JPEG', None),
    ],
)
def test_validation_number(name, number):
    assert validation_number(name) == number


def test_import_is_light():
    code = 'import sys, jeffnet.data.imagenet; print(*sys.modules)'
    modules = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(modules) & {'jax', 'tensorflow', 'torch', 'timm'}
