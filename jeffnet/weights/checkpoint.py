"""Folders that hold weights and a `config.json`: our training checkpoints, and timm's layout as on the hub.

Ours has `{"format": "jeffnet", "model": ..., "options": ...}` and flat names. timm's has `{"architecture": ...,
"pretrained_cfg": ...}` and timm's names; those that jeffnet writes add what timm has no word for under `"jeffnet"`.
"""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jeffnet.models.table import definition, model_info, table, tagged
from jeffnet.weights.files import AVERAGE, DIGEST, digest
from jeffnet.weights.stored import StoredArray

log = logging.getLogger('jeffnet')

# timm's `model_args` that are keywords of `create_model` too.
MODEL_ARGS = ('num_classes', 'in_chans', 'drop_rate', 'drop_path_rate', 'output_stride', 'bn_eps')
PREPROCESSING = ('crop_pct', 'crop_mode', 'interpolation', 'mean', 'std')  # timm's keys, and ours
AS_EVER = {'pretrained': False, 'features_only': False}  # arguments at the value that we have


def save(
    folder: str | Path,
    *,
    model: str,
    options: Mapping[str, Any],
    variables: Mapping[str, Any],
    average: Mapping[str, Any] | None = None,
    preprocessing: Mapping[str, Any],
    classes: list[str] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Writes a checkpoint folder whole or not at all.

    `options` are the keywords of `create_model` that shape the network, `variables` its flat variables, `average` their
    moving averages, `preprocessing` the fields of `jeffnet.data.preprocessing.Preprocessing`.
    """
    config = {
        'format': 'jeffnet',
        'model': model,
        'options': dict(options),
        'preprocessing': dict(preprocessing),
        'classes': classes,
        'metrics': dict(metrics) if metrics is not None else None,
    }
    with replaced(Path(folder)) as temporary:
        said = {'format': 'jeffnet', 'model': model, 'jeffnet': json.dumps(config)}
        write_arrays(temporary / 'model.safetensors', variables, said)
        if average is not None:
            write_arrays(temporary / AVERAGE, average, said)
        (temporary / 'config.json').write_text(json.dumps(config, indent=2) + '\n')


def write_arrays(path: Path, arrays: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Writes a .safetensors file whose metadata hold a sha-256 of the arrays, which reading checks."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    contiguous = {name: np.asarray(array, order='C') for name, array in arrays.items()}
    sha256 = digest({name: StoredArray.of(array) for name, array in contiguous.items()})
    path.touch()  # with the permissions that the user's new files have; the library's are its owner's alone
    mode = path.stat().st_mode
    try:
        save_file(contiguous, path, metadata={**metadata, DIGEST: sha256})
    except SafetensorError as error:
        raise OSError(f'cannot write {path}: {error}') from error
    path.chmod(mode)


@contextlib.contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `folder` when all went well, and is removed if not."""
    temporary = folder.with_name(f'.{folder.name}.{os.getpid()}')
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if folder.exists():  # a folder cannot be replaced in one step: keep the old one until the new one is in place
        old = folder.with_name(f'.{folder.name}.old')
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old)
    else:
        temporary.rename(folder)


