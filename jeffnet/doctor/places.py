"""The folders where things are kept from run to run, and the memory that processes share."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from jeffnet import machine
from jeffnet.doctor.finding import Finding
from jeffnet.doctor.installed import version

LEAST_DISK = 2**30  # bytes
LEAST_SHARED = 2**30  # bytes; Docker gives 64 MiB unless told otherwise, a batch of 256 images takes 150


def folders() -> Iterator[Finding]:
    """The folders where things are kept from run to run: can they be written to, how full are they."""
    hub = Path(os.environ.get('HF_HUB_CACHE') or Path(os.environ.get('HF_HOME') or '~/.cache/huggingface', 'hub'))
    programs = os.environ.get('JAX_COMPILATION_CACHE_DIR') or machine.programs_folder()
    places = {
        'compiled programs': (Path(programs), 'export JAX_COMPILATION_CACHE_DIR='),
        'published weights': (hub.expanduser(), 'export HF_HOME='),
        'data sets': (Path(os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'), 'export TFDS_DATA_DIR='),
        'this folder': (Path.cwd(), 'cd '),
    }
    for name, (path, elsewhere) in places.items():
        yield folder(name, path.expanduser(), elsewhere)


def folder(name: str, path: Path, elsewhere: str) -> Finding:
    """A folder, or where it would be made, with the space that is left there."""
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    mend = f'{elsewhere}/a/folder/with/space'
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Finding(name, 'failed', f'{path}: nothing can be written there', mend)
    free = shutil.disk_usage(there).free
    found = f'{path}, {free / 2**30:.1f} GiB free'
    if '://' not in str(path) and free < LEAST_DISK:
        return Finding(name, 'failed', found, mend)
    return Finding(name, 'ok', found if path.exists() else f'{found}, made when needed')


def shared_memory() -> Finding:
    """The memory through which the workers of a DataLoader hand over batches."""
    place = Path('/dev/shm')
    if not place.is_dir():
        return Finding('shared memory', 'ok', 'this system has no /dev/shm')
    size = shutil.disk_usage(place).total
    if size < LEAST_SHARED and version('torch'):
        return Finding('shared memory', 'failed', f'{size / 2**20:.0f} MiB', 'docker run --ipc=host --shm-size=16g ...')
    return Finding('shared memory', 'ok', f'{size / 2**30:.1f} GiB')
