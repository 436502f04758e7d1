"""Builds the wheel and tries it outside the checkout: `python -m tools.check_wheel [--extras objax tf ...]`.

In a clean environment with only the core dependencies, then in one for each extra: the command `jeffnet`, the live
checks of the doctor, and with a reader a short training run from a recipe that comes along, validated afterwards. For
accelerators, which need their hardware, only whether there are versions that fit together.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ACCELERATORS = ('cuda12', 'cuda13', 'tpu')
EXTRAS = ('objax', 'hf', 'keras', 'train', 'demo', 'tf', 'tf-cpu', 'torch', *ACCELERATORS)
# What an extra brings, as the doctor calls it.
PARTS = {'objax': 'objax', 'hf': 'hf', 'train': 'train', 'tf': 'tf', 'tf-cpu': 'tf', 'torch': 'torch'}
READERS = {'tf': 'tf', 'tf-cpu': 'tf', 'torch': 'pt'}
CORE = """
import sys, numpy, jeffnet
assert not {'tensorflow', 'torch', 'objax'} & set(sys.modules)
image = numpy.zeros((1, 32, 32, 3), numpy.float32)
module, variables = jeffnet.create_model('pt_mnasnet_small', num_classes=10)
model = jeffnet.nnx.create_model('pt_mnasnet_small', num_classes=10)
numpy.testing.assert_allclose(jeffnet.predictor(module, variables)(image), jeffnet.predictor(model)(image), atol=1e-5)
"""


class Failed(Exception):
    """A command that ended otherwise than expected."""


def main() -> int:
    """Runs all checks; returns 0, or 1 with the command that failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--extras', nargs='*', choices=EXTRAS, default=EXTRAS, help='default: all')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where no file of the checkout is found by chance
        try:
            wheel = build(Path('dist').resolve())
            with told('core'):
                check_core(wheel)
            for extra in args.extras:
                with told(extra):
                    check_extra(wheel, extra)
        except Failed as failure:
            print(failure, file=sys.stderr)
            return 1
    return 0


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """A line on what has passed, with its time."""
    start = time.perf_counter()
    yield
    print(f'{what:<8} ok, {time.perf_counter() - start:.0f} s', flush=True)


def build(place: Path) -> Path:
    """The wheel of this checkout."""
    run([sys.executable, '-m', 'hatchling', 'build', '-t', 'wheel', '-d', str(place)], cwd=ROOT)
    (wheel,) = place.glob('*.whl')
    return wheel


def check_core(wheel: Path) -> None:
    """With nothing but the core dependencies: models in Linen and NNX, and clear words about what is absent."""
    with environment(str(wheel)) as bin:
        run([bin / 'python', '-c', CORE])
        if 'tf_efficientnet_b0_ns' not in run([bin / 'jeffnet', 'models', 'tf_*']):
            raise Failed('jeffnet models: tf_efficientnet_b0_ns is missing')
        report = json.loads(run([bin / 'jeffnet', 'doctor', '--json']))
        absent = {each['name']: each['mend'] for each in report['checks'] if each['state'] == 'absent'}
        for part in ('objax', 'tf', 'torch', 'hf', 'train'):
            if not absent.get(part, '').endswith(f"-m pip install 'jeffnet[{part}]'"):
                raise Failed(f'jeffnet doctor: of the absent {part} it says {absent.get(part)!r}')
        run([bin / 'jeffnet', 'doctor', '--need', 'objax'], status=1)
        Path('data/train/a').mkdir(parents=True)
        run([bin / 'jeffnet', 'train', '--config', 'digits_cpu', '--config.data_dir', 'data'], status=2)


def check_extra(wheel: Path, extra: str) -> None:
    """With one extra: what it is for works."""
    if extra in ACCELERATORS:
        with environment() as bin:
            install(bin, f'{wheel}[{extra}]', '--dry-run')
        return
    with environment(f'{wheel}[{extra}]') as bin:
        run([bin / 'jeffnet', 'doctor', *(['--need', PARTS[extra]] if extra in PARTS else [])])
        if extra in READERS:
            train_and_validate(bin, READERS[extra])


def train_and_validate(bin: Path, reader: str) -> None:
    """Two epochs on a few pictures with the smallest recipe, then the accuracy of the checkpoint."""
    shutil.rmtree('run', ignore_errors=True)
    run([bin / 'python', '-c', PICTURES])
    recipe = ['--config=train_configs/digits_cpu.py', '--config.data_dir=run/data', '--config.output_dir=run/out']
    short = ['--config.epochs=2', '--config.warmup_epochs=0', '--config.batch_size=8']
    run([bin / 'jeffnet', 'train', '--reader', reader, *recipe, *short])
    shown = run(
        [bin / 'jeffnet', 'validate', 'run/data/validation', '--reader', reader, '--checkpoint', 'run/out/last']
    )
    if '20 images' not in shown:
        raise Failed(f'jeffnet validate did not count 20 images:\n{shown}')


PICTURES = """
import numpy
from pathlib import Path
from PIL import Image
for split, count in (('train', 8), ('validation', 2)):
    for label in range(10):
        for i in range(count):
            path = Path('run/data', split, str(label), f'{i}.png')
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(numpy.full((8, 8), 25 * label + i, numpy.uint8)).save(path)
"""


@contextlib.contextmanager
def environment(*packages: str) -> Iterator[Path]:
    """A clean environment with these packages, gone afterwards; its folder of programs."""
    with tempfile.TemporaryDirectory(dir='.') as folder:
        place = Path(folder).resolve()
        venv.create(place, with_pip=True)
        if packages:
            install(place / 'bin', *packages)
        yield place / 'bin'


def install(bin: Path, *arguments: str) -> None:
    """Installs with uv where there is one, which takes seconds, otherwise with pip."""
    uv = shutil.which('uv') or shutil.which('uv', path=str(Path(sys.executable).parent))
    command = [uv, 'pip', 'install', '--python', bin / 'python'] if uv else [bin / 'python', '-m', 'pip', 'install']
    run([*command, *arguments])


def run(command: list, status: int = 0, **options) -> str:
    """Runs a command, of which this exit status is expected; returns its output."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(('PYTHON', 'VIRTUAL_ENV'))}
    done = subprocess.run(command, capture_output=True, text=True, env=clean, check=False, **options)
    if done.returncode != status:
        shown = ' '.join(map(str, command))
        raise Failed(f'{shown}\nended with {done.returncode} instead of {status}:\n{done.stdout}{done.stderr}')
    return done.stdout


if __name__ == '__main__':
    sys.exit(main())
