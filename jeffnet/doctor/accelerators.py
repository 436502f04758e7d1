"""GPUs and TPUs: what the machine has, against what JAX computes on."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jeffnet.doctor.finding import Finding, install
from jeffnet.doctor.installed import version, versions
from jeffnet.doctor.running import live

# The first driver that runs programs of a CUDA release (NVIDIA's table of compatibility), newest first.
DRIVERS = ((580, 'cuda13'), (525, 'cuda12'))
# Settings that keep JAX from a GPU that it has been installed for.
HIDING = ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME', 'CUDA_VISIBLE_DEVICES', 'LD_LIBRARY_PATH')


def accelerators(result: dict[str, Any]) -> Iterator[Finding]:
    """What JAX computes on, against what the machine has; several GPUs also add up a number."""
    cards = gpus()
    if 'error' in result:
        yield Finding(
            'devices', 'failed', result['error'], plug_in(cards) or 'pip install --force-reinstall jax jaxlib'
        )
        return
    memory = f', {result["memory"] / 2**30:.0f} GiB each' if result['memory'] else ''
    yield Finding('devices', 'ok', f'{result["count"]} x {result["kind"]} ({result["platform"]}){memory}')
    yield gpu(result, cards)
    yield tpu(result)
    if result['platform'] == 'gpu' and result['count'] > 1:
        yield nccl(live('collectives'))


def gpus() -> list[tuple[str, int]]:
    """Name and major version of the driver of each NVIDIA GPU that the driver shows."""
    if shutil.which('nvidia-smi') is None:
        return []
    command = ['nvidia-smi', '--query-gpu=name,driver_version', '--format=csv,noheader']
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    lines = [line.rpartition(', ') for line in run.stdout.splitlines()] if run.returncode == 0 else []
    return [(name, int(driver.split('.')[0])) for name, _, driver in lines]


def plug_in(cards: list[tuple[str, int]]) -> str:
    """The command that makes JAX run on these GPUs; none for no GPU."""
    if not cards:
        return ''
    extra = next((extra for least, extra in DRIVERS if cards[0][1] >= least), None)
    return install(extra) if extra else f'# install a driver of NVIDIA, {DRIVERS[-1][0]} or newer'


def gpu(result: dict[str, Any], cards: list[tuple[str, int]]) -> Finding:
    """Whether JAX uses the NVIDIA GPUs of the machine."""
    if result['platform'] == 'gpu':
        return Finding('gpu', 'ok', f'JAX uses {result["count"]}; the driver shows {len(cards)}')
    if not cards:
        mend = 'docker run --gpus all ...  # outside of a container: install the driver of NVIDIA'
        return Finding('gpu', 'absent', 'nvidia-smi shows none', mend)
    shown = f'{len(cards)} x {cards[0][0]}, driver {cards[0][1]}, but JAX uses the {result["platform"]}'
    hiding = next((name for name in HIDING if name in os.environ), None)
    if hiding and (version('jax-cuda12-plugin') or version('jax-cuda13-plugin')):
        return Finding('gpu', 'failed', f'{shown}; {hiding} is {os.environ[hiding]!r}', f'unset {hiding}')
    return Finding('gpu', 'failed', shown, plug_in(cards))


def nccl(result: dict[str, Any]) -> Finding:
    """Whether several GPUs compute something together."""
    if 'error' in result:
        mend = 'NCCL_DEBUG=INFO python -m jeffnet.doctor.live collectives'
        return Finding('nccl', 'failed', result['error'], mend)
    library = next((f'NCCL {text}' for name, text in versions().items() if 'nccl' in name), "the system's NCCL")
    return Finding('nccl', 'ok', f'{result["count"]} GPUs added up a number with {library}')


def tpu(result: dict[str, Any]) -> Finding:
    """Whether JAX uses the TPU of the machine."""
    chips = list(Path('/dev').glob('accel[0-9]*'))
    if result['platform'] == 'tpu':
        return Finding('tpu', 'ok', f'JAX uses {result["count"]}')
    if not chips:
        return Finding('tpu', 'absent', 'this machine has none')
    return Finding('tpu', 'failed', f'{len(chips)} chips, but JAX uses the {result["platform"]}', install('tpu'))
