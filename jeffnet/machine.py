"""What the scripts set for their process on this machine: how memory is kept, and where compiled programs stay.

`import jeffnet` sets none of it.
"""

import ctypes
import hashlib
import os
import platform
import sys
from pathlib import Path

# glibc's names of what `mallopt` sets, from malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
ALLOCATION = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 256 * 2**20))
LEAST_SECONDS = 0.1  # of compilation, from which on a program is kept; JAX's own limit is 1


def set_up() -> None:
    """Sets what makes programs start and run fastest; the environment's own settings win."""
    keep_memory()
    keep_programs()


def keep_memory() -> bool:
    """Lets glibc keep freed memory for the next array instead of handing it back; whether it was told to.

    The system would hand out every large array as pages that are filled with zeros at their first use: more than half
    as much again for a training step of EfficientNet-B0 on two cores.
    """
    if not sys.platform.startswith('linux') or any(key.startswith(('MALLOC_', 'GLIBC_TUNABLES')) for key in os.environ):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, 'gnu_get_libc_version'):  # another C library, which has other settings
        return False
    return min(library.mallopt(parameter, value) for parameter, value in ALLOCATION) == 1


def keep_programs() -> None:
    """Lets JAX keep compiled programs in `programs_folder`, unless JAX_COMPILATION_CACHE_DIR or the user chose."""
    import jax

    if 'JAX_COMPILATION_CACHE_DIR' in os.environ or getattr(jax.config, 'jax_compilation_cache_dir', None) is not None:
        return
    try:
        folder = programs_folder()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a home that is read-only, or none: programs are compiled anew each time
        return
    if os.access(folder, os.W_OK):
        jax.config.update('jax_compilation_cache_dir', str(folder))
        if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
            jax.config.update('jax_persistent_cache_min_compile_time_secs', LEAST_SECONDS)


def programs_folder() -> Path:
    """A folder for each kind of processor: programs for one may have instructions that another lacks."""
    return cache_folder() / f'programs-{hashlib.sha256(processor().encode()).hexdigest()[:8]}'


def processor() -> str:
    """The architecture and instructions of this machine's processor."""
    information = Path('/proc/cpuinfo')
    lines = information.read_text().splitlines() if information.exists() else []
    flags = next((line for line in lines if line.startswith(('flags', 'Features'))), platform.processor())
    return f'{platform.machine()} {flags}'


def cache_folder() -> Path:
    """The folder for what jeffnet keeps from run to run: `~/.cache/jeffnet`, or below XDG_CACHE_HOME."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'jeffnet'
