"""The folders where things are kept from run to run, and the memory that processes share."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from jeffnet import machine
from jeffnet.doctor.finding import Finding
from jeffnet.doctor.installed import version

SHARED = Path('/dev/shm')
LEAST_DISK = 2**30  # bytes
LEAST_SHARED = 2**30  # bytes; Docker gives 64 MiB unless told otherwise, a batch of 256 images takes 150


def folders() -> Iterator[Finding]:
    """The folders where things are kept from run to run: can they be written to, how full are they."""
    setting = os.environ.get
    hub = setting('HF_HUB_CACHE') or os.path.join(setting('HF_HOME') or '~/.cache/huggingface', 'hub')
    yield folder('compiled programs', programs(), 'export JAX_COMPILATION_CACHE_DIR=')
    yield folder('published weights', hub, 'export HF_HOME=')
    yield folder('data sets', setting('TFDS_DATA_DIR') or '~/tensorflow_datasets', 'export TFDS_DATA_DIR=')
    yield folder('this folder', os.getcwd(), 'cd ')


def programs() -> str:
    """Where compiled programs are kept; empty if nowhere."""
    chosen = os.environ.get('JAX_COMPILATION_CACHE_DIR')
    if chosen is not None:
        return chosen
    try:
        return str(machine.programs_folder())
    except RuntimeError:  # this user has no home
        return '~/.cache/jeffnet'


def folder(name: str, place: str, elsewhere: str) -> Finding:
    """A folder, or where it would be made, with the space that is left there.

    One that cannot be used is a warning: it may never be needed, and a container need not let anyone write anywhere.
    """
    if not place or '://' in place:
        return Finding(name, 'ok', place or 'none: everything is compiled anew')
    path = Path(os.path.expanduser(place))
    if str(path).startswith('~'):
        return Finding(name, 'warning', f'{place}: this user has no home', 'export HOME=/a/folder/with/space')
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    mend = f'{elsewhere}/a/folder/with/space'
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Finding(name, 'warning', f'{path}: nothing can be written there', mend)
    free = shutil.disk_usage(there).free
    found = f'{path}, {free / 2**30:.1f} GiB free'
    if free < LEAST_DISK:
        return Finding(name, 'warning', found, mend)
    return Finding(name, 'ok', found if path.exists() else f'{found}, made when needed')


def shared_memory() -> Finding:
    """The memory through which the workers of a DataLoader hand over batches; little of it while an image is built."""
    if not SHARED.is_dir():
        return Finding('shared memory', 'ok', 'this system has no /dev/shm')
    size = shutil.disk_usage(SHARED).total
    if size < LEAST_SHARED and version('torch'):
        return Finding(
            'shared memory', 'warning', f'{size / 2**20:.0f} MiB', 'docker run --ipc=host --shm-size=16g ...'
        )
    return Finding('shared memory', 'ok', f'{size / 2**30:.1f} GiB')
