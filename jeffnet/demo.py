"""The first run: train on real images, then validate the result with every framework and reader.

`python -m jeffnet.demo` takes the steps that a user would, from a checkout of the repository: image files in class
folders, the train script with a configuration, the validate scripts with the checkpoint.
"""

import csv
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from jeffnet.command_line import Parser, guarded

ROOT = Path(__file__).parents[1]
OUTPUT = Path('output/demo')
LEAST_TOP1 = 98.5  # percent
HEADER = 'framework  pipeline   top-1 %   top-5 %  images/s  seconds'
VALIDATION_SCRIPTS = tuple(
    f'{reader}_{name}_validate.py' for reader in ('tf', 'pt') for name in ('linen', 'objax', 'nnx')
)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns 0 if all rows agree and are good enough, 1 if not, 2 for bad arguments."""
    return guarded(lambda: run(argv))


def run(argv: list[str] | None) -> int:
    """Runs the demo, which takes no arguments."""
    text = f'Trains on handwritten digits and validates in every framework; replaces {OUTPUT}.'
    Parser(prog='python -m jeffnet.demo', description=text).parse_args(argv)
    started = time.perf_counter()
    if not (ROOT / 'tf_linen_train.py').exists():
        return stop(f'{ROOT} holds no train scripts: run the demo from a checkout of the repository')
    os.chdir(ROOT)
    shutil.rmtree(OUTPUT, ignore_errors=True)

    counts = write_digits(OUTPUT / 'digits')
    say(
        f'wrote {counts["train"]:,} + {counts["validation"]:,} handwritten digits (scikit-learn) to {OUTPUT / "digits"}'
    )

    since = time.perf_counter()
    train = ['tf_linen_train.py', '--config', 'train_configs/digits_cpu.py']
    train += [f'--config.data_dir={OUTPUT / "digits"}', f'--config.output_dir={OUTPUT / "train"}']
    say(f'python {" ".join(train)}')
    if script(train, OUTPUT / 'train.txt', show=True):
        return stop(f'training failed, see {OUTPUT / "train.txt"}')
    say(f'trained in {time.perf_counter() - since:.0f} s')

    since = time.perf_counter()
    say(f'validating {OUTPUT / "train/best"} with six scripts')
    print(HEADER)
    top1 = []
    for name in VALIDATION_SCRIPTS:
        row = validate(name)
        if row is None:
            return stop(f'{name} failed, see {results_file(name).with_suffix(".txt")}')
        print(line(row), flush=True)
        top1.append(float(row['top1']))
    say(f'validated in {time.perf_counter() - since:.0f} s; {time.perf_counter() - started:.0f} s in all')
    return verdict(top1)


def write_digits(folder: Path) -> dict[str, int]:
    """Writes scikit-learn's digits, 1,797 scans of 8 x 8 pixels, as PNG files; returns the number of files by split.

    Of each class every fifth is for validation. Data: Alpaydin & Kaynak, 1998, in the UCI repository.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)  # [N, 64], values 0..16; [N]
    counts = {'train': 0, 'validation': 0}
    for label in range(10):
        for i, image in enumerate(pixels[labels == label].reshape(-1, 8, 8)):
            split = 'validation' if i % 5 == 4 else 'train'
            path = folder / split / str(label) / f'{i:04d}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)).save(path)
            counts[split] += 1
    return counts


def script(arguments: list[str], log: Path, show: bool = False) -> int:
    """Runs a script of the repository, its output to `log` or, shown, only its diagnostics; returns the exit status."""
    with log.open('w') as file:
        command = [sys.executable, *arguments]
        return subprocess.run(command, stdout=None if show else file, stderr=file, check=False).returncode


def results_file(name: str) -> Path:
    """Where a validate script writes its row."""
    return OUTPUT / f'{name.removesuffix("_validate.py")}.csv'


def validate(name: str) -> dict[str, str] | None:
    """Runs a validate script on the best checkpoint; returns its row, or None if it failed."""
    results = results_file(name)
    arguments = [name, str(OUTPUT / 'digits/validation'), '--checkpoint', str(OUTPUT / 'train/best')]
    if script([*arguments, '--results-file', str(results)], results.with_suffix('.txt')):
        return None
    with results.open(newline='') as file:
        return next(csv.DictReader(file))


def line(row: dict[str, str]) -> str:
    """The row of a validate script under `HEADER`; its seconds leave out imports and compilation."""
    top1, top5, seconds = float(row['top1']), float(row['top5']), float(row['seconds'])
    speed = int(row['images']) / seconds
    return f'{row["framework"]:<9}  {row["pipeline"]:<8} {top1:9.3f} {top5:9.3f} {speed:9.0f} {seconds:8.2f}'


def verdict(top1: list[float]) -> int:
    """0 if all top-1 accuracies are the same and high enough, else 1."""
    if len(set(top1)) > 1:
        return stop(f'the rows differ in top-1: {min(top1)} to {max(top1)} %')
    if top1[0] < LEAST_TOP1:
        return stop(f'top-1 is {top1[0]} %, below {LEAST_TOP1} %')
    say(f'all {len(top1)} rows agree: the same pixels, the same weights, the same function')
    return 0


def say(text: str) -> None:
    """A line on what the demo does."""
    print(f'demo: {text}', flush=True)


def stop(text: str) -> int:
    """A line on why the demo failed; returns 1."""
    print(f'demo: {text}', file=sys.stderr)
    return 1


if __name__ == '__main__':
    sys.exit(main())
