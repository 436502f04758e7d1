"""What a table was measured on: processor, accelerator, memory, versions."""

import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    'jax', 'jaxlib', 'flax', 'objax', 'optax', 'numpy', 'torch', 'torchvision', 'timm', 'tensorflow', 'keras', 'pillow'
)  # fmt: skip


def describe(accelerator: str | None = None) -> dict[str, Any]:
    """The machine and its software; an `accelerator` as its framework names it."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else list(range(os.cpu_count() or 1))
    return {
        'measured': f'{datetime.now(UTC):%Y-%m-%d}',
        'processor': processor(),
        'cores': len(cores),
        'caches': caches(cores[0]),
        'memory_gib': round(memory() / 2**30, 1) if memory() else None,
        'accelerator': accelerator,
        'system': f'{platform.system()} {platform.release()}',
        'libc': ' '.join(platform.libc_ver()),
        'python': platform.python_version(),
        'packages': {name: installed(name) for name in PACKAGES},
    }


def processor() -> str:
    """Its name, and the widest vector instructions."""
    information = Path('/proc/cpuinfo')
    text = information.read_text() if information.exists() else ''
    name = re.search(r'^model name\s*: (.+)$', text, re.MULTILINE)
    flags = next((flag for flag in ('avx512f', 'avx2', 'asimd') if re.search(rf'\b{flag}\b', text)), None)
    return ', '.join(filter(None, (name[1] if name else platform.processor() or platform.machine(), flags)))


def caches(core: int) -> dict[str, str]:
    """Sizes by level, of the caches that a core sees."""
    found = {}
    for folder in sorted(Path(f'/sys/devices/system/cpu/cpu{core}/cache').glob('index*')):
        level, kind, size = ((folder / name).read_text().strip() for name in ('level', 'type', 'size'))
        found[f'L{level} {kind.lower()}'] = size
    return found


def memory() -> int | None:
    """Bytes of main memory."""
    try:
        return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    except (ValueError, AttributeError):
        return None


def installed(package: str) -> str | None:
    """The version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
