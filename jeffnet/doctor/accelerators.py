"""GPUs and TPUs: what the machine has, against what JAX computes on."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jeffnet.doctor.finding import Finding, install, pip_install, uninstall, unset
from jeffnet.doctor.installed import version, versions
from jeffnet.doctor.running import live

PATIENCE = 30  # seconds for nvidia-smi, which hangs on a GPU that has fallen off its bus
# The first driver that runs programs of a CUDA release (NVIDIA's table of compatibility), newest first.
DRIVERS = ((580, 'cuda13'), (525, 'cuda12'))


def accelerators(result: dict[str, Any]) -> Iterator[Finding]:
    """What JAX computes on, against what the machine has; several GPUs also add up a number."""
    cards, trouble = gpus()
    if 'error' in result:
        mend = plug_in(cards) or unset(result['error']) or pip_install('--force-reinstall', 'jax', 'jaxlib')
        names = [os.environ[name] for name in ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME') if os.environ.get(name)]
        platform = f' on the platform {names[0]}' if names else ''
        yield Finding('devices', 'failed', f'JAX does not start{platform}: {result["error"]}', mend)
        return
    memory = f', {result["memory"] / 2**30:.0f} GiB each' if result['memory'] else ''
    yield Finding('devices', 'ok', f'{result["count"]} x {result["kind"]} ({result["platform"]}){memory}')
    yield gpu(result, cards, trouble)
    yield tpu(result)
    if result['platform'] == 'gpu' and result['count'] > 1:
        yield nccl(live('collectives'))


def gpus() -> tuple[list[tuple[str, int]], str]:
    """Name and major version of the driver of each NVIDIA GPU that the driver shows, and what it complains of."""
    if shutil.which('nvidia-smi') is None:
        return [], ''
    command = ['nvidia-smi', '--query-gpu=name,driver_version', '--format=csv,noheader']
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], f'nvidia-smi: {error}'
    found = [re.fullmatch(r'(.*), (\d+)[\d.]*', line.strip()) for line in run.stdout.splitlines()]
    cards = [(match[1], int(match[2])) for match in found if match]
    told = ' '.join((run.stdout + run.stderr).split())
    return cards, '' if run.returncode == 0 and cards else f'nvidia-smi: {told or f"exit status {run.returncode}"}'


def plug_in(cards: list[tuple[str, int]]) -> str:
    """The command that makes JAX run on these GPUs; none for no GPU."""
    if not cards:
        return ''
    extra = next((extra for least, extra in DRIVERS if cards[0][1] >= least), None)
    if extra is None:
        return f'# install a driver of NVIDIA, {DRIVERS[-1][0]} or newer'
    others = [f'jax-{other}-plugin' for _, other in DRIVERS if other != extra and version(f'jax-{other}-plugin')]
    remove = ''.join(f'{uninstall(name, name.replace("plugin", "pjrt"))} && ' for name in others)
    return remove + install(extra)


def gpu(result: dict[str, Any], cards: list[tuple[str, int]], trouble: str) -> Finding:
    """Whether JAX uses the NVIDIA GPUs of the machine."""
    if result['platform'] == 'gpu':
        return Finding('gpu', 'ok', f'JAX uses {result["count"]}; the driver shows {len(cards)}')
    if trouble:
        return Finding('gpu', 'failed', trouble, 'sudo modprobe nvidia && nvidia-smi  # or install the driver again')
    if not cards:
        mend = 'docker run --gpus all ...  # outside of a container: install the driver of NVIDIA'
        return Finding('gpu', 'absent', 'there is no nvidia-smi', mend)
    shown = f'{len(cards)} x {cards[0][0]}, driver {cards[0][1]}, but JAX uses the {result["platform"]}'
    if version('jax-cuda12-plugin') or version('jax-cuda13-plugin'):
        name = hiding()
        if name:
            return Finding('gpu', 'failed', f'{shown}; {name} is {os.environ[name]!r}', f'unset {name}')
        if stale := unlike_jaxlib():
            found = ', '.join(f'{name} is {version(name)}' for name in stale)
            mend = pip_install(*(f'{name}=={release("jaxlib")}' for name in stale))
            return Finding('gpu', 'failed', f'{shown}; {found}, but jaxlib {version("jaxlib")}', mend)
    return Finding('gpu', 'failed', shown, plug_in(cards))


def unlike_jaxlib() -> list[str]:
    """The CUDA plugins of JAX that are installed in another version than jaxlib, which does not load them."""
    names = [f'jax-{cuda}-{part}' for _, cuda in DRIVERS for part in ('plugin', 'pjrt')]
    return [name for name in names if version(name) and release(name) != release('jaxlib')]


def release(package: str) -> str:
    """The version of a package without what its builder added: 0.10.2 of 0.10.2+nv26.06."""
    return (version(package) or '').partition('+')[0]


def hiding() -> str | None:
    """The variable that keeps JAX from GPUs that it is installed for."""
    for name in ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME'):
        if os.environ.get(name) and not re.search('cuda|gpu', os.environ[name]):
            return name
    if os.environ.get('CUDA_VISIBLE_DEVICES', '0') in ('', '-1', 'NoDevFiles'):
        return 'CUDA_VISIBLE_DEVICES'
    wheels = version('nvidia-cudnn-cu12') or version('nvidia-cudnn-cu13')  # whose libraries another's would replace
    return 'LD_LIBRARY_PATH' if wheels and os.environ.get('LD_LIBRARY_PATH') else None


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
