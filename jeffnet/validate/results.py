"""What is written: a results file with a row per model, so that a crash loses nothing; the answers on every image."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jeffnet.validate.outcome import Outcome

# The first nine are those of timm's results files.
COLUMNS: list[str] = [
    'model', 'top1', 'top1_err', 'top5', 'top5_err', 'param_count', 'img_size', 'crop_pct', 'interpolation',
    'framework', 'pipeline', 'dtype', 'preprocessing', 'crop_mode', 'mean', 'std', 'loss', 'images', 'skipped',
    'labels', 'data', 'batch_size', 'fuse', 'devices', 'seconds', 'compile_seconds', 'images_per_second', 'source',
    'weights', 'published_top1', 'difference',
]  # fmt: skip
# Rows that agree in these are one measurement; a rerun does not repeat it.
IDENTITY: list[str] = [
    'model', 'img_size', 'crop_pct', 'interpolation', 'framework', 'pipeline', 'dtype', 'preprocessing', 'crop_mode',
    'mean', 'std', 'labels', 'data', 'source',
]  # fmt: skip


class ResultsFile:
    """A .csv or .json file of rows; opening it reads those that are there."""

    def __init__(self, path: Path):
        """Raises ValueError if rows cannot be added to this file."""
        self.path = path
        if path.suffix not in ('.csv', '.json'):
            raise ValueError(f'--results-file {path}: the name must end in .csv or .json')
        if not path.parent.is_dir():
            raise ValueError(f'--results-file {path}: there is no folder {path.parent}')
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise ValueError(f'--results-file {path}: cannot be written')
        self.rows = self.found() if path.exists() else []

    def found(self) -> list[dict[str, Any]]:
        """The rows in the file; a row that a crash cut off is removed from it."""
        content = self.path.read_text(encoding='utf-8', errors='replace')
        if self.path.suffix == '.json':
            return json_rows(self.path, content)
        head = ','.join(COLUMNS)
        if not head.startswith(content.partition('\n')[0]) or (len(content) > len(head) and content[len(head)] != '\n'):
            raise ValueError(f'--results-file {self.path}: exists with other columns; give another name')
        if content and not content.endswith('\n'):
            whole, _, last = content.rpartition('\n')
            is_row = whole and len(next(csv.reader([last]), [])) == len(COLUMNS)  # an editor took the end of the line
            content = f'{content}\n' if is_row else f'{whole}\n' if whole else ''
            replace(self.path, content)
        return list(csv.DictReader(io.StringIO(content)))

    def has(self, identity: Mapping[str, Any], weights: str | None = None) -> bool:
        """Whether a row of this identity is there, and of these weights if they are given."""
        wanted = [text(identity[name]) for name in IDENTITY]
        return any(
            wanted == [text(row[name]) for name in IDENTITY] and weights in (None, row['weights']) for row in self.rows
        )

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a row, at once."""
        ordered = {name: row[name] for name in COLUMNS}
        self.rows.append(ordered)
        if self.path.suffix == '.json':
            replace(self.path, json.dumps(self.rows, indent=2) + '\n')
            return
        out = io.StringIO()
        writer = csv.DictWriter(out, COLUMNS, lineterminator='\n')
        if not self.path.exists() or not self.path.stat().st_size:
            writer.writeheader()
        writer.writerow(ordered)
        with self.path.open('a', encoding='utf-8', newline='') as file:
            file.write(out.getvalue())
            file.flush()
            os.fsync(file.fileno())


def text(value: Any) -> str:
    """A value as CSV keeps it."""
    return '' if value is None else str(value)


def json_rows(path: Path, content: str) -> list[dict[str, Any]]:
    """The rows of a JSON file; ValueError if it is anything else."""
    try:
        rows = json.loads(content)
    except json.JSONDecodeError:
        rows = None
    if not isinstance(rows, list) or any(not isinstance(row, dict) or row.keys() != set(COLUMNS) for row in rows):
        raise ValueError(f'--results-file {path}: exists and is not a list of such rows; give another name')
    return rows


def replace(path: Path, content: str) -> None:
    """Writes a file such that a crash leaves the old one or the new one."""
    part = path.with_name(f'.{path.name}.part')
    part.write_text(content, encoding='utf-8')
    os.replace(part, path)


def weights_hash(flat: Mapping[str, Any]) -> str:
    """The first 16 hex digits of the SHA-256 over names, shapes and float32 values of all variables, sorted by name.

    It is the same for the same weights in every framework and file format.
    """
    digest = hashlib.sha256()
    for name in sorted(flat):
        array = np.ascontiguousarray(np.asarray(flat[name], '<f4'))
        digest.update(f'{name} {array.shape} '.encode())
        digest.update(array.data)
    return digest.hexdigest()[:16]


def write_predictions(path: Path, outcome: Outcome, name: Callable[[int], str]) -> None:
    """A CSV file of the answers on every image that was read, in the order of the set."""
    count = outcome.top.shape[1]
    with path.open('w', encoding='utf-8', errors='backslashreplace', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(['image', 'label', *(f'top{k + 1}' for k in range(count)), 'confidence', 'loss'])
        for index in np.flatnonzero(outcome.read):
            answers = [int(outcome.label[index]), *outcome.top[index].tolist()]
            shares = [f'{outcome.confidence[index]:.6f}', f'{outcome.loss[index]:.6f}']
            writer.writerow([name(int(index)), *answers, *shares])
