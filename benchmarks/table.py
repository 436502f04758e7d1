"""The tables that the benchmarks write."""

import csv
import json
from pathlib import Path
from typing import Any

from benchmarks.this_machine import describe


def write_table(path: Path, rows: list[dict[str, Any]], accelerator: str | None = None) -> int:
    """Writes rows with their keys as the head, and beside them what machine they are of (`.machine.json`).

    Returns the exit status, 1 if a row is not `ok`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    path.with_suffix('.machine.json').write_text(json.dumps(describe(accelerator), indent=2) + '\n')
    return 0 if all(row['ok'] for row in rows) else 1


def say(row: dict[str, Any]) -> None:
    """A row for people."""
    print(', '.join(f'{key} {value}' for key, value in row.items()), flush=True)
