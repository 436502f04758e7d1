"""The figures depend on neither devices, processes nor batch sizes; each image counts once. Fresh processes judge.

103 images: divided by none of the batch sizes 1 (per device), 7 and 64, nor by 2 processes or 8 devices.
"""

import json
import os
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
