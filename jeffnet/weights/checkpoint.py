"""Our own checkpoint folders: `config.json` and `model.safetensors` with flat names."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def save(
    folder: str | Path,
    *,
    model: str,
    options: Mapping[str, Any],
    variables: Mapping[str, Any],
    preprocessing: Mapping[str, Any],
    classes: list[str] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Writes a checkpoint folder whole or not at all.

    `options` are the keywords of `create_model` that shape the network, `variables` its flat variables, `preprocessing`
    the fields of `jeffnet.data.preprocessing.Preprocessing`.
    """
    from safetensors.numpy import save_file

    folder = Path(folder)
    temporary = folder.with_name(f'.{folder.name}.{os.getpid()}')
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    arrays = {name: np.ascontiguousarray(array) for name, array in variables.items()}
    save_file(arrays, temporary / 'model.safetensors', metadata={'format': 'jeffnet', 'model': model})
    config = {
        'format': 'jeffnet',
        'model': model,
        'options': dict(options),
        'preprocessing': dict(preprocessing),
        'classes': classes,
        'metrics': dict(metrics) if metrics is not None else None,
    }
    (temporary / 'config.json').write_text(json.dumps(config, indent=2) + '\n')
    if folder.exists():  # a folder cannot be replaced in one step: keep the old one until the new one is in place
        old = folder.with_name(f'.{folder.name}.old')
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old)
    else:
        temporary.rename(folder)


def read_config(folder: str | Path) -> dict[str, Any]:
    """The `config.json` of a checkpoint folder: model, options, preprocessing, classes, metrics.

    Raises FileNotFoundError or ValueError if the folder is none of ours.
    """
    path = Path(folder) / 'config.json'
    if not path.is_file():
        raise FileNotFoundError(f'{folder} holds no config.json: it is not a checkpoint folder of jeffnet')
    try:
        config = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f'{path} is not valid JSON ({error})') from error
    if not isinstance(config, dict) or config.get('format') != 'jeffnet':
        raise ValueError(f'{path} was not written by jeffnet')
    return config
