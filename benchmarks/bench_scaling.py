"""Inference by batch size and by number of devices: images per second of ours beside timm under torch.compile.

    python -m benchmarks.bench_scaling --out results/bench-scaling.csv [--rounds 3] [--seconds 1]

One network, float32, random weights, the allocator as it comes. `devices` are virtual ones, into which XLA divides the
processor (`--xla_force_host_platform_device_count`); one device is what users have by default. Every side is a process
of its own, and they take turns.
"""

import argparse
import sys
from typing import Any

from benchmarks.bench_inference import SIDES, SIZE
from benchmarks.table import output, say, write_table
from benchmarks.turns import Result, compare, serve
from jeffnet.command_line import at_least, seconds

MODEL = 'efficientnet_b0'
SIZES = (1, 2, 4, 8, 16, 32, 64)
DEVICES = (1, 2, 4, 8)
PEER = 'timm compiled'


def rows_of(side: str, devices: int, results: dict[str, Result], key: str) -> list[dict[str, Any]]:
    """The lines of one side: a batch each."""
    found = []
    for size in SIZES:
        common = {'model': MODEL, 'image_size': SIZE, 'side': side, 'devices': devices, 'batch': size}
        if key not in results:
            found.append({**common, 'images_per_second': 'n/a', 'of_timm_compiled': 'n/a', 'ok': side == PEER})
            continue
        speed = size / results[key].seconds[str(size)]
        peer = size / results[PEER].seconds[str(size)] if PEER in results else None
        figures = {
            'images_per_second': f'{speed:.1f}', 'of_timm_compiled': f'{speed / peer:.2f}' if peer else 'n/a',
            'ok': results[key].finite,
        }  # fmt: skip
        found.append(common | figures)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=output, default='results/bench-scaling.csv')
    parser.add_argument('--rounds', type=at_least(1), default=3)
    parser.add_argument('--seconds', type=seconds, default=1.0, help='of a turn')
    parser.add_argument('--side', help=argparse.SUPPRESS)  # the child processes
    arguments = parser.parse_args()
    if arguments.side:
        serve(SIDES[arguments.side](MODEL, SIZES))
        return 0
    ours = {f'jeffnet linen on {count}': count for count in DEVICES}
    command = ['-m', 'benchmarks.bench_scaling', '--side']
    commands = {key: [*command, 'jeffnet linen'] for key in ours} | {PEER: [*command, PEER]}
    flags = {key: f'--xla_force_host_platform_device_count={count}' for key, count in ours.items()}
    environments = {key: {'XLA_FLAGS': flag} for key, flag in flags.items()}
    results = compare(commands, list(map(str, SIZES)), arguments.rounds, arguments.seconds, environments)
    rows = [row for key, count in ours.items() for row in rows_of('jeffnet linen', count, results, key)]
    rows += rows_of(PEER, 1, results, PEER)
    for row in rows:
        say(row)
    return write_table(arguments.out, rows)


if __name__ == '__main__':
    sys.exit(main())
