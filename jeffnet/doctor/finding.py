"""What a check of the doctor gives back."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What one check has found: 'ok', 'absent' (an optional part that is not there) or 'failed'."""

    name: str
    state: str
    found: str
    mend: str = ''  # the command that would change it


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'jeffnet[{extra}]'"
