"""The packages that are installed, against what jeffnet declares."""

import importlib.metadata
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jeffnet.doctor.finding import Finding, pip_install

if TYPE_CHECKING:  # it may be what is missing
    from packaging.requirements import Requirement

SHOWN = (
    'jax', 'jaxlib', 'flax', 'objax', 'optax', 'ml_collections', 'numpy', 'pillow', 'tensorflow', 'tensorflow-cpu',
    'tensorflow-datasets', 'torch', 'torchvision', 'jax-cuda12-plugin', 'jax-cuda13-plugin', 'libtpu',
    'nvidia-nccl-cu12', 'nvidia-nccl-cu13', 'nvidia-cudnn-cu12', 'nvidia-cudnn-cu13',
)  # fmt: skip
# Without these no network runs, and the versions cannot even be compared.
ESSENTIAL = ('jax', 'jaxlib', 'flax', 'numpy', 'packaging')
# Extras of which any one will do.
ALTERNATIVES = {'tf': ('tf', 'tf-cpu')}


def version(package: str) -> str | None:
    """The installed version of a package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """The versions of what jeffnet works with, as far as installed."""
    found = {name: version(name) for name in ('jeffnet', *SHOWN)}
    return {name: text for name, text in found.items() if text}


def packages() -> Finding:
    """Whether the installed versions are those that jeffnet is made for."""
    if version('jeffnet') is None:
        return Finding('packages', 'failed', 'jeffnet runs from a folder and is not installed', pip_install('-e', '.'))
    gone = missing()
    if gone:
        return Finding('packages', 'failed', f'{", ".join(gone)} not installed', pip_install(*gone))
    wrong = [wanted for wanted in requirements() if not satisfied(wanted)]
    if not wrong:
        return Finding('packages', 'ok', ', '.join(f'{name} {text}' for name, text in versions().items()))
    found = ', '.join(f'{wanted.name} {version(wanted.name) or "is missing"}' for wanted in wrong)
    command = pip_install(*(f'{wanted.name}{wanted.specifier}' for wanted in wrong))
    return Finding('packages', 'failed', found, command)


def missing() -> list[str]:
    """The essential packages that are not installed."""
    return [name for name in ESSENTIAL if version(name) is None]


def requirements() -> Iterator['Requirement']:
    """What jeffnet requires: of the extras, only for packages that are installed. And what jax requires of jaxlib."""
    yield from (wanted for wanted in declared('jax') if wanted.name == 'jaxlib' and not wanted.marker)
    for wanted in declared('jeffnet'):
        optional = wanted.marker is not None and 'extra' in str(wanted.marker)
        if not optional or version(wanted.name):
            yield wanted


def declared(package: str) -> list['Requirement']:
    """What a package requires; nothing if it is not installed."""
    from packaging.requirements import Requirement

    return [Requirement(line) for line in importlib.metadata.requires(package) or ()] if version(package) else []


def satisfied(wanted: 'Requirement') -> bool:
    """Whether the installed version fits; NVIDIA's own builds of a release count as that release."""
    found = version(wanted.name)
    return found is not None and wanted.specifier.contains(found, prereleases=True)


def lacking(extra: str) -> list[str]:
    """The packages of an extra, or of the nearest of its alternatives, that are not installed."""
    choices = ([wanted.name for wanted in of_extra(each)] for each in ALTERNATIVES.get(extra, (extra,)))
    return min(([name for name in names if version(name) is None] for names in choices), key=len)


def of_extra(extra: str) -> Iterator['Requirement']:
    """What an extra of jeffnet requires."""
    for wanted in declared('jeffnet'):
        if wanted.marker and wanted.marker.evaluate({'extra': extra}) and not wanted.marker.evaluate({'extra': ''}):
            yield wanted