def read_config(folder: str | Path) -> dict[str, Any]:
    """What the `config.json` of a folder says: model, options, preprocessing, classes, metrics.

    Of timm's configurations the model is None if the table does not have it. Raises FileNotFoundError or ValueError if
    the folder is neither ours nor timm's.
    """
    path = Path(folder) / 'config.json'
    if not path.is_file():
        raise FileNotFoundError(f'{folder} holds no config.json: it is not a checkpoint folder')
    try:
        config = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # of JSON, or of the encoding
        raise ValueError(f'{path} is not valid JSON ({error})') from error
    if isinstance(config, dict) and config.get('format') == 'jeffnet':
        return _of_ours(path, config)
    if not isinstance(config, dict) or not isinstance(config.get('architecture'), str):
        raise ValueError(f'{path} was written neither by jeffnet nor by timm: it names no architecture')
    try:
        return _of_timm(config)
    except (TypeError, KeyError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(f'{path} describes no model that jeffnet can build ({error})') from error


def _of_ours(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a checkpoint, with all its fields; ValueError if they are not as `save` writes them."""
    kinds = {'model': str, 'options': dict, 'preprocessing': dict, 'classes': list | None, 'metrics': dict | None}
    odd = [key for key, kind in kinds.items() if not isinstance(config.get(key), kind)]
    if odd:
        raise ValueError(f'{path} is not as jeffnet writes it: see {", ".join(odd)}')
    return {**dict.fromkeys(kinds), **config}


def _of_timm(config: dict[str, Any]) -> dict[str, Any]:
    """A timm configuration in the terms of ours."""
    ours, published = config.get('jeffnet') or {}, config.get('pretrained_cfg') or config
    arguments = config.get('model_args') or {}
    shape = published.get('input_size') or (3, None, None)  # (C, H, W)
    model = ours.get('model') or model_of_timm(config['architecture'], published.get('tag'))
    if model:
        _check_arguments(arguments, model)
    options = {key: arguments[key] for key in MODEL_ARGS if arguments.get(key) is not None}
    if 'bn_momentum' in arguments:
        options['bn_momentum'] = 1 - arguments['bn_momentum']  # PyTorch counts the share of the new statistic
    counts = (config.get('num_classes'), published.get('num_classes'), 1000)
    classes = next(count for count in counts if count is not None)
    # timm's 0: no classifier behind the pooling, and of some weights no head at all.
    published_classes = model_info(model).options.get('num_classes') if model else None
    options['num_classes'] = classes or (0 if published_classes == 0 else -1)
    options['in_chans'] = arguments.get('in_chans', shape[0])
    size = arguments.get('img_size') or (shape[1:] if published.get('fixed_input_size') else None)
    if size:  # of a network with a position table
        options['image_size'] = size
    if model and not ours:
        options |= _as_timm_builds(model, classes, published.get('tag'))
    preprocessing = ours.get('preprocessing') or {
        **({'kind': model_info(model).preprocessing} if model else {}),
        **({'image_size': list(shape[1:])} if shape[1] else {}),
        'in_chans': options['in_chans'],
        **{key: published[key] for key in PREPROCESSING if published.get(key)},
    }
    saved = dict(ours.get('options', {}))
    if saved.get('features_only'):
        del options['num_classes']
    labels = config.get('label_names') or published.get('label_names')
    return {
        'format': 'timm',
        'model': model,
        'architecture': config['architecture'],
        'options': options | saved,
        'preprocessing': preprocessing,
        'classes': labels if isinstance(labels, list) else None,
        'metrics': ours.get('metrics'),
    }


def _check_arguments(arguments: dict[str, Any], model: str) -> None:
    """Raises ValueError if timm's `model_args` change the network in a way that jeffnet does not know."""
    as_ever = {**AS_EVER, 'global_pool': getattr(definition(model_info(model)), 'POOLING', 'avg')}
    known = (*MODEL_ARGS, 'bn_momentum', 'img_size')
    odd = [k for k, v in arguments.items() if k not in known and v is not None and as_ever.get(k) != v]
    if odd:
        raise ValueError(f'its model_args hold {", ".join(odd)}, which jeffnet does not know')


def _as_timm_builds(model: str, classes: int, tag: str | None) -> dict[str, Any]:
    """Options of a network that timm trained further: timm's own, where the published weights want others."""
    info = model_info(model)
    fixed = {key: value for key, value in info.options.items() if key != 'num_classes'}
    if not fixed or (classes == info.options.get('num_classes', 1000) and tag == info.tag):
        return {}
    log.warning('%s: not the published weights, so built as timm does, without %s', model, ', '.join(fixed))
    return {key: type(value)() for key, value in fixed.items()}


def model_of_timm(architecture: str, tag: str | None) -> str | None:
    """Our name of a timm architecture, that of these weights if the table has them; None if there is none."""
    name = architecture if architecture.startswith('tf_') else f'pt_{architecture}'
    known = tagged().get(f'{name}.{tag}', name)
    if known in table():
        return known
    return next((info.name for info in table().values() if info.timm == architecture), None)
