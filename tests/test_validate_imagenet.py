"""The validate scripts on a tiny ImageNet in its real formats: every reader gives the same row.

The real TFDS builder prepares it from archives in the official layout (tests/tiny_imagenet.py).
"""

import csv
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jeffnet import validate
from jeffnet.data.imagenet import class_names, subset, synsets
from tests import tiny_imagenet

ROOT = Path(__file__).parents[1]
MODEL, SIZE, IMAGES = 'pt_mnasnet_small', '64', 30
TWO = 'pt_mnasnet_[1s][0m]*'  # with another one
FIGURES = ('top1', 'top5', 'loss', 'images')


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory):
    """The images as class folders, TFDS set, TFRecord files and WebDataset archives."""
    out = tiny_imagenet.write(tmp_path_factory.mktemp('imagenet'), images=IMAGES)
    tiny_imagenet.prepare(out)
    tiny_imagenet.write_records(out)
    (out / 'tar').mkdir()
    paths = sorted((out / 'folders' / 'validation').glob('*/*'), key=lambda path: path.name)
    for shard, part in enumerate(np.array_split(np.arange(IMAGES), 2)):
        with tarfile.open(out / 'tar' / f'imagenet-validation-{shard:06d}.tar', 'w') as archive:
            for path in (paths[i] for i in part):
                archive.add(path, f'{path.stem}.jpg')
                label = out / 'label'
                label.write_text(str(synsets().index(path.parent.name)))
                archive.add(label, f'{path.stem}.cls')
    (out / 'tar' / 'classes.txt').write_text('\n'.join(synsets()))
    return out


@pytest.fixture(scope='module')
def weights(tmp_path_factory, state, write):
    """Random weights, statistics and biases included, of 1000 classes."""
    return write(state, tmp_path_factory.mktemp('weights') / 'model.safetensors')


def row(framework, pipeline, weights, data, *more, folder):
    """The row that a validate script writes."""
    file = folder / f'{framework}-{pipeline}-{len(list(folder.iterdir()))}.json'
    argv = [str(data), '--model', MODEL, '--weights', str(weights), '--img-size', SIZE, '--results-file', str(file)]
    assert validate.main(framework, pipeline, [*argv, *map(str, more)]) == 0
    (found,) = json.loads(file.read_text())
    return found


def figures(found):
    """What must not depend on the way."""
    return {name: found[name] for name in (*FIGURES, 'weights', 'param_count')}


@pytest.mark.parametrize('preprocessing', ['pil', 'tf'])
def test_the_two_commands_and_all_scripts_give_one_table(preprocessing, imagenet, weights, tmp_path):
    given = ('--preprocessing', preprocessing, '--batch-size', 7)
    folders, archives = imagenet / 'folders', imagenet / 'tar'
    first = figures(row('linen', 'tf', weights, imagenet / 'tfds', *given, folder=tmp_path))
    assert first['images'] == IMAGES
    for framework, pipeline, data, more in [
        ('objax', 'pt', folders / 'validation', ()),
        ('objax', 'tf', folders, ()),
        ('linen', 'pt', folders, ('--split', 'val')),
        ('nnx', 'tf', folders, ('--dataset', 'imagefolder')),
        ('nnx', 'pt', archives, ()),
        ('linen', 'tf', str(archives / 'imagenet-validation-{000000..000001}.tar'), ()),
        ('linen', 'tf', imagenet / 'records', ()),
        ('objax', 'tf', imagenet / 'tfds', ('--dataset', 'imagenet2012:validation')),
        ('nnx', 'tf', imagenet / 'tfds', ('--dataset', 'tfds/imagenet2012:5.1.0')),
        ('objax', 'tf', next((imagenet / 'tfds' / 'imagenet2012').iterdir()), ()),
        ('linen', 'pt', folders, ('--framework', 'nnx', '--num-classes', 1000)),
    ]:
        if '{' in str(data):
            more = ('--class-map', archives / 'classes.txt')
        assert figures(row(framework, pipeline, weights, data, *given, *more, folder=tmp_path)) == first, (
            pipeline,
            data,
        )


def test_scripts_as_a_user_runs_them(imagenet, weights, tmp_path):
    table = []
    for script, data in (('tf_linen', 'tfds'), ('pt_objax', 'folders/validation')):
        file = tmp_path / f'{script}.csv'
        command = [sys.executable, ROOT / f'{script}_validate.py', imagenet / data, '--model', MODEL]
        command += ['--weights', weights, '--img-size', SIZE, '--results-file', file, '--workers', '2']
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert 'images/s' in done.stdout and 'Traceback' not in done.stderr
        with file.open(newline='') as rows:
            table += [[found[name] for name in FIGURES] for found in csv.DictReader(rows)]
    assert table[0] == table[1]


def test_real_labels_agree_in_both_readers(imagenet, weights, tmp_path):
    given = ('--real-labels', imagenet / 'real.json')
    one = row('linen', 'tf', weights, imagenet / 'tfds', *given, folder=tmp_path)
    other = row('linen', 'pt', weights, imagenet / 'folders', *given, folder=tmp_path)
    assert figures(one) == figures(other) and one['labels'].startswith('real ')
    real = json.loads((imagenet / 'real.json').read_text())
    assert one['images'] == sum(bool(labels) for labels in real[:IMAGES]) < IMAGES


