"""Host memory stays flat over 2,000 batches: nothing keeps the images, neither readers nor loop."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
BATCHES, SIDE = 2000, 96
MARGIN = 10  # MB, of malloc; 0.3 and 2.0 were measured. The images would take 2000 * 96 * 96 * 3 * 4 bytes = 221 MB

# The set is read as a user's would be: by class folders, batch size 1, with a model that has a little to do.
SCRIPT = """
import os, sys
import numpy as np
from jeffnet.data import Preprocessing, import_reader
from jeffnet.data.opening import open_images
from jeffnet.validate.evaluate import Runner, evaluate
import jax, jax.numpy as jnp

def resident():
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGESIZE') / 1e6

data, pipeline, side = sys.argv[1], sys.argv[2], int(sys.argv[3])
source = open_images(data, pipeline)
batches = import_reader(pipeline).evaluation_batches(source, Preprocessing('pil', side, 1.0), 1)
seen, counted = [], 0

def progress(images):
    global counted
    counted += images
    seen.append(resident())

predict = jax.jit(lambda images: jnp.stack([images.mean((1, 2, 3)), images.max((1, 2, 3))], axis=-1))
outcome = evaluate(Runner(predict, 2), batches, len(source), progress=progress)
assert counted == len(seen) == outcome.figures()['images'] == len(source)
print(len(seen), seen[9], seen[-1], max(seen[9:]))
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Two thousand small images of two classes."""
    root, rng = tmp_path_factory.mktemp('data'), np.random.default_rng(0)
    for name in ('a', 'b'):
        (root / name).mkdir()
    for index in range(BATCHES):
        image = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).resize((SIDE, SIDE))
        image.save(root / 'ab'[index % 2] / f'{index}.jpg')
    return root


@pytest.mark.parametrize('pipeline', ['pt', 'tf'])
def test_memory_stays_flat(pipeline, data):
    command = [sys.executable, '-c', SCRIPT, str(data), pipeline, str(SIDE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    batches, early, late, most = (float(word) for word in done.stdout.split())
    assert batches == BATCHES
    assert late - early < MARGIN and most - early < MARGIN, done.stdout
