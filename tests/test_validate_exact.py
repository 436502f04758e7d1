"""The figures depend on neither devices, processes nor batch sizes; each image counts once. Fresh processes judge.

103 images: divided by none of the batch sizes 1 (per device), 7 and 64, nor by 2 processes or 8 devices.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jeffnet
from jeffnet.data import Preprocessing

ROOT = Path(__file__).parents[1]
MODEL = 'tf_mobilenetv3_small_minimal_100'  # the cheapest to compile
CLASSES = [f'class{i}' for i in range(7)]
IMAGES = 103


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Noisy images of a colour for each class."""
    root, rng = tmp_path_factory.mktemp('data'), np.random.default_rng(0)
    colours = rng.integers(0, 256, (len(CLASSES), 3))
    for index in range(IMAGES):
        label = index % len(CLASSES)
        folder = root / CLASSES[label]
        folder.mkdir(exist_ok=True)
        pixels = np.clip(colours[label] + rng.normal(0, 50, (36, 44, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f'{index}.png')
    return root


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A folder with random weights, statistics and biases included."""
    folder = tmp_path_factory.mktemp('run') / 'best'
    _, variables = jeffnet.create_model(MODEL, num_classes=len(CLASSES))
    rng = np.random.default_rng(1)
    flat = jeffnet.flat_variables(variables)
    for name, array in flat.items():
        if name.endswith(('.bias', '.scale', '.mean')):
            flat[name] = array + 0.2 * rng.standard_normal(array.shape).astype(np.float32)
    jeffnet.weights.save(
        folder, model=MODEL, options={'num_classes': len(CLASSES)}, variables=flat,
        preprocessing=Preprocessing('pil', 32, 0.9, 'bicubic').to_dict(), classes=CLASSES,
    )  # fmt: skip
    return folder


def start(data, checkpoint, framework, pipeline, devices, *several):
    """A process that evaluates on so many devices."""
    environment = {**os.environ, 'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}'}
    command = [sys.executable, '-m', 'tests.exact', str(data), str(checkpoint), framework, pipeline, *map(str, several)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def answers(process):
    """What such a process found."""
    output, error = process.communicate(timeout=300)
    assert process.returncode == 0, error[-2000:]
    return json.loads(output.splitlines()[-1])


def free_port():
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


def test_the_script_in_two_processes_writes_the_row_of_one(data, checkpoint, tmp_path):
    """One of the images is broken; the first process writes everything, whoever read it."""
    folder = tmp_path / 'data'
    shutil.copytree(data, folder)
    broken = sorted(folder.glob('class3/*'))[0]
    broken.write_bytes(b'no image')

    def run(name, *several):
        command = [sys.executable, 'pt_linen_validate.py', folder, '--checkpoint', checkpoint, '--batch-size', '16']
        command += ['--on-bad-image', 'skip', '--results-file', tmp_path / f'{name}.json']
        command += ['--predictions', tmp_path / f'{name}.csv', *several]
        return subprocess.Popen(
            list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    several = ['--coordinator', f'127.0.0.1:{free_port()}', '--num-processes', '2', '--process-id']
    alone, *both = [run('alone'), run('both', *several, 0), run('both', *several, 1)]
    outputs = [process.communicate(timeout=300) for process in (alone, *both)]
    assert [process.returncode for process in (alone, *both)] == [0, 0, 0], outputs
    assert f'skipped: {broken}' in outputs[0][1] and f'skipped: {broken}' in outputs[1][1]
    assert 'top-1' in outputs[1][0] and 'top-1' not in outputs[2][0]
    rows = [json.loads((tmp_path / f'{name}.json').read_text())[0] for name in ('alone', 'both')]
    names = ('top1', 'top5', 'loss', 'images', 'skipped', 'weights', 'data')
    assert [rows[0][name] for name in names] == [rows[1][name] for name in names] and rows[0]['images'] == IMAGES - 1
    one, other = [(tmp_path / f'{name}.csv').read_text().splitlines() for name in ('alone', 'both')]
    assert [line.split(',')[:4] for line in one] == [line.split(',')[:4] for line in other] and len(one) == IMAGES


def test_if_one_process_fails_none_waits(data, checkpoint, tmp_path):
    folder = tmp_path / 'data'
    shutil.copytree(data, folder)
    sorted(folder.glob('class3/*'))[0].write_bytes(b'no image')
    several = ['--coordinator', f'127.0.0.1:{free_port()}', '--num-processes', '2', '--process-id']
    command = [sys.executable, 'pt_linen_validate.py', folder, '--checkpoint', checkpoint, *several]
    both = [
        subprocess.Popen(list(map(str, [*command, rank])), cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=100)[1] for process in both]
    assert sorted(process.returncode for process in both) == [1, 2]
    assert any('cannot be read as an image' in error for error in errors)
    assert any('failed; its own output says why' in error for error in errors)


def rounded(found):
    """Figures as the results file has them."""
    return {
        (size, name): value if name == 'answers' else round(value, 5)
        for size, figures in found.items()
        for name, value in figures.items()
    }


@pytest.mark.parametrize(('framework', 'pipeline'), [('linen', 'pt'), ('objax', 'tf'), ('nnx', 'pt')])
def test_devices_processes_and_batch_sizes_do_not_matter(framework, pipeline, data, checkpoint):
    alone = answers(start(data, checkpoint, framework, pipeline, 1))
    eight = answers(start(data, checkpoint, framework, pipeline, 8))
    several = f'127.0.0.1:{free_port()}', 2
    both = [start(data, checkpoint, framework, pipeline, 1, *several, rank) for rank in range(2)]
    two = [answers(process) for process in both]
    first = alone['1']
    assert first['images'] == IMAGES and 0 < first['top1'] < first['top5'] < 100
    expected = {(size, name): value for size in alone for (_, name), value in rounded({'1': first}).items()}
    for found in (alone, eight, *two):
        assert rounded(found) == expected
