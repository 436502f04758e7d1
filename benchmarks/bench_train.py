"""One training step beside those of plain Flax and of timm in PyTorch: images per second of the same network.

    python -m benchmarks.bench_train --out results/bench-train.csv [--rounds 5] [--seconds 3]

The batch is in memory and the same for all; SGD with Nesterov momentum and weight decay, cross entropy with label
smoothing, batch norm in training mode, float32. Ours is the program that the train scripts run, from `prepare`, with
all that it counts and checks. Each side is a process of its own with two threads; they take turns, round by round, and
those that wait do nothing. Parameters must be equal, and the operations of a step similar.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers_train import MOMENTUM, RATE, SMOOTHING, WEIGHT_DECAY, Side, counted, plain_flax, timm_torch
from benchmarks.pictures import CLASSES, write
from benchmarks.table import say, write_table

# Two equal programs differ by up to 3 % from run to run on a machine that also does other things. The ratio to timm is
# there to be seen, without a bar.
BARS = {'plain flax': 0.97, 'timm': 0.0}
MODELS = ('efficientnet_b0', 'resnet50')
BATCH, SIZE = 16, 128
FLOPS_TOLERANCE = 0.15  # XLA also counts what is no convolution; PyTorch's count is three forward passes


def jeffnet(framework: str, name: str, images: np.ndarray, labels: np.ndarray, classes: int) -> Side:
    """The step of the train scripts."""
    import jax

    from jeffnet.train import default_config
    from jeffnet.train.mesh import split
    from jeffnet.train.plan import prepare
    from jeffnet.train.step import Programs, zeros

    config = default_config()
    config.update(model=f'pt_{name}', image_size=SIZE, batch_size=BATCH, learning_rate=RATE, momentum=MOMENTUM)
    config.update(weight_decay=WEIGHT_DECAY, decay_mask='all', label_smoothing=SMOOTHING, schedule='constant')
    config.update(warmup_epochs=0.0)
    with tempfile.TemporaryDirectory() as folder:  # `prepare` wants images; those of the batch are others
        for part in ('train', 'validation'):
            write(Path(folder, part), classes)
        config.update(data_dir=folder, output_dir=str(Path(folder, 'output')))
        plan = prepare(config, 'pt', framework)
    batch = split(plan.mesh, {'image': images, 'label': labels})
    state, start = plan.state, zeros(plan.mesh)
    parameters = sum(array.size for array in state.params.values())
    flops = counted(plan.train_step.lower(state, start, batch))
    run = Programs(plan.train_step)

    def step():
        nonlocal state
        state, totals = run(state, start, batch)
        return totals

    return Side(step, lambda totals: float(jax.device_get(totals)['loss']) / BATCH, parameters, flops)


SIDES: dict[str, Callable[..., Side]] = {
    **{f'jeffnet {framework}': partial(jeffnet, framework) for framework in ('linen', 'nnx', 'objax')},
    'plain flax': plain_flax,
    'timm': timm_torch,
    'timm compiled': partial(timm_torch, compiled=True),
}


def serve(side: str, name: str) -> None:
    """The child process: says what the side is; then for each number on standard input steps for so many seconds."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((BATCH, SIZE, SIZE, 3), np.float32)
    labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)
    made = SIDES[side](name, images, labels, CLASSES)
    losses = [made.loss(made.step()) for _ in range(2)]  # compiles, and warms up
    say_json({'parameters': made.parameters, 'gflops': made.flops / 1e9})
    for line in sys.stdin:
        seconds, steps = 0.0, 0
        start = time.perf_counter()
        while seconds < float(line):  # at least one step
            losses.append(made.loss(made.step()))  # waits for the step
            seconds, steps = time.perf_counter() - start, steps + 1
        say_json({'seconds': seconds / steps, 'loss': losses[-1], 'finite': all(map(math.isfinite, losses))})


def say_json(found: dict[str, Any]) -> None:
    """A line for the parent."""
    print('\n' + json.dumps(found), flush=True)


