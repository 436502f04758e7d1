"""The tables that the benchmarks write."""

import argparse
import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.this_machine import describe

PARTS = ('models', 'sides', 'allocators', 'cases')  # the options that choose among the rows


def output(text: str) -> Path:
    """The file of a table, for `argparse`: told before anything is measured if it cannot be written."""
    path = Path(text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f'{text}: {error.strerror}') from error
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f'{text}: no file can be written there')
    return path


def parse(parser: argparse.ArgumentParser, usual: str | None) -> argparse.Namespace:
    """The arguments, `--out` being `usual` unless given; that of all rows is no place for a part of them: status 2."""
    parser.add_argument('--out', type=output, help=f'default, for all rows: {usual or "by the device, in results/"}')
    arguments = parser.parse_args()
    if arguments.out is not None:
        return arguments
    chosen = [name for name in PARTS if is_part(getattr(arguments, name, None), parser.get_default(name))]
    if chosen and not getattr(arguments, 'resume', False):  # which keeps the other rows
        parser.exit(2, f'{parser.prog}: with --{chosen[0]}, give --out: the usual table is of all rows\n')
    parser.set_defaults(out=usual)
    return parser.parse_args()


def is_part(value: Any, usual: Any) -> bool:
    """Whether an option asks for other than all."""
    return set(value) != set(usual) if isinstance(value, list) else value != usual


def write_table(path: Path, rows: list[dict[str, Any]], accelerator: str | None = None) -> int:
    """Writes rows with their keys as the head, and beside them what machine they are of (`.machine.json`).

    Returns the exit status, 1 if a row is not `ok`, or if there is none: then the file stays as it is.
    """
    if not rows:
        print(f'{path}: nothing was measured, since no peer has these networks', file=sys.stderr)
        return 1
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    path.with_suffix('.machine.json').write_text(json.dumps(describe(accelerator), indent=2) + '\n')
    return 0 if all(row['ok'] for row in rows) else 1


def say(row: dict[str, Any]) -> None:
    """A row for people."""
    print(', '.join(f'{key} {value}' for key, value in row.items()), flush=True)
