"""Sources: from what the caller names to a path on this machine and what is known about it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jeffnet.models.table import ModelInfo, model_info
from jeffnet.weights import hub
from jeffnet.weights.checkpoint import read_config
from jeffnet.weights.files import IN_FOLDER, read

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
    """The published weights of a name, downloaded from the hub or found in its cache."""
    if info.weights is None:
        raise ValueError(f'{info.name} has no published weights; build it with pretrained=False or give weights=<file>')
    return hub.fetch(f'timm/{info.weights}', 'model.safetensors', info.revision)


def locate(weights: str | Path) -> Source:
    """What `weights` names: a file, a folder, or `hf-hub:owner/repo[@revision]`, downloaded or found in the cache.

    A folder with a `config.json` brings its options. A single file that jeffnet wrote brings those that names and
    shapes do not show; its classes have to be asked for, as those of any file.
    """
    text = str(weights)
    path = hub.folder(text) if hub.is_hub(text) else Path(text.removeprefix(LOCAL)).expanduser()
    folder = path if path.is_dir() else path.parent
    if (folder / 'config.json').is_file() and (path == folder or path.name in IN_FOLDER):
        config = read_config(folder)
        return Source(path, config['model'], config['options'], config)
    if path.suffix == '.safetensors' and path.is_file():
        about = read(path).about
        options = {k: v for k, v in about.get('options', {}).items() if k not in ('num_classes', 'in_chans')}
        return Source(path, about.get('model'), options, about)
    return Source(path)


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
