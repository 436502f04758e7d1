"""What a check of the doctor gives back, and the commands that mend."""

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
    return f'{shlex.quote(sys.executable)} -m pip install {" ".join(map(shlex.quote, arguments))}'


def install(extra: str) -> str:
    """The command that installs an extra."""
    return pip_install(f'jeffnet[{extra}]')
