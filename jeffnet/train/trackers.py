"""Figures for TensorBoard, without TensorFlow, and for Weights & Biases."""

import importlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from jeffnet.train.log_files import Row

NO_FIGURES = ('kind', 'step', 'best', 'weights')


def scalars(row: Row) -> dict[str, float]:
    """The numbers of a row by tag, as `train/loss`, `validation/top1`, `validation_ema/top1`; of an event, none."""
    if row['kind'] not in ('train', 'validation'):
        return {}
    group = row['kind'] + ('_ema' if row.get('weights') == 'ema' else '')
    numbers = {k: v for k, v in row.items() if k not in NO_FIGURES and isinstance(v, int | float)}
    return {f'{group}/{name}': value for name, value in numbers.items()}


class TensorBoard:
    """Event files in `folder/tensorboard`; what is there of steps after `start_step` counts no more.

    Events go to a plain file: tensorboard's own EventFileWriter would import TensorFlow to open one. Raises ImportError
    without the package tensorboard.
    """

    def __init__(self, folder: Path, start_step: int, config: dict):
        self.protos, self.summary = proto('event'), proto('summary')
        from tensorboard.summary.writer.record_writer import RecordWriter

        (folder / 'tensorboard').mkdir(exist_ok=True)
        name = f'events.out.tfevents.{time.time_ns() / 1e9:.6f}.{socket.gethostname()}.{os.getpid()}'
        self.file = (folder / 'tensorboard' / name).open('xb')
        self.records = RecordWriter(self.file)
        self.rolled_back = False
        self.add(file_version='brain.Event:2')
        self.forget(start_step)
        self.add(step=start_step, summary=config_text(config))
        self.file.flush()

    def forget(self, step: int) -> None:
        """Tells readers to drop what they have of steps after `step`."""
        start = self.protos.SessionLog(status=self.protos.SessionLog.START)
        self.add(step=step + 1, session_log=start)

    def add(self, **fields: Any) -> None:
        """Writes one event."""
        self.records.write(self.protos.Event(wall_time=time.time(), **fields).SerializeToString())

    def write(self, row: Row) -> None:
        """Adds the numbers of a row."""
        values = [self.summary.Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(row).items()]
        if values:
            if self.rolled_back:  # to before this step, which is now done again
                self.forget(row['step'] - 1)
            self.add(step=row['step'], summary=self.summary.Summary(value=values))
            self.file.flush()
        self.rolled_back = row['kind'] == 'rolled_back' or (self.rolled_back and not values)

    def close(self) -> None:
        """Closes the file."""
        self.file.close()


def proto(name: str) -> Any:
    """A module of TensorBoard's messages, whose classes are made when it is imported, unseen by type checkers."""
    return importlib.import_module(f'tensorboard.compat.proto.{name}_pb2')


def config_text(config: dict) -> Any:
    """A summary that shows the configuration under the tab Text."""
    from tensorboard.plugins.text import metadata

    Summary = proto('summary').Summary
    lines = json.dumps(config, indent=2, default=str).splitlines()
    text = '\n'.join('    ' + line for line in lines)  # Markdown shows indented lines as they are
    tensor = proto('tensor').TensorProto(dtype=proto('types').DT_STRING, string_val=[text.encode()])
    described = metadata.create_summary_metadata(display_name='config', description='')
    return Summary(value=[Summary.Value(tag='config', metadata=described, tensor=tensor)])


class WeightsAndBiases:
    """A run at Weights & Biases, `name` as in `check_wandb`; a resumed run goes on under the id kept in `folder`.

    Steps are its steps; those that the service already has, of a run that was killed later, stay as they are.
    """

    def __init__(self, folder: Path, start_step: int, config: dict, name: str):
        wandb: Any = importlib.import_module('wandb')
        project, _, run = name.partition('/')
        kept = folder / 'wandb_run_id.txt'
        known = kept.read_text().strip() if start_step and kept.exists() else None
        self.run = wandb.init(
            project=project,
            name=run or None,
            id=known,
            resume='allow' if known else None,
            dir=str(folder),
            config=config,
        )
        kept.write_text(self.run.id + '\n')

    def write(self, row: Row) -> None:
        """Sends the numbers of a row."""
        if numbers := scalars(row):
            self.run.log(numbers, step=row['step'])

    def close(self) -> None:
        """Waits until everything is sent."""
        self.run.finish()


def check_wandb(name: str = 'project') -> None:
    """Raises ValueError unless `name` is 'project' or 'project/run' and the package wandb can be imported."""
    if not 1 <= len(parts := name.split('/')) <= 2 or not all(part.strip() for part in parts):
        raise ValueError(f"config.wandb is {name!r}; allowed: '', 'project' or 'project/run'")
    try:
        importlib.import_module('wandb')
    except ImportError as error:
        raise ValueError(
            f"config.wandb is {name!r}, but {error}; allowed: '', or after pip install wandb 'project' or 'project/run'"
        ) from error
