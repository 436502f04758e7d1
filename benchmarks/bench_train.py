"""One training step beside those of plain Flax and of timm in PyTorch: images per second of the same network.

    python -m benchmarks.bench_train --out results/bench-train.csv [--rounds 5] [--seconds 3]

The batch is in memory and the same for all; SGD with Nesterov momentum and weight decay, cross entropy with label
smoothing, batch norm in training mode, float32. Ours is the program that the train scripts run, from `prepare`, with
all that it counts and checks. Each side is a process of its own with two threads; they take turns, round by round, and
those that wait do nothing. Parameters must be equal, and the operations of a step similar.

All run under the C library's allocator as it comes, but that ours sets it as the train scripts do, and again under the
same one that keeps what is freed (`tuned`), which the bars are for.
"""

import math
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers_train import MOMENTUM, RATE, SMOOTHING, WEIGHT_DECAY, counted, plain_flax, timm_torch
from benchmarks.pictures import CLASSES, write
from benchmarks.table import write_table
from benchmarks.turns import ALLOCATORS, Result, Side, command, compare

# Bars of jeffnet's speed, by model and peer, under the tuned allocator.
BARS = {
    'efficientnet_b0': {'plain flax': 8.0, 'timm': 1.0},
    'resnet50': {'plain flax': 1.0, 'timm': 1.0},
    'vit_small_patch16_224': {'timm': 1.0},
}
PEERS = ('plain flax', 'timm')
BATCH, SIZE = 8, 224
FLOPS_TOLERANCE = 0.15  # XLA also counts what is no convolution; PyTorch's count is three forward passes


def jeffnet(
    framework: str, name: str, images: np.ndarray, labels: np.ndarray, classes: int, dtype: str = 'float32'
) -> Side:
    """The step of the train scripts."""
    import jax

    from jeffnet import machine
    from jeffnet.train import default_config
    from jeffnet.train.mesh import split
    from jeffnet.train.plan import prepare
    from jeffnet.train.step import Programs, zeros

    machine.keep_memory()
    config = default_config()
    config.update(
        model=f'pt_{name}', image_size=images.shape[1], batch_size=len(images), learning_rate=RATE, momentum=MOMENTUM
    )
    config.update(weight_decay=WEIGHT_DECAY, decay_mask='all', label_smoothing=SMOOTHING)
    config.update(schedule='constant', warmup_epochs=0.0, dtype=dtype)
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
        return float(jax.device_get(totals)['loss']) / len(images)

    return Side({'step': step}, {'parameters': parameters, 'gflops': flops / 1e9})


SIDES: dict[str, Callable[..., Side]] = {
    **{f'jeffnet {framework}': partial(jeffnet, framework) for framework in ('linen', 'nnx', 'objax')},
    'plain flax': plain_flax,
    'timm': timm_torch,
    'timm compiled': partial(timm_torch, compiled=True),
}


def side_of(side: str, name: str) -> Side:
    """The side that a child process serves."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((BATCH, SIZE, SIZE, 3), np.float32)
    return SIDES[side](name, images, rng.integers(0, CLASSES, BATCH).astype(np.int32), CLASSES)


def measure(name: str, allocator: str, sides: list[str], rounds: int, length: float) -> list[dict[str, Any]]:
    """The rows of one network under one allocator."""
    chosen = [side for side in sides if side not in PEERS or side in BARS[name]]  # there is no ViT in plain Flax
    commands = {side: ['-m', 'benchmarks.bench_train', '--side', side, name] for side in chosen}
    results = compare(commands, ['step'], rounds, length, dict.fromkeys(chosen, ALLOCATORS[allocator]))
    return [row(name, allocator, side, results) for side in chosen]


def row(name: str, allocator: str, side: str, results: dict[str, Result]) -> dict[str, Any]:
    """One line of the table; of a side that did not start, n/a."""
    found = {'model': name, 'allocator': allocator, 'image_size': SIZE, 'batch': BATCH, 'side': side}
    columns = ('parameters', 'gflops', 'loss', 'images_per_second', 'of_plain_flax', 'of_timm', 'peak_mb')
    if side not in results:
        return {**found, **dict.fromkeys(columns, 'n/a'), 'ok': side not in ('jeffnet linen', *BARS[name])}
    own = results[side]
    first = results.get('jeffnet linen', own).facts
    speeds = {side: BATCH / result.seconds['step'] for side, result in results.items()}
    ratios = {peer: speeds[side] / speeds[peer] if peer in speeds else math.nan for peer in PEERS}
    work = own.facts['gflops']
    same = own.facts['parameters'] == first['parameters'] and abs(work / first['gflops'] - 1) <= FLOPS_TOLERANCE
    judged = side.startswith('jeffnet') and allocator == 'tuned'
    slow = judged and any(ratios[peer] < bar for peer, bar in BARS[name].items())
    figures = (
        own.facts['parameters'], f'{work:.1f}', f'{own.values["step"]:.3f}', f'{speeds[side]:.2f}',
        *('n/a' if math.isnan(ratio) else f'{ratio:.2f}' for ratio in ratios.values()),
        'n/a' if own.peak_bytes is None else f'{own.peak_bytes / 1e6:.0f}',
    )  # fmt: skip
    return {**found, **dict(zip(columns, figures, strict=True)), 'ok': bool(same and own.finite and not slow)}


def main() -> int:
    out = 'results/bench-train.csv'
    arguments, rows = command(__doc__, out, list(BARS), list(SIDES), 3.0, side_of, measure)
    return 0 if rows is None else write_table(arguments.out, rows)


if __name__ == '__main__':
    sys.exit(main())
