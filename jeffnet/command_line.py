"""What the command lines share: one clear line for bad input, exit status 2 for it, 1 for a failure while running."""

import argparse
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jeffnet.faults import InputError as InputError


class Parser(argparse.ArgumentParser):
    """Reports a bad argument by an exception, without the usage."""

    def error(self, message: str):
        raise InputError(f'{message} (--help lists the arguments)')


def guarded(command: Callable[[], int]) -> int:
    """Runs a command and returns its exit status; errors become one line on standard error, bugs a traceback."""
    try:
        return command()
    except BrokenPipeError:  # the reader of the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it ends
        return 0
    except (InputError, ConnectionError) as error:  # the last: weights could not be fetched
        return stop(error, 2)
    except KeyboardInterrupt:
        return stop('interrupted', 130)
    except Exception:
        traceback.print_exc()
        return 1


@contextmanager
def input_errors() -> Iterator[None]:
    """Errors of what runs in here are the input's: InputError."""
    try:
        yield
    except (ValueError, TypeError, OSError, ModuleNotFoundError, MemoryError) as error:
        raise InputError(str(error)) from error


def stop(error: Exception | str, status: int) -> int:
    """One line on standard error; of a long list of faults only its head. Returns the status."""
    text = str(error)
    line = ' '.join(text.split())
    if len(line) > 1000:
        line = ' '.join(text.partition('\n')[0].split())
    print(f'{program()}: {line}', file=sys.stderr)
    return status


def program() -> str:
    """The name of what runs: a script, or the package of `python -m`."""
    path = Path(sys.argv[0])
    if path.name != '__main__.py':
        return path.name
    package = path.parent.name
    return package if package == 'jeffnet' else f'jeffnet.{package}'


def at_least(least: int) -> Callable[[str], int]:
    """Reads a whole number that is not below `least`."""

    def convert(text: str) -> int:
        if not text.removeprefix('-').isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f'{text!r} is not a whole number, {least} or more')
        return int(text)

    return convert


def seconds(text: str) -> float:
    """Reads a finite number of seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f'{text!r} is not a finite number of seconds, 0 or more')
    return value
