"""Sides of a comparison, each in a process of its own, that take turns: round by round, while the others do nothing.

A side has named cases, each a function that does the work once, waits for it, and gives a number that must be finite.
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.table import parse, say
from jeffnet.command_line import at_least, seconds

Case = Callable[[], float]

# Environments: the C library's allocator as it comes, and one that keeps what is freed, which spares everyone the page
# faults of large arrays.
TUNED = {'MALLOC_MMAP_MAX_': '0', 'MALLOC_TRIM_THRESHOLD_': str(32 * 2**30), 'MALLOC_TOP_PAD_': str(256 * 2**20)}
ALLOCATORS: dict[str, dict[str, str]] = {'default': {}, 'tuned': TUNED}


@dataclass(frozen=True)
class Side:
    """What a child process serves; `facts` are told once, before the first turn."""

    cases: dict[str, Case]
    facts: dict[str, Any] = field(default_factory=dict)


# -------------------------------------------------------------------------------------------------------- the child


def serve(side: Side) -> None:
    """Warms every case up, tells the facts, then runs the case of each line of standard input for so many seconds."""
    finite = all(math.isfinite(case()) for case in side.cases.values() for _ in range(2))  # compiles, and warms up
    tell({**side.facts, 'finite': finite})
    for line in sys.stdin:
        name, length = line.split()
        case, seconds, times, value = side.cases[name], 0.0, 0, 0.0
        start = time.perf_counter()
        while not times or seconds < float(length):
            value = case()
            seconds, times = time.perf_counter() - start, times + 1
        tell({'seconds': seconds / times, 'value': value, 'peak_bytes': peak_memory()})


def tell(found: dict[str, Any]) -> None:
    """A line for the parent."""
    print('\n' + json.dumps(found), flush=True)


def peak_memory() -> int | None:
    """Most bytes of main memory that this process has held; None where the system does not tell."""
    status = Path('/proc/self/status')
    found = re.search(r'^VmHWM:\s*(\d+) kB', status.read_text(), re.MULTILINE) if status.exists() else None
    return int(found[1]) * 1024 if found else None


# ------------------------------------------------------------------------------------------------------- the parent


@dataclass
class Result:
    """What a side told, and what its cases took: seconds by case, the median over the rounds."""

    facts: dict[str, Any]
    seconds: dict[str, float]
    values: dict[str, float]  # of the last turn
    peak_bytes: int | None

    @property
    def finite(self) -> bool:
        """Whether every number was."""
        return self.facts['finite'] and all(map(math.isfinite, self.values.values()))


class Child:
    """A side in a process of its own. RuntimeError with the last line of its diagnostics if it ends by itself."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]):
        environment = os.environ | environment
        self.errors = tempfile.TemporaryFile('w+')  # noqa: SIM115  closed with the child
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=environment,
        )  # fmt: skip
        self.turns: dict[str, list[dict[str, Any]]] = {}
        self.facts = self.read()

    def read(self) -> dict[str, Any]:
        """What the child says next."""
        for line in self.process.stdout or ():
            if line.startswith('{'):
                return json.loads(line)
        status = self.process.wait()
        self.errors.seek(0)
        last = (self.errors.read().strip().splitlines() or [''])[-1]
        self.close()
        raise RuntimeError(f'ended with status {status}: {last}')

    def turn(self, case: str, seconds: float) -> None:
        """Runs a case for so many seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(f'{case} {seconds}\n')
        self.process.stdin.flush()
        self.turns.setdefault(case, []).append(self.read())

    def result(self) -> Result:
        """All turns so far."""
        seconds = {case: statistics.median(turn['seconds'] for turn in turns) for case, turns in self.turns.items()}
        last = [turns[-1] for turns in self.turns.values()]
        values = {case: turns[-1]['value'] for case, turns in self.turns.items()}
        peaks = [turn['peak_bytes'] for turn in last if turn['peak_bytes']]
        return Result(self.facts, seconds, values, max(peaks, default=None))

    def close(self) -> None:
        """Ends the child."""
        self.process.kill()
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self.errors):
            if file is not None:
                file.close()


def compare(
    commands: dict[str, Sequence[str]],
    cases: Sequence[str],
    rounds: int,
    length: float,
    environments: dict[str, dict[str, str]] | None = None,
) -> dict[str, Result]:
    """The results by side, of those that start and last; the diagnostics name the others."""
    children: dict[str, Child] = {}
    try:
        for side, command in commands.items():  # one after the other, so that compilations do not hinder each other
            try:
                children[side] = Child(command, (environments or {}).get(side, {}))
            except RuntimeError as error:
                print(f'{side}: {error}', file=sys.stderr, flush=True)
        for turn in range(rounds):
            sides = list(children)
            for side in sides if turn % 2 == 0 else reversed(sides):  # no side always follows another
                try:
                    for case in cases:
                        children[side].turn(case, length)
                except (RuntimeError, OSError) as error:  # the others go on
                    print(f'{side}: {error}', file=sys.stderr, flush=True)
                    children.pop(side).close()
        return {side: child.result() for side, child in children.items()}
    finally:
        for child in children.values():
            child.close()


# ------------------------------------------------------------------------------------------------------ the command


def command(
    description: str,
    out: str,
    models: Sequence[str],
    sides: Sequence[str],
    length: float,
    side_of: Callable[[str, str], Side],
    measure: Callable[..., list[dict[str, Any]]],
) -> tuple[argparse.Namespace, list[dict[str, Any]] | None]:
    """The command line of a comparison, and its rows of all models under all allocators; None in a child process.

    `side_of` is what a child serves, by side and model; `measure` gives the rows of model, allocator, sides, rounds and
    seconds of a turn.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument('--rounds', type=at_least(1), default=5)
    parser.add_argument('--seconds', type=seconds, default=length, help='of a turn')
    parser.add_argument('--models', nargs='+', choices=models, default=list(models))
    parser.add_argument('--sides', nargs='+', choices=sides, default=list(sides))
    parser.add_argument('--allocators', nargs='+', choices=ALLOCATORS, default=list(ALLOCATORS))
    parser.add_argument('--side', nargs=2, help=argparse.SUPPRESS)  # the child processes
    arguments = parse(parser, out)
    if arguments.side:
        serve(side_of(*arguments.side))
        return arguments, None
    rows = []
    for name in arguments.models:
        for allocator in arguments.allocators:
            for found in measure(name, allocator, arguments.sides, arguments.rounds, arguments.seconds):
                rows.append(found)
                say(found)
    return arguments, rows
