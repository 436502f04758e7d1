"""The validate command: one line for each fault, the same row from every framework and reader, every image counted."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jeffnet
from jeffnet import validate
from jeffnet.data import ClassFolder, DataError, Preprocessing
from jeffnet.data.images import load_image

ROOT = Path(__file__).parents[1]
MODEL = 'tf_mobilenetv3_small_minimal_100'  # the cheapest to compile
COLOURS = {'blue': (20, 40, 200), 'green': (30, 180, 60), 'red': (210, 50, 30)}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Eleven noisy images in three classes, a number that no batch size below divides."""
    root, rng = tmp_path_factory.mktemp('data'), np.random.default_rng(0)
    for index in range(11):
        name, colour = list(COLOURS.items())[index % 3]
        folder = root / 'validation' / name
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(colour + rng.normal(0, 60, (40, 52, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f'{index}.png')
    return root


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A folder with random weights, statistics and biases included, so that predictions differ between images."""
    folder = tmp_path_factory.mktemp('run') / 'best'
    _, variables = jeffnet.create_model(MODEL, num_classes=3)
    rng = np.random.default_rng(1)
    flat = jeffnet.flat_variables(variables)
    for name, array in flat.items():
        if name.endswith(('.bias', '.scale', '.mean')):
            flat[name] = array + 0.2 * rng.standard_normal(array.shape).astype(np.float32)
    preprocessing = Preprocessing('pil', 32, 0.9, 'bicubic').to_dict()
    jeffnet.weights.save(
        folder, model=MODEL, options={'num_classes': 3}, variables=flat, preprocessing=preprocessing,
        classes=sorted(COLOURS),
    )  # fmt: skip
    return folder


def expected_top1(data, checkpoint):
    """Top-1 counted by hand: one image at a time through `load_image` and the Linen module."""
    config = jeffnet.weights.read_config(checkpoint)
    module, variables = jeffnet.create_model(MODEL, weights=checkpoint, **config['options'])
    folder = ClassFolder.open(data)
    run = jax.jit(module.apply)
    images = [load_image(path, config['preprocessing']) for path in folder.paths]
    right = [int(run(variables, x)[0].argmax()) == label for x, label in zip(images, folder.labels, strict=True)]
    assert 0 < sum(right) < len(right)  # else equality would show little
    return 100 * sum(right) / len(right)


def test_every_framework_and_reader_gives_the_row_that_counting_by_hand_gives(data, checkpoint, tmp_path):
    file = tmp_path / 'rows.csv'
    for framework in jeffnet.FRAMEWORKS:
        for pipeline in ('tf', 'pt'):
            argv = [str(data), '--checkpoint', str(checkpoint), '--batch-size', '4', '--results-file', str(file)]
            assert validate.main(framework, pipeline, argv) == 0
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [(r['framework'], r['pipeline']) for r in rows] == [(f, p) for f in jeffnet.FRAMEWORKS for p in ('tf', 'pt')]
    by_hand = expected_top1(data, checkpoint)
    for row in rows:
        assert float(row['top1']) == pytest.approx(by_hand, abs=1e-3)
        assert (row['images'], row['top5'], row['img_size'], row['crop_pct']) == ('11', '100.0', '32', '0.9')


def test_json_results_and_overrides(data, checkpoint, tmp_path, capsys):
    file = tmp_path / 'rows.json'
    argv = [str(data / 'validation'), '--checkpoint', str(checkpoint), '--img-size', '40', '--crop-pct', '1']
    assert validate.main('linen', 'pt', [*argv, '--preprocessing', 'tf', '--results-file', str(file)]) == 0
    (row,) = json.loads(file.read_text())
    assert (row['img_size'], row['preprocessing'], row['crop_pct']) == ('40', 'tf', 1.0)
    assert 'resize to 40x40' in capsys.readouterr().out


FAULTS = {
    '--model is missing': ['DATA'],
    "unknown model 'tf_eficientnet_b0'; the closest names are": ['DATA', '--model', 'tf_eficientnet_b0'],
    '--batch-size': ['DATA', '--checkpoint', 'CHECKPOINT', '--batch-size', '0'],
    'no such folder': ['DATA/nowhere', '--checkpoint', 'CHECKPOINT'],
    'holds no class folders': ['DATA/validation/red', '--checkpoint', 'CHECKPOINT'],
    'is a checkpoint of tf_mobilenetv3': ['DATA', '--checkpoint', 'CHECKPOINT', '--model', 'pt_efficientnet_b0'],
    'holds no config.json': ['DATA', '--checkpoint', 'DATA'],
    'must end in .csv or .json': ['DATA', '--checkpoint', 'CHECKPOINT', '--results-file', 'rows.txt'],
    'crop_pct is 1.5': ['DATA', '--checkpoint', 'CHECKPOINT', '--crop-pct', '1.5'],
    'at least 32 x 32': ['DATA', '--checkpoint', 'CHECKPOINT', '--img-size', '20'],
    'no model with published weights matches': ['DATA', '--model', 'nothing*'],
}


@pytest.mark.parametrize('says', FAULTS)
def test_bad_arguments_and_input_give_status_2_and_one_line(says, data, checkpoint, capfd):
    argv = [part.replace('DATA', str(data)).replace('CHECKPOINT', str(checkpoint)) for part in FAULTS[says]]
    assert validate.main('linen', 'pt', argv) == 2
    error = capfd.readouterr().err.strip()
    assert says in error and error.count('\n') == 0 and 'Traceback' not in error


def test_a_class_that_the_checkpoint_does_not_know_is_refused(data, checkpoint, tmp_path, capfd):
    for name in ('red', 'violet'):
        (tmp_path / name).mkdir()
        Image.new('RGB', (40, 40)).save(tmp_path / name / '0.png')
    assert validate.main('nnx', 'pt', [str(tmp_path), '--checkpoint', str(checkpoint)]) == 2
    assert "'violet'" in capfd.readouterr().err


def test_a_broken_image_is_named(data, checkpoint, tmp_path, capfd):
    (tmp_path / 'red').mkdir()
    (tmp_path / 'red' / 'broken.jpg').write_bytes(b'no image')
    for pipeline in ('pt', 'tf'):
        assert validate.main('objax', pipeline, [str(tmp_path), '--checkpoint', str(checkpoint)]) == 2
        assert 'broken.jpg' in capfd.readouterr().err


@pytest.mark.parametrize('script', ['tf_objax', 'pt_objax', 'tf_nnx', 'pt_nnx', 'tf_linen', 'pt_linen'])
def test_scripts_are_thin_and_show_their_help_without_a_framework(script):
    path = ROOT / f'{script}_validate.py'
    assert len(path.read_text().splitlines()) < 30
    done = subprocess.run([sys.executable, path, '--help'], capture_output=True, text=True, check=True)
    assert '--results-file' in done.stdout


def test_load_image_is_what_the_reader_gives(data):
    from jeffnet.data import pt

    info, folder = jeffnet.model_info('pt_efficientnet_b0'), ClassFolder.open(data)
    batch = next(iter(pt.evaluation_batches(folder, Preprocessing.of(info), 2)))
    np.testing.assert_array_equal(load_image(folder.paths[1], info)[0], batch['image'][1])
    assert load_image(folder.paths[0], info, image_size=64, in_chans=1).shape == (1, 64, 64, 1)
    assert jnp.asarray(load_image(folder.paths[0], info)).dtype == jnp.float32
    np.testing.assert_array_equal(load_image(folder.paths[0], info.name), load_image(folder.paths[0], info))
    with pytest.raises(ValueError, match="unknown model 'pt_efficientnet_x0'; the closest names are pt_eff"):
        load_image(folder.paths[0], 'pt_efficientnet_x0')
    with pytest.raises(TypeError, match='preprocessing of int: expected the name of a model'):
        load_image(folder.paths[0], 224)
    with pytest.raises(FileNotFoundError, match=r'nowhere\.png'):
        load_image('nowhere.png', info)
    (data / 'no.png').write_bytes(b'text')
    with pytest.raises(DataError, match=r'no\.png: cannot be read as an image'):
        load_image(data / 'no.png', info)
