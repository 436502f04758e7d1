"""Loading a weights file: seconds and peak memory, in the three frameworks and in timm, side by side.

    python -m benchmarks.bench_weights [--models pt_resnet50 --out FILE] [--rounds 5]

Every load is in a process of its own, after all imports; the loaders take turns. Peak memory is the growth of the
process's resident memory over what it was before the load, in units of the file.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import jeffnet
from benchmarks.table import parse, say, write_table
from jeffnet.command_line import at_least

LOADERS = ('linen', 'objax', 'nnx', 'timm')
FORMATS = ('safetensors', 'pth')
BARS = {'seconds': 1.5, 'peak': 2.2}  # of tf_efficientnet_b7 from safetensors into Linen on 2 cores

# The program of one load: prints seconds and the growth of the peak, in files.
PROGRAM = """
import json, os, sys, time
loader, name, path = sys.argv[1:]
if loader == 'timm':
    import timm, torch
    from timm.models import load_checkpoint
    def load():
        network = timm.create_model(name)
        load_checkpoint(network, path)
        return network
else:
    import ml_dtypes, numpy, safetensors
    if path.endswith('.pth'):
        import torch
    import jax, jeffnet, jeffnet.weights
    __import__(f'jeffnet.{loader}')
    jax.block_until_ready(jax.device_put(numpy.zeros(3)))  # starts the device
    def load():
        model = jeffnet.create_model(sys.argv[2], loader, weights=path)
        jax.block_until_ready(list(jeffnet.flat_variables(model[1] if loader == 'linen' else model).values()))
        return model
def resident(key):
    return next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith(key)) * 1024
open('/proc/self/clear_refs', 'w').write('5')  # the peak starts anew
before, since = resident('VmRSS'), time.perf_counter()
model = load()
seconds = time.perf_counter() - since
print(json.dumps([seconds, (resident('VmHWM') - before) / os.path.getsize(path)]))
"""


def write_file(architecture: str, path: Path) -> None:
    """A file of timm's freshly built network, in a process of its own: this one stays small."""
    writer = {
        '.safetensors': 'from safetensors.torch import save_model as save; save(m, sys.argv[2])',
        '.pth': 'torch.save(m.state_dict(), sys.argv[2])',
    }[path.suffix]
    program = f'import sys, timm, torch; m = timm.create_model(sys.argv[1]); {writer}'
    subprocess.run([sys.executable, '-c', program, architecture, str(path)], check=True)


def measure(loader: str, name: str, path: Path) -> tuple[float, float]:
    """Seconds and peak memory (in files) of one load in a fresh process."""
    command = [sys.executable, '-c', PROGRAM, loader, name, str(path)]
    return tuple(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def rows_of(name: str, kind: str, folder: Path, rounds: int) -> list[dict]:
    """One row for each loader."""
    architecture = jeffnet.model_info(name).timm
    path = folder / f'{name}.{kind}'
    write_file(architecture, path)
    measured = {loader: [] for loader in LOADERS}
    for _ in range(rounds):
        for loader in LOADERS:
            measured[loader].append(measure(loader, architecture if loader == 'timm' else name, path))
    medians = {loader: statistics.median(seconds for seconds, _ in runs) for loader, runs in measured.items()}
    rows = []
    for loader, runs in measured.items():
        worst, peak = max(seconds for seconds, _ in runs), max(peak for _, peak in runs)
        barred = (name, kind, loader) == ('tf_efficientnet_b7', 'safetensors', 'linen')
        rows.append(
            {
                'model': name,
                'format': kind,
                'loader': loader,
                'file_mb': f'{path.stat().st_size / 1e6:.1f}',
                'seconds': f'{medians[loader]:.3f}',
                'worst_seconds': f'{worst:.3f}',
                'times_timm': f'{medians[loader] / medians["timm"]:.2f}',
                'peak_files': f'{peak:.2f}',
                'ok': not barred or (worst <= BARS['seconds'] and peak <= BARS['peak']),
            }
        )
    return rows


def model(text: str) -> str:
    """The name of a model, for `argparse`."""
    try:
        return jeffnet.model_info(text).name
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--models', nargs='+', type=model, default=['tf_efficientnet_b7'])
    parser.add_argument('--rounds', type=at_least(1), default=5)
    arguments = parse(parser, 'results/bench-weights.csv')
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            for kind in FORMATS:
                rows += rows_of(name, kind, Path(folder), arguments.rounds)
                for row in rows[-len(LOADERS) :]:
                    say(row)
    return write_table(arguments.out, rows)


if __name__ == '__main__':
    sys.exit(main())
