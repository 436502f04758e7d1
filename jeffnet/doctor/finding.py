"""What a check of the doctor gives back, and the commands that mend."""

import importlib.util
import os
import shlex
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What one check has found.

    'ok'; 'absent': an optional part that is not there; 'warning': it may matter for some work; 'failed'.
    """

    name: str
    state: str
    found: str
    mend: str = ''  # the command that would change it


def pip_install(*arguments: str) -> str:
    """The command that installs into this environment, whether it is activated or not."""
    python, words = shlex.quote(sys.executable), ' '.join(map(shlex.quote, arguments))
    if importlib.util.find_spec('pip') is None:  # an environment of uv's
        return f'uv pip install --python {python} {words}'.replace(' --force-reinstall', ' --reinstall')
    return f'{python} -m pip install {words}'


def uninstall(*packages: str) -> str:
    """The command that removes packages from this environment."""
    install, _, names = pip_install(*packages).partition(' install ')
    return f'{install} uninstall {"" if install.startswith("uv ") else "-y "}{names}'


def unset(error: str) -> str:
    """The command that takes back a variable of JAX or XLA which this error may come from; empty if there is none."""
    if os.environ.get('XLA_FLAGS') and 'XLA_FLAGS' in error:
        return 'unset XLA_FLAGS'
    names = ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME')
    return next((f'unset {name}' for name in names if os.environ.get(name, 'cpu') not in ('', 'cpu')), '')


def install(extra: str) -> str:
    """The command that installs an extra."""
    return pip_install(f'jeffnet[{extra}]')
