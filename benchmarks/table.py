"""The tables that the benchmarks write."""

import csv
from pathlib import Path
from typing import Any


def write_table(path: Path, rows: list[dict[str, Any]]) -> int:
    """Writes rows with their keys as the head; returns the exit status, 1 if a row is not `ok`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    return 0 if all(row['ok'] for row in rows) else 1


def say(row: dict[str, Any]) -> None:
    """A row for people."""
    print(', '.join(f'{key} {value}' for key, value in row.items()), flush=True)
