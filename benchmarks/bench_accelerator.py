"""Inference and training in bfloat16 on an accelerator, beside timm under torch.compile with autocast.

    python -m benchmarks.bench_accelerator [--out results/bench-accelerator-NAME.csv] [--rounds 5] [--seconds 3]

The same networks, batches and steps as in `bench_inference` and `bench_train`; every call is waited for. On a GPU, both
sides use it, with large batches; without one, both use the processor, with two images, which shows that it runs and no
more. `mfu` is the share of the device's peak that the operations of the network would take: two for each
multiply-add, three times as many in training.
"""

import argparse
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import bench_inference, bench_train
from benchmarks.peers_train import timm_torch
from benchmarks.pictures import CLASSES
from benchmarks.table import parse, say, write_table
from benchmarks.turns import Result, Side, compare, serve
from jeffnet.command_line import at_least, seconds

MODELS = ('efficientnet_b0', 'resnet50', 'vit_small_patch16_224')
PEER = 'timm compiled'
SIDES = ('jeffnet linen', 'jeffnet nnx', 'jeffnet objax', PEER)
LARGE = {'inference': 256, 'training': 128}
SMALL = {'inference': 2, 'training': 2}
# All sides are alive at once: none may take the whole memory of the device.
ENVIRONMENT = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}


def side_of(side: str, name: str, job: str, batch: int) -> Side:
    """The side that a child process serves."""
    if job == 'inference':
        make = partial(bench_inference.timm, compiled=True, amp=True)
        if side != PEER:
            make = partial(bench_inference.jeffnet, side.split()[1], dtype='bfloat16')
        return make(name, (batch,))
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, bench_train.SIZE, bench_train.SIZE, 3), np.float32)
    labels = rng.integers(0, CLASSES, batch).astype(np.int32)
    if side == PEER:
        return timm_torch(name, images, labels, CLASSES, compiled=True, amp=True)
    return bench_train.jeffnet(side.split()[1], name, images, labels, CLASSES, dtype='bfloat16')


def device() -> tuple[str, str]:
    """Platform and kind of JAX's first device, asked in a process of its own, so that this one holds none."""
    code = 'import jax; d = jax.devices()[0]; print(d.platform, d.device_kind)'
    told = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    platform, _, kind = told.strip().splitlines()[-1].partition(' ')
    return platform, kind


def measure(name: str, job: str, batch: int, kind: str, rounds: int, length: float) -> list[dict[str, Any]]:
    """The rows of one network at one job."""
    own = ['-m', 'benchmarks.bench_accelerator', '--side']
    commands = {side: [*own, side, name, job, str(batch)] for side in SIDES}
    case = str(batch) if job == 'inference' else 'step'
    results = compare(commands, [case], rounds, length, dict.fromkeys(SIDES, ENVIRONMENT))
    return [row(name, job, batch, kind, side, case, results) for side in SIDES]


def row(name: str, job: str, batch: int, kind: str, side: str, case: str, results: dict[str, Result]) -> dict[str, Any]:
    """One line of the table; of a side that did not start, n/a."""
    from jeffnet import model_info
    from jeffnet.train.hardware import peak_flops

    found = {'model': name, 'job': job, 'device': kind, 'dtype': 'bfloat16', 'batch': batch, 'side': side}
    if side not in results:
        return {**found, 'images_per_second': 'n/a', 'of_timm_compiled': 'n/a', 'mfu': 'n/a', 'ok': False}
    speed = batch / results[side].seconds[case]
    peer = batch / results[PEER].seconds[case] if PEER in results else None
    peak = peak_flops(kind, 'bfloat16')
    operations = 2 * model_info(f'pt_{name}').multiply_adds * (3 if job == 'training' else 1)
    figures = {
        'images_per_second': f'{speed:.1f}',
        'of_timm_compiled': f'{speed / peer:.2f}' if peer else 'n/a',
        'mfu': f'{speed * operations / peak:.3f}' if peak else 'n/a',
        'ok': results[side].finite,
    }
    return found | figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=at_least(1), default=5)
    parser.add_argument('--seconds', type=seconds, default=3.0, help='of a turn')
    parser.add_argument('--models', nargs='+', choices=MODELS, default=MODELS)
    parser.add_argument('--side', nargs=4, help=argparse.SUPPRESS)  # the child processes
    arguments = parse(parser, None)
    if arguments.side:
        side, name, job, batch = arguments.side
        serve(side_of(side, name, job, int(batch)))
        return 0
    platform, kind = device()
    rows = []
    for name in arguments.models:
        for job, batch in (SMALL if platform == 'cpu' else LARGE).items():
            for found in measure(name, job, batch, kind, arguments.rounds, arguments.seconds):
                rows.append(found)
                say(found)
    word = re.sub(r'[^a-z0-9]+', '-', kind.lower()).strip('-')
    return write_table(arguments.out or Path(f'results/bench-accelerator-{word}.csv'), rows, kind)


if __name__ == '__main__':
    sys.exit(main())
