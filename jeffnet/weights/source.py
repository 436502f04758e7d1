"""Sources: from what the caller names to a path on this machine and what is known about it."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jeffnet.models.table import ModelInfo, model_info, network_of
from jeffnet.weights import hub, keras_download
from jeffnet.weights.checkpoint import read_config
from jeffnet.weights.files import IN_FOLDER, read, weights_in

LOCAL = 'local-dir:'  # timm's prefix of a folder given as a model name


@dataclass(frozen=True)
class Source:
    """A file or folder of weights, and what it says of itself: its model, the options that rebuild it."""

    path: Path
    model: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)  # of `read_config`


def is_source(name: str) -> bool:
    """Whether a model name is a place that says which model it holds: `hf-hub:owner/repo` or `local-dir:PATH`."""
    return name.startswith(LOCAL) or hub.is_hub(name)


def pinned(info: ModelInfo) -> Path:
    """The published weights of a name, downloaded from the hub or from Keras, or found in the cache."""
    if info.weights is None:
        raise ValueError(f'{info.name} has no published weights; build it with pretrained=False or give weights=<file>')
    if info.flavour == 'keras':
        return keras_download.fetch(info)
    return hub.fetch(f'timm/{info.weights}', 'model.safetensors', info.revision)


def locate(weights: str | Path) -> Source:
    """What `weights` names: a file, a folder, or `hf-hub:owner/repo[@revision]`, downloaded or found in the cache.

    A folder with a `config.json` brings its options. A single file that jeffnet wrote does so too, but its
    classes have to be asked for, as those of any file.
    """
    text = str(weights)
    if not text.removeprefix(LOCAL):
        raise ValueError(f'{text!r} names no file or folder of weights')
    path = hub.folder(text) if hub.is_hub(text) else expanded(text.removeprefix(LOCAL))
    folder = path if path.is_dir() else path.parent
    if (folder / 'config.json').is_file() and (path == folder or path.name in IN_FOLDER):
        config = read_config(folder)
        where, found = folder / 'config.json', config
    else:
        where, config = path, own_words(path)
        # The classes of a single file have to be asked for, unless it has no classifier at all.
        found = {
            **config,
            'options': {k: v for k, v in config.get('options', {}).items() if k != 'num_classes' or v in (0, -1)},
        }
    try:
        return Source(path, found.get('model'), network_options(found.get('model'), found.get('options', {})), config)
    except (ValueError, TypeError) as error:
        raise ValueError(f'{where} describes no model that jeffnet can build: {error}') from error


def expanded(text: str) -> Path:
    """A path with `~` resolved; ValueError for the home of nobody."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f'{text}: {error}') from error


def own_words(path: Path) -> dict[str, Any]:
    """What a single file that jeffnet wrote says of its model; of other files nothing."""
    file = weights_in(path) if path.is_dir() else path
    return read(file).about if file and file.suffix == '.safetensors' and file.is_file() else {}


def network_options(model: Any, options: Any) -> dict[str, Any]:
    """Options from a file, checked: only those that shape a network, so that no file can relax how it is loaded."""
    if not isinstance(options, dict) or not isinstance(model, str | None):
        raise ValueError(f'model {model!r} with the options {options!r}')
    if model is None:
        return {}
    info = model_info(model)
    fields = dataclasses.fields(network_of(info))
    shaping = {field.name for field in fields if field.name not in ('stages', 'variant')} | {
        'bn_eps',
        'bn_momentum',
        'features_only',
    }
    odd = sorted(str(key) for key in options if key not in shaping)
    if odd:
        raise ValueError(f'the options {", ".join(odd)} are none that shape {model}')
    for key, value in options.items():
        if key in ('num_classes', 'in_chans', 'output_stride') and type(value) is not int:
            raise ValueError(f'{key} is {value!r}, not a whole number')
    return options


def same_network(source: Source, info: ModelInfo) -> None:
    """Raises ValueError if the source says that it is of another architecture than `info`."""
    if source.model is None:
        if source.config.get('architecture'):
            raise ValueError(
                f'{source.path} holds the timm architecture {source.config["architecture"]}, not one of '
                f'{info.name} ({info.timm})'
            )
        return
    theirs = model_info(source.model)
    if (theirs.arch, theirs.flavour) != (info.arch, info.flavour):
        raise ValueError(f'{source.path} is a checkpoint of {source.model}, not of {info.name}')