def test_real_labels_need_imagenets_names(imagenet, weights, tmp_path, capfd):
    data = tmp_path / 'data' / synsets()[0]
    data.mkdir(parents=True)
    Image.new('RGB', (70, 70)).save(data / 'cat.png')
    argv = [str(data.parent), '--model', MODEL, '--weights', str(weights), '--img-size', SIZE]
    assert validate.main('linen', 'pt', [*argv, '--real-labels', str(imagenet / 'real.json')]) == 2
    assert 'cat.png: --real-labels needs the names' in capfd.readouterr().err


def test_imagenet_a_counts_among_its_classes(weights, tmp_path, capsys):
    allowed, rng = subset('imagenet-a'), np.random.default_rng(0)
    for label in allowed[::40]:
        folder = tmp_path / 'data' / synsets()[label]
        folder.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (70, 80, 3), np.uint8)).save(folder / '0.png')
    argv = [str(tmp_path / 'data'), '--model', MODEL, '--weights', str(weights), '--img-size', SIZE]
    file = tmp_path / 'predictions.csv'
    assert validate.main('linen', 'pt', [*argv, '--valid-labels', 'imagenet-a', '--predictions', str(file)]) == 0
    assert capsys.readouterr().err == ''
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [int(found['label']) for found in rows] == allowed[::40]
    assert {int(found[f'top{k}']) for found in rows for k in range(1, 6)} <= set(allowed)
    assert validate.main('linen', 'pt', [*argv, '--predictions', str(file)]) == 0
    assert '5 of the 1000 classes are in the data' in capsys.readouterr().err
    everything = {int(found[f'top{k}']) for found in csv.DictReader(file.read_text().splitlines()) for k in (1, 2)}
    assert not everything <= set(allowed)


def test_bad_images_are_fatal_or_skipped_and_counted(imagenet, weights, tmp_path, capfd):
    data = tmp_path / 'validation'
    shutil.copytree(imagenet / 'folders' / 'validation', data)
    spoilt = sorted(data.glob('*/*'))[3]
    spoilt.write_bytes(spoilt.read_bytes()[:200])
    for pipeline in ('pt', 'tf'):
        argv = [str(tmp_path), '--model', MODEL, '--weights', str(weights), '--img-size', SIZE]
        assert validate.main('linen', pipeline, argv) == 2
        assert f'{spoilt}: cannot be read as an image' in capfd.readouterr().err
        found = row('linen', pipeline, weights, tmp_path, '--on-bad-image', 'skip', folder=tmp_path)
        assert (found['images'], found['skipped']) == (IMAGES - 1, 1)
        captured = capfd.readouterr()
        assert f'skipped: {spoilt}' in captured.err and f'{IMAGES - 1} images, 1 skipped' in captured.out


def test_a_set_without_a_readable_image_is_an_error(tmp_path, capfd):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'x.jpg').write_bytes(b'no image')
    argv = [str(tmp_path), '--model', MODEL, '--no-pretrained', '--img-size', SIZE, '--on-bad-image', 'skip']
    assert validate.main('linen', 'pt', argv) == 2
    assert 'none of the 1 images can be read' in capfd.readouterr().err


def test_a_rerun_goes_on_at_the_first_missing_model(imagenet, tmp_path, capsys):
    file = tmp_path / 'rows.csv'
    data = [str(imagenet / 'folders'), '--no-pretrained', '--img-size', SIZE, '--results-file', str(file)]
    assert validate.main('linen', 'pt', [*data, '--model', 'pt_mnasnet_small']) == 0
    before = file.read_text()
    assert validate.main('linen', 'pt', [*data, '--model', TWO]) == 0
    assert 'pt_mnasnet_small (linen): is in' in capsys.readouterr().out
    assert file.read_text().startswith(before) and file.read_text().count('\n') == 3
    assert validate.main('linen', 'pt', [*data, '--model', 'pt_mnasnet_small', '--crop-pct', '1']) == 0
    assert file.read_text().count('\n') == 4  # another measurement
    predictions = tmp_path / 'predictions.csv'
    assert validate.main('linen', 'pt', [*data, '--model', 'pt_mnasnet_small', '--predictions', str(predictions)]) == 0
    assert predictions.read_text().count('\n') == IMAGES + 1 and file.read_text().count('\n') == 4
    assert validate.main('linen', 'pt', [*data, '--model', TWO, '--predictions', str(predictions)]) == 2


def test_one_model_that_fails_does_not_stop_the_others(imagenet, tmp_path, capfd):
    file = tmp_path / 'rows.csv'
    argv = [str(imagenet / 'folders'), '--model', TWO, '--no-pretrained', '--img-size', SIZE]
    broken = validate.command.build

    def build(job, framework, **options):
        if job.model == 'pt_mnasnet_100':
            raise RuntimeError('some fault')
        return broken(job, framework, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validate.command, 'build', build)
        assert validate.main('linen', 'pt', [*argv, '--results-file', str(file)]) == 1
    assert 'pt_mnasnet_100: some fault' in capfd.readouterr().err
    assert [found['model'] for found in csv.DictReader(file.read_text().splitlines())] == ['pt_mnasnet_small']


def test_the_report_shows_every_model(imagenet, weights, tmp_path):
    argv = ['--model', MODEL, '--weights', str(weights), '--img-size', SIZE, '--report', str(tmp_path / 'report')]
    for pipeline, data in (('tf', 'tfds'), ('pt', 'folders')):
        assert validate.main('linen', pipeline, [str(imagenet / data), *argv]) == 0
        page = (tmp_path / 'report' / 'index.html').read_text()
        assert MODEL in page and page.count('data:image') >= IMAGES // 2
        assert any(name in page for name in class_names()[:50])
