"""The files that a run writes row by row: log.jsonl has everything, metrics.csv the figures for a spreadsheet."""

import csv
import json
import math
import os
from pathlib import Path
from typing import Any

Row = dict[str, Any]  # kind, step, epoch, and what there is to say

# Columns of metrics.csv, always these; its rows are those of the kinds train and validation.
COLUMNS: tuple[str, ...] = (
    'kind', 'weights', 'step', 'epoch', 'loss', 'top1', 'top5', 'best', 'learning_rate', 'grad_norm', 'skipped',
    'loss_scale', 'images_per_second', 'step_seconds', 'data_wait', 'mfu', 'device_memory', 'device_memory_peak',
    'host_memory',
)  # fmt: skip


class JsonLines:
    """`log.jsonl`, one JSON object a line; rows after `start_step`, of a run that ended there, are cut off.

    A number that is not finite is null, since JSON has no word for it; metrics.csv has nan or inf.
    """

    def __init__(self, folder: Path, start_step: int):
        path = folder / 'log.jsonl'
        kept = [row for row in read_log(folder) if row['step'] <= start_step] if start_step else []
        replace(path, ''.join(map(json_line, kept)))
        self.file = path.open('a', encoding='utf-8', buffering=1)  # line by line: a killed run leaves whole lines

    def write(self, row: Row) -> None:
        """Appends one row."""
        self.file.write(json_line(row))

    def close(self) -> None:
        """Closes the file."""
        self.file.close()


class CsvTable:
    """`metrics.csv`, with the figures of training and validation under `COLUMNS`; later rows are cut as in the log."""

    def __init__(self, folder: Path, start_step: int):
        path = folder / 'metrics.csv'
        kept = [row for row in read_table(path) if int(row['step']) <= start_step] if start_step else []
        replace(path, '')
        self.file = path.open('a', encoding='utf-8', newline='', buffering=1)
        self.table = csv.DictWriter(self.file, COLUMNS, restval='', extrasaction='ignore', lineterminator='\n')
        self.table.writeheader()
        self.table.writerows(kept)

    def write(self, row: Row) -> None:
        """Appends a row of figures; rows of other kinds are not for this file."""
        if row['kind'] in ('train', 'validation'):
            self.table.writerow(row)

    def close(self) -> None:
        """Closes the file."""
        self.file.close()


def read_log(folder: Path) -> list[Row]:
    """The rows of `log.jsonl` in `folder`, of none if there is no such file; what is not a whole row is passed over."""
    rows = []
    for line in whole_lines(folder / 'log.jsonl'):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get('step'), int):
            rows.append(row)
    return rows


def read_table(path: Path) -> list[dict[str, str]]:
    """The whole rows of a CSV file by column; of none if there is no such file."""
    return [row for row in csv.DictReader(whole_lines(path)) if (row.get('step') or '').isdecimal()]


def whole_lines(path: Path) -> list[str]:
    """The lines of a file, if it exists, but for a last one that was not written to its end."""
    return path.read_text('utf-8', errors='replace').split('\n')[:-1] if path.exists() else []


def json_line(row: Row) -> str:
    """`row` as a line of JSON."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(finite, allow_nan=False) + '\n'


def replace(path: Path, text: str) -> None:
    """Puts `text` in the place of a file in one go: whenever the run is killed, the old or the new one is there."""
    part = path.with_name(path.name + '.part')
    part.write_text(text, 'utf-8')
    os.replace(part, path)
