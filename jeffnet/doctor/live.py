"""The checks that run something, each in a process of its own: `python -m jeffnet.doctor.live NAME` prints JSON.

Apart, because a broken installation ends a process (two LLVMs, a wrong libcudnn) and not just an import.
"""

import hashlib
import importlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jeffnet.doctor.running import RESULT

MODEL = 'pt_mnasnet_small'  # the smallest network
SIZE = 32  # of its images, in pixels
CLASSES = ('dark', 'light')


def devices() -> dict[str, Any]:
    """What JAX computes on."""
    import jax

    found = jax.devices()
    memory = (found[0].memory_stats() or {}).get('bytes_limit')
    return {'platform': found[0].platform, 'kind': found[0].device_kind, 'count': len(found), 'memory': memory}


def collectives() -> dict[str, Any]:
    """A sum over all devices, which several GPUs take by NCCL."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    found = jax.devices()
    along = NamedSharding(Mesh(np.array(found), ('device',)), PartitionSpec('device'))
    total = int(jax.jit(jnp.sum)(jax.device_put(np.arange(len(found)), along)))
    if total != sum(range(len(found))):
        raise ArithmeticError(f'the devices 0 to {len(found) - 1} add up to {total}')
    return {'count': len(found)}


def framework(name: str) -> dict[str, Any]:
    """The logits of a network with fixed values for a fixed image."""
    import jeffnet

    jeffnet.machine.set_up()
    made = jeffnet.create_model(MODEL, name, num_classes=10)
    predict = jeffnet.predictor(*made) if name == 'linen' else jeffnet.predictor(made)
    image = np.linspace(-1, 1, SIZE * SIZE * 3, dtype=np.float32).reshape(1, SIZE, SIZE, 3)
    return {'logits': np.asarray(predict(image))[0].tolist()}


def reader(pipeline: str) -> dict[str, Any]:
    """The pixels of image files that it has just written."""
    from PIL import Image

    from jeffnet.data import Preprocessing, import_reader
    from jeffnet.data.opening import open_images

    module = import_reader(pipeline)
    with tempfile.TemporaryDirectory() as folder:
        for label, name in enumerate(CLASSES):
            pixels = np.linspace(100 * label, 100 * label + 50, 48 * 64 * 3).reshape(48, 64, 3).astype(np.uint8)
            path = Path(folder, name, 'image.jpg')
            path.parent.mkdir()
            Image.fromarray(pixels).save(path, quality=95)
        images = open_images(folder, pipeline)
        batches = module.evaluation_batches(images, Preprocessing(image_size=(SIZE, SIZE)), len(CLASSES), 1)
        pixels = np.concatenate([np.asarray(batch['image']) for batch in batches])
    return {'shape': list(pixels.shape), 'pixels': hashlib.sha256(pixels.tobytes()).hexdigest()}


def imported(*modules: str) -> dict[str, Any]:
    """Nothing, once these are imported."""
    for module in modules:
        importlib.import_module(module)
    return {}


CHECKS: dict[str, Callable[[], dict[str, Any]]] = {
    'devices': devices,
    'collectives': collectives,
    'linen': lambda: framework('linen'),
    'nnx': lambda: framework('nnx'),
    'objax': lambda: framework('objax'),
    'tf': lambda: reader('tf'),
    'torch': lambda: reader('pt'),
    'hf': lambda: imported('datasets'),
    'train': lambda: imported('matplotlib.figure', 'tensorboard.summary.writer.record_writer'),
}

if __name__ == '__main__':
    print(RESULT + json.dumps(CHECKS[sys.argv[1]]()), flush=True)
