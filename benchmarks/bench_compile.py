"""How long networks take to compile, deep ones too: seconds of the first call beyond those of the second.

    python -m benchmarks.bench_compile [--models efficientnet_b7 ... --out FILE]

The same calls as in `bench_inference`, with one image, and the same steps as in `bench_train`, each in a new process
without programs from earlier runs; beside them, timm's network under torch.compile.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from typing import Any

import numpy as np

from benchmarks import bench_inference, bench_train
from benchmarks.peers_train import timm_torch
from benchmarks.pictures import CLASSES
from benchmarks.table import parse, say, write_table
from benchmarks.turns import Side

MODELS = ('efficientnet_b0', 'efficientnet_b7', 'resnet50', 'vit_small_patch16_224', 'vit_base_patch16_224')
JOBS = ('inference', 'training')
OURS, PEER = 'jeffnet linen', 'timm compiled'
BATCH = 2  # of a training step: the programs of larger ones have the same operations


def side_of(side: str, name: str, job: str) -> Side:
    """The side that a child process measures."""
    if job == 'inference':
        make = (
            partial(bench_inference.jeffnet, 'linen') if side == OURS else partial(bench_inference.timm, compiled=True)
        )
        return make(name, (1,))
    rng = np.random.default_rng(0)
    images = rng.standard_normal((BATCH, bench_train.SIZE, bench_train.SIZE, 3), np.float32)
    labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)
    if side == PEER:
        return timm_torch(name, images, labels, CLASSES, compiled=True)
    return bench_train.jeffnet('linen', name, images, labels, CLASSES)


def times(side: Side) -> list[float]:
    """Seconds of the first and of the second call."""
    (case,) = side.cases.values()
    found = []
    for _ in range(2):
        start = time.perf_counter()
        case()
        found.append(time.perf_counter() - start)
    return found


def measure(side: str, name: str, job: str) -> list[float]:
    """The times of a new process."""
    with tempfile.TemporaryDirectory() as empty:
        environment = os.environ | {'JAX_COMPILATION_CACHE_DIR': '', 'TORCHINDUCTOR_CACHE_DIR': empty}
        command = [sys.executable, '-m', 'benchmarks.bench_compile', '--side', side, name, job]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--models', nargs='+', choices=MODELS, default=MODELS)
    parser.add_argument('--side', nargs=3, help=argparse.SUPPRESS)  # the child processes
    arguments = parse(parser, 'results/bench-compile.csv')
    if arguments.side:
        print('\n' + json.dumps(times(side_of(*arguments.side))))
        return 0
    rows: list[dict[str, Any]] = []
    for name in arguments.models:
        for job in JOBS:
            found = {side: measure(side, name, job) for side in (OURS, PEER)}
            compiling = {side: first - second for side, (first, second) in found.items()}
            for side, (_, second) in found.items():
                figures = {'seconds': f'{compiling[side]:.1f}', 'second_call': f'{second:.2f}'}
                ratio = {'of_timm_compiled': f'{compiling[side] / compiling[PEER]:.2f}', 'ok': True}
                rows.append({'model': name, 'job': job, 'side': side, **figures, **ratio})
                say(rows[-1])
    return write_table(arguments.out, rows)


if __name__ == '__main__':
    sys.exit(main())
