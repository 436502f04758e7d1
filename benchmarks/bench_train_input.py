"""Training waits for images less than 5 % of the time, with the readers on the same CPUs as the model.

    python -m benchmarks.bench_train_input --out results/bench-train-input.csv [--intervals 5] [--steps 6]

Each case is a run of a train script as users start it, with train_configs/default.py in float32: EfficientNet-B0,
images of 96 x 96, batch 32, from JPEG files of ImageNet's sizes. Figures are those of the run's own log.jsonl: medians
of the intervals but the first, in which the reader's queues are still full from the time of compilation.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.pictures import write
from benchmarks.table import parse, say, write_table
from jeffnet.command_line import at_least
from jeffnet.train.log_files import read_log

BAR = 0.05
SIZE, BATCH = 96, 32
IMAGES = 512
AUGMENTATIONS = {'crop, flip': None, 'RandAugment': 'rand-m9-mstd0.5-inc1'}  # besides crop and flip
CASES = [(pipeline, 'linen', name) for pipeline in ('pt', 'tf') for name in AUGMENTATIONS]
CASES += [('pt', 'objax', 'RandAugment'), ('tf', 'nnx', 'RandAugment')]
CONFIG = """
from train_configs import default


def get_config():
    config = default.get_config()
    config.augmentation.auto = {auto!r}
    return config
"""


def train(pipeline: str, framework: str, auto: str | None, folder: Path, steps: int, interval: int) -> list[dict]:
    """A run of so many steps; returns its intervals but the first."""
    config, output = folder / 'config.py', Path(tempfile.mkdtemp(dir=folder))
    config.write_text(CONFIG.format(auto=auto))
    settings = {
        'data_dir': folder / 'data', 'output_dir': output, 'dtype': 'float32', 'image_size': SIZE, 'batch_size': BATCH,
        'epochs': steps * BATCH / IMAGES, 'warmup_epochs': 0, 'eval_every_epochs': 1e6, 'log_every_steps': interval,
        'tensorboard': False,
    }  # fmt: skip
    if pipeline == 'pt':  # as for a large set; so few images would be read without worker processes
        settings['workers'] = os.cpu_count()
    command = [sys.executable, f'{pipeline}_{framework}_train.py', '--config', str(config)]
    subprocess.run(
        command + [f'--config.{key}={value}' for key, value in settings.items()], stdout=sys.stderr, check=True
    )
    return [line for line in read_log(output) if line['kind'] == 'train'][1:]


def row(pipeline: str, framework: str, augmentation: str, log: list[dict]) -> dict[str, Any]:
    """One line of the table."""
    medians = {key: statistics.median(line[key] for line in log) for key in ('step_seconds', 'images_per_second')}
    waits = [line['data_wait'] for line in log]
    return {
        'pipeline': pipeline,
        'framework': framework,
        'augmentation': augmentation,
        'image_size': SIZE,
        'images_per_second': f'{medians["images_per_second"]:.1f}',
        'step_ms': f'{1e3 * medians["step_seconds"]:.0f}',
        'data_wait': f'{statistics.median(waits):.4f}',
        'worst_data_wait': f'{max(waits):.4f}',
        'ok': statistics.median(waits) < BAR,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--intervals', type=at_least(1), default=5)
    parser.add_argument('--steps', type=at_least(1), default=6, help='of an interval')
    parser.add_argument('--cases', type=at_least(1), default=len(CASES), help='only the first ones')
    arguments = parse(parser, 'results/bench-train-input.csv')
    if arguments.intervals < 2:
        parser.error('--intervals: 2 or more, the first does not count')
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, 'data/train'), IMAGES)
        write(Path(folder, 'data/validation'), BATCH)
        steps = arguments.intervals * arguments.steps
        for pipeline, framework, augmentation in CASES[: arguments.cases]:
            log = train(pipeline, framework, AUGMENTATIONS[augmentation], Path(folder), steps, arguments.steps)
            rows.append(row(pipeline, framework, augmentation, log))
            say(rows[-1])
    return write_table(arguments.out, rows)


if __name__ == '__main__':
    sys.exit(main())