class Child:
    """A side in a process of its own."""

    def __init__(self, side: str, name: str, errors: Any):
        command = [sys.executable, '-m', 'benchmarks.bench_train', '--side', side, name]
        # Passive: threads that wait between two steps must not spin while another side computes.
        environment = os.environ | {'OMP_NUM_THREADS': '2', 'OMP_WAIT_POLICY': 'passive'}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )

    def read(self) -> dict[str, Any]:
        """What the child says next; RuntimeError if it ends instead."""
        for line in self.process.stdout or ():
            if line.startswith('{'):
                return json.loads(line)
        raise RuntimeError(f'ended with status {self.process.wait()}')

    def run(self, seconds: float) -> dict[str, Any]:
        """Steps for so many seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(f'{seconds}\n')
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        """Ends the child."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def measure(name: str, sides: list[str], rounds: int, length: float) -> list[dict[str, Any]]:
    """The rows of one network."""
    children: dict[str, Child] = {}
    facts: dict[str, dict] = {}
    seconds: dict[str, list[float]] = {}
    try:
        for side in sides:  # one after the other, so that compilations do not hinder each other
            with tempfile.TemporaryFile('w+') as errors:
                children[side] = Child(side, name, errors)
                try:
                    facts[side] = children[side].read()
                except RuntimeError as error:
                    errors.seek(0)
                    last = (errors.read().strip().splitlines() or [''])[-1]
                    print(f'{side}, {name}: {error}: {last}', file=sys.stderr, flush=True)
                    children.pop(side).close()
        for turn in range(rounds):
            for side in sorted(children, key=sides.index, reverse=turn % 2 == 1):  # no side always follows another
                found = children[side].run(length)
                seconds.setdefault(side, []).append(found['seconds'])
                facts[side] |= found
    finally:
        for child in children.values():
            child.close()
    speeds = {side: BATCH / statistics.median(found) for side, found in seconds.items()}
    return [row(name, side, facts, speeds) for side in sides]


def row(name: str, side: str, facts: dict[str, dict], speeds: dict[str, float]) -> dict[str, Any]:
    """One line of the table; of a side that did not start, n/a."""
    found = {'model': name, 'image_size': SIZE, 'batch': BATCH, 'side': side}
    columns = ('parameters', 'gflops', 'loss', 'images_per_second', 'of_plain_flax', 'of_timm')
    if side not in speeds:
        return {**found, **dict.fromkeys(columns, 'n/a'), 'ok': side not in ('jeffnet linen', *BARS)}
    own = facts[side]
    first = facts.get('jeffnet linen', own)
    ratios = {peer: speeds[side] / speeds[peer] if peer in speeds else math.nan for peer in BARS}
    same = own['parameters'] == first['parameters'] and abs(own['gflops'] / first['gflops'] - 1) <= FLOPS_TOLERANCE
    fast = not side.startswith('jeffnet') or all(ratios[peer] >= bar for peer, bar in BARS.items())
    figures = (
        own['parameters'], f'{own["gflops"]:.1f}', f'{own["loss"]:.3f}', f'{speeds[side]:.2f}',
        *('n/a' if math.isnan(ratio) else f'{ratio:.2f}' for ratio in ratios.values()),
    )  # fmt: skip
    return {**found, **dict(zip(columns, figures, strict=True)), 'ok': bool(same and fast and own['finite'])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('results/bench-train.csv'))
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--seconds', type=float, default=3.0, help='of a turn')
    parser.add_argument('--models', nargs='+', choices=MODELS, default=MODELS)
    parser.add_argument('--sides', nargs='+', choices=SIDES, default=list(SIDES))
    parser.add_argument('--side', nargs=2, help=argparse.SUPPRESS)  # the child processes
    arguments = parser.parse_args()
    if arguments.side:
        serve(*arguments.side)
        return 0
    rows = []
    for name in arguments.models:
        for found in measure(name, arguments.sides, arguments.rounds, arguments.seconds):
            rows.append(found)
            say(found)
    return write_table(arguments.out, rows)


if __name__ == '__main__':
    sys.exit(main())
