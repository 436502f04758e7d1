"""From the start of a process to the first logits: a network with weights from a local file, beside timm in PyTorch.

    python -m benchmarks.bench_cold_start --out results/bench-cold-start.csv [--rounds 7]

Every run is a new process that imports what it needs, creates the model from a .safetensors file that timm wrote with
random values, and computes the logits of one image. Ours does what the validate scripts do: `machine.set_up`,
`create_model`, `predictor`; with the programs of the run before (`warm`), and with an empty folder for them (`cold`).
The sides take turns, and the machine does nothing else. `seconds` is the whole, `beyond_imports` what comes after them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.table import parse, say, write_table
from jeffnet.command_line import at_least

MODELS = ('tf_efficientnet_b0', 'pt_resnet50', 'pt_vit_small_patch16_224')
SIDES = {
    **{f'jeffnet {framework} {cache}': (framework, cache) for framework in ('linen', 'nnx', 'objax')
       for cache in ('warm', 'cold')},
    'timm': ('timm', 'warm'),
}  # fmt: skip
OF_MAKE = ('JAX_COMPILATION_CACHE_DIR', 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS')  # which users do not set
COLD_BAR = 4.0  # seconds beyond the imports
JEFFNET = """
import json, sys, time
import jax, numpy as np
import jeffnet
from jeffnet import fusion, machine, predict
back_end = getattr(jeffnet, sys.argv[1])
imported = time.time()
machine.set_up()
made = jeffnet.create_model(sys.argv[2], sys.argv[1], weights=sys.argv[3])
predict = jeffnet.predictor(*made) if sys.argv[1] == 'linen' else jeffnet.predictor(made)
created = time.time()
logits = np.asarray(predict(np.load(sys.argv[4])))
"""
TIMM = """
import json, sys, time
import numpy as np, safetensors.torch, timm, torch
imported = time.time()
model = timm.create_model(sys.argv[2].removeprefix('pt_')).eval()
model.load_state_dict(safetensors.torch.load_file(sys.argv[3]))
model = model.to(memory_format=torch.channels_last)
created = time.time()
with torch.inference_mode():
    images = torch.from_numpy(np.load(sys.argv[4]).transpose(0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)
    logits = model(images).numpy()
"""
TOLD = """
assert np.isfinite(logits).all()
print(json.dumps({'imported': imported, 'created': created, 'done': time.time(), 'sum': float(np.abs(logits).sum())}))
"""


def write_weights(name: str, path: Path) -> None:
    """A file with timm's random values and statistics for a model, in a process of its own."""
    code = (
        'import sys; from benchmarks.torch_reference import reference; from safetensors.torch import save_file\n'
        'save_file({k: v.contiguous() for k, v in reference(sys.argv[1]).state_dict().items()}, sys.argv[2])'
    )
    subprocess.run([sys.executable, '-c', code, name, str(path)], check=True)


def start(side: str, name: str, weights: Path, images: Path, folder: Path) -> dict[str, float]:
    """The times of one run, in seconds from the start of its process."""
    kind, cache = SIDES[side]
    with tempfile.TemporaryDirectory() as empty:
        home = folder / side.replace(' ', '-') if cache == 'warm' else Path(empty)
        environment = {key: value for key, value in os.environ.items() if key not in OF_MAKE}
        environment['XDG_CACHE_HOME'] = str(home)
        code = (TIMM if kind == 'timm' else JEFFNET) + TOLD
        began = time.time()
        done = subprocess.run(
            [sys.executable, '-c', code, kind, name, str(weights), str(images)],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f'{side}: {(done.stderr.strip().splitlines() or [""])[-1]}')
    told = json.loads(done.stdout.splitlines()[-1])
    return {key: told[key] - began for key in ('imported', 'created', 'done')} | {'sum': told['sum']}


def measure(name: str, sides: list[str], rounds: int) -> list[dict[str, Any]]:
    """The rows of one network."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights, images = folder / 'weights.safetensors', folder / 'images.npy'
        write_weights(name, weights)
        np.save(images, np.random.default_rng(0).standard_normal((1, 224, 224, 3), np.float32))
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for side in sides:
            start(side, name, weights, images, folder)  # fills the caches: of files, and of programs
        for turn in range(rounds):
            for side in sides if turn % 2 == 0 else reversed(sides):
                runs[side].append(start(side, name, weights, images, folder))
    medians = {side: median(found) for side, found in runs.items()}
    return [row(name, side, medians) for side in sides]


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    """Each time by itself."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def row(name: str, side: str, medians: dict[str, dict[str, float]]) -> dict[str, Any]:
    """One line of the table."""
    own, peer = medians[side], medians.get('timm')
    beyond = own['done'] - own['imported']
    found = {
        'model': name, 'side': side, 'imports': f'{own["imported"]:.2f}',
        'creation': f'{own["created"] - own["imported"]:.2f}', 'first_logits': f'{own["done"] - own["created"]:.2f}',
        'beyond_imports': f'{beyond:.2f}', 'seconds': f'{own["done"]:.2f}',
        'of_timm': f'{own["done"] / peer["done"]:.2f}' if peer else 'n/a',
    }  # fmt: skip
    same = peer is None or abs(own['sum'] / peer['sum'] - 1) < 1e-3  # the logits are those of the same weights
    slow = False
    if side.startswith('jeffnet'):
        slow = beyond > COLD_BAR if side.endswith('cold') else peer is not None and own['done'] > peer['done']
    return {**found, 'ok': same and not slow}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=at_least(1), default=7)
    parser.add_argument('--models', nargs='+', choices=MODELS, default=MODELS)
    parser.add_argument('--sides', nargs='+', choices=SIDES, default=list(SIDES))
    arguments = parse(parser, 'results/bench-cold-start.csv')
    rows = []
    for name in arguments.models:
        for found in measure(name, arguments.sides, arguments.rounds):
            rows.append(found)
            say(found)
    return write_table(arguments.out, rows)


if __name__ == '__main__':
    sys.exit(main())
