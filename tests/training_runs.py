"""Runs of the train scripts in processes of their own, and the hash of all that they leave behind."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
from PIL import Image

ROOT = Path(__file__).parents[1]
# Most of the time of these runs is that of compilation, which takes half as long without optimization.
QUICKLY = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
STEPS = 30  # of CONFIG, with the 40 images of `write_images`
CONFIG = """
from jeffnet.train import default_config
from tests.tiny_model import register


def get_config():
    config = default_config()
    config.model = register()
    config.image_size = 32
    config.batch_size = 16
    config.epochs = 12.0
    config.warmup_epochs = 1.0
    config.optimizer = 'adamw'
    config.learning_rate = 3e-3
    config.drop_rate = 0.2
    config.drop_path_rate = 0.1
    config.ema_decay = 0.99
    config.mixing.mixup = 0.2
    config.mixing.cutmix = 1.0
    config.erasing.prob = 0.25
    config.augmentation.auto = 'rand-m9-mstd0.5'
    config.workers = 0
    config.log_every_steps = 7
    config.eval_every_epochs = 4.0
    config.checkpoint_every_steps = 5
    config.tensorboard = False
    return config
"""


def write_images(folder: Path, images: int = 40, classes: int = 4) -> Path:
    """Class folders with generated PNG files, the same at every call."""
    rng = np.random.default_rng(0)
    for split, count in (('train', images), ('validation', images // 4)):
        for i in range(count):
            path = folder / split / f'class{i % classes}' / f'{i}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (40, 36, 3)) // 2 + 32 * (i % classes)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    (folder / 'config.py').write_text(CONFIG)
    return folder


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def start(
    data: Path,
    output: Path,
    *changes: str,
    script: str = 'pt_linen_train.py',
    devices: int = 1,
    processes: int = 1,
    limit: int | None = None,
) -> list[subprocess.Popen]:
    """Starts a run, or goes on with it, on `devices` CPU devices for each of its `processes`.

    No file may get more than `limit` kilobytes; what such a run says is kept for `finish`, since the limit would hold
    for the file as well.
    """
    port, started = free_port(), []
    environment = {
        **os.environ,
        'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices} {QUICKLY}',
        'JAX_PLATFORMS': 'cpu',
        'JAX_COMPILATION_CACHE_DIR': os.environ.get('JAX_COMPILATION_CACHE_DIR', str(ROOT / '.cache/jax')),
        'PYTHONPATH': str(ROOT),
    }
    for rank in range(processes):
        command = [sys.executable, script, '--config', str(data / 'config.py'), f'--config.data_dir={data}']
        command += [f'--config.output_dir={output}', *(f'--config.{change}' for change in changes)]
        command += ['--resume', 'auto']
        if processes > 1:
            command += ['--coordinator', f'127.0.0.1:{port}', '--num-processes', str(processes)]
            command += ['--process-id', str(rank), '--heartbeat-timeout', '10']
        output.parent.mkdir(parents=True, exist_ok=True)
        with (output.parent / f'{output.name}-{rank}.txt').open('a') as log:
            told = subprocess.PIPE if limit else log
            options = {'stdout': told, 'stderr': subprocess.STDOUT, 'text': True}
            # By a shell: Python's own way forks this process, of whose threads JAX warns.
            limited = ['bash', '-c', f'ulimit -f {limit}; exec "$@"', 'bash'] if limit else []
            started.append(subprocess.Popen([*limited, *command], cwd=ROOT, env=environment, **options))
    return started


def finish(runs: list[subprocess.Popen], output: Path, expected: int = 0, seconds: float = 900) -> None:
    """Waits for the processes, which must all end with this status."""
    until = time.monotonic() + seconds
    try:
        said = [run.communicate(timeout=max(1.0, until - time.monotonic()))[0] for run in runs]
        statuses = [run.returncode for run in runs]
    finally:
        for run in runs:
            run.kill()
    with (output.parent / f'{output.name}-0.txt').open('a') as log:
        log.write(''.join(filter(None, said)))
    assert set(statuses) == {expected}, f'{statuses}\n{text(output)}'


def text(output: Path) -> str:
    """What the processes wrote."""
    return '\n'.join(path.read_text() for path in sorted(output.parent.glob(f'{output.name}-*.txt')))


def steps(output: Path) -> list[int]:
    """The whole checkpoints of a run."""
    return sorted(int(path.name) for path in (output / 'checkpoints').glob('[0-9]*') if path.name.isdecimal())


def kill_after(runs: list[subprocess.Popen], output: Path, step: int, number: int = signal.SIGKILL) -> None:
    """Sends a signal to the first of the processes once a checkpoint of `step` or later is there."""
    until = time.monotonic() + 900
    while not any(saved >= step for saved in steps(output)):
        assert time.monotonic() < until and all(run.poll() is None for run in runs), text(output)
        time.sleep(0.02)
    runs[0].send_signal(number)


def state(output: Path, step: int) -> dict[str, np.ndarray]:
    """The whole state after a step, by path."""
    folder = (output / 'checkpoints' / str(step) / 'state').absolute()
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(folder).item_metadata.tree
        arguments = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in tree}
        return checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=arguments))


def state_hash(output: Path, step: int) -> str:
    """A sha-256 of the whole state after a step."""
    total = hashlib.sha256()
    for name, value in sorted(state(output, step).items()):
        total.update(f'{name} {value.dtype} {value.shape}'.encode())
        total.update(np.ascontiguousarray(value).tobytes())
    return total.hexdigest()
