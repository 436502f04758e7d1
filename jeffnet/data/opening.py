"""From what the user calls DATA to labelled images: which kind of set lies there, and the reader's object for it."""

import glob
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jeffnet.data.folder import SYNONYMS, ClassFolder
from jeffnet.data.source import DataError, Source
from jeffnet.data.tar_index import SPLITS

STREAMED = ('tfrecord', 'imagefolder', 'tfds')  # TensorFlow has readers of its own for these
KINDS = ('folder', 'tar', 'tfrecord', 'imagefolder', 'tfds/NAME', 'hfds/NAME')


def open_images(data: str, pipeline: str, dataset: str | None = None, split: str | None = None) -> Any:
    """The labelled images of DATA, to be read in their order: a `Source`, or with the `tf` pipeline a `Stream`.

    `dataset` says what DATA is (see `KINDS`; a bare NAME is a TFDS set, `NAME:SPLIT` too), None: what it looks like.
    Raises FileNotFoundError or DataError for what is not there or not usable, ValueError for another `dataset`.
    """
    kind, name, split = recognised(data, dataset, split, pipeline)
    if kind in STREAMED and pipeline == 'tf':
        return open_stream(kind, data, name, split or 'validation')
    return open_source(kind, data, name, split)


def open_training(data: str, split: str, dataset: str | None = None, classes: Sequence[str] | None = None) -> Source:
    """The labelled images of one split of DATA, to be read in any order, by either pipeline; see `open_images`.

    `classes` are those of another split, which class folders, tar files and Hugging Face sets then keep to. A part of
    a TFDS set or of TFRecord files is 'train[:90%]'. Raises the errors of `open_images`, which name the
    splits there are.
    """
    kind, name, chosen = recognised(data, dataset, split)
    try:
        return open_source(kind, data, name, chosen, classes)
    except FileNotFoundError as error:
        if kind not in ('folder', 'imagefolder') or not os.path.isdir(data):
            raise
        there = ', '.join(name for name in SPLITS if os.path.isdir(os.path.join(data, name))) or 'none'
        raise FileNotFoundError(f'{data}: has no folder {chosen!r}; splits there: {there}') from error


def recognised(data: str, dataset: str | None, split: str | None, pipeline: str = 'tf') -> tuple[str, str, str | None]:
    """(kind, name, split) of what is asked for."""
    kind, name, asked = parsed(dataset) if dataset else (*looks_like(data, pipeline), None)
    if not data and not (kind == 'hfds' and name):  # a set of the hub lies in no folder
        raise ValueError('DATA is missing: a folder of class folders, the parent of its validation/, tar files, ...')
    if asked and split and asked != split:
        raise ValueError(f'--dataset {dataset} and --split {split} name two splits')
    if kind in STREAMED and not os.path.isdir(data) and '://' not in data:
        raise FileNotFoundError(f'{data}: no such folder; give the folder that holds {name or "the images"}')
    return kind, name, asked or split


def open_source(kind: str, data: str, name: str, split: str | None, classes: Sequence[str] | None = None) -> Any:
    """A `Source`, read in any order; without TensorFlow, unless it lies behind a URL."""
    if kind == 'folder':
        return ClassFolder.open(data, split, classes)
    if kind == 'imagefolder':
        return ClassFolder.open(data, split or 'validation', classes)
    if kind == 'tar':
        from jeffnet.data.tar import TarFiles

        return TarFiles.open(data, split, classes)
    if kind == 'hfds':
        from jeffnet.data.hf import HubDataset

        return HubDataset.open(name or data, split, classes)
    from jeffnet.data import records

    if kind == 'tfrecord':
        return records.open_records(data, split or 'validation')
    return records.open_tfds(set_folder(data, name) if name else data, split or 'validation')


def open_stream(kind: str, data: str, name: str, split: str) -> Any:
    """A set as TensorFlow reads it."""
    from jeffnet.data import import_reader

    import_reader('tf')  # says what is missing
    from jeffnet.data import streams

    if kind == 'tfrecord':
        return streams.TfRecords(data, split)
    import tensorflow_datasets as tfds

    if kind == 'imagefolder':
        return streams.TfdsSplit(tfds.ImageFolder(data), split)
    if name:
        stream = streams.open_tfds(data, name, split)
    else:  # DATA is the folder of the set itself
        stream = streams.TfdsSplit(tfds.builder_from_directory(data), split)
    if stream.builder.info.file_format.value == 'array_record':  # TFDS makes no tf.data.Dataset of it
        return open_source(kind, os.fspath(stream.builder.data_path), '', split)
    return stream


def parsed(dataset: str) -> tuple[str, str, str | None]:
    """(kind, name, split) of a --dataset; TFDS itself writes versions behind a colon, 'name:1.2.3'."""
    kind, _, name = dataset.partition('/')
    if kind in ('folder', 'tar', 'tfrecord', 'imagefolder') and not name:
        return kind, '', None
    if kind == 'wds' and not name:  # timm's word
        return 'tar', '', None
    if kind == 'hfds' and name:
        return 'hfds', name, None
    name = name if kind == 'tfds' and name else dataset
    head, _, tail = name.rpartition(':')
    if head and not tail[:1].isdigit():
        return 'tfds', head, tail
    if not name or kind == 'hfds':
        raise ValueError(f'--dataset {dataset}: expected {", ".join(KINDS)}, or the NAME of a TFDS set')
    return 'tfds', name, None


def looks_like(data: str, pipeline: str = 'tf') -> tuple[str, str]:
    """(kind, name) of what lies at DATA; class folders if nothing else is recognised.

    The `pt` pipeline takes a validation folder that lies beside a TFDS set or TFRecord files.
    """
    folder = Path(data)
    if folder.is_file() or not folder.exists():
        is_tar = '.tar' in folder.name and (folder.is_file() or bool(set(data) & set('{*?[')))
        return ('tar' if is_tar else 'folder'), ''
    if (folder / 'dataset_info.json').is_file() and (folder / 'features.json').is_file():
        return 'tfds', ''
    if (folder / 'state.json').is_file() or (folder / 'dataset_dict.json').is_file():
        return 'hfds', ''
    if pipeline == 'pt' and any((folder / name).is_dir() for name in SYNONYMS['validation']):
        return 'folder', ''
    prepared = prepared_sets(folder)
    if 'imagenet2012' in prepared or (folder / 'imagenet2012').is_dir():
        return 'tfds', 'imagenet2012'
    if len(prepared) > 1:
        raise DataError(f'{data}: holds the TFDS sets {", ".join(prepared)}; choose one with --dataset')
    if prepared:
        return 'tfds', prepared[0]
    files = [entry.name for entry in os.scandir(folder) if entry.is_file()]
    if 'ILSVRC2012_img_val.tar' in files:
        command = prepare_command('imagenet2012', 'OTHER_FOLDER', data)
        raise DataError(f"{data}: holds ImageNet's official archives; prepare them ({command}) and give OTHER_FOLDER")
    if any(name.endswith('.tar') for name in files):
        return 'tar', ''
    if any(glob.glob(f'{glob.escape(data)}/{split}-*-of-*') for split in ('train', *SYNONYMS)):
        return 'tfrecord', ''
    return 'folder', ''


def prepared_sets(folder: Path) -> list[str]:
    """The TFDS sets prepared in a folder: NAME/VERSION or NAME/CONFIG/VERSION with a dataset_info.json."""
    found = {
        path.relative_to(folder).parts[0]
        for depth in ('*/[0-9]*.[0-9]*/', '*/*/[0-9]*.[0-9]*/')
        for path in folder.glob(f'{depth}dataset_info.json')
    }
    return sorted(found)


def set_folder(data: str, dataset: str) -> str:
    """The folder of a prepared TFDS set 'NAME', 'NAME/CONFIG' or 'NAME/CONFIG:VERSION': that of its newest version.

    Raises DataError for a set that is not there, not prepared, or has several configurations and no default.
    """
    from jeffnet.data.records import listed

    path, _, wanted = dataset.partition(':')
    name, _, config = path.partition('/')
    if name not in listed(data):
        raise DataError(f'{data}: no TFDS set {name!r}; the folder holds: {", ".join(listed(data)[:10]) or "nothing"}')
    root = os.path.join(data, name, config) if config else os.path.join(data, name)
    if not config and not versions(root):
        root = os.path.join(root, default_config(root, dataset))
    there = versions(root)
    fitting = [version for version in there if re.fullmatch(re.escape(wanted).replace(r'\*', r'\d+'), version)]
    if wanted and there and not fitting:
        raise DataError(f'{root}: TFDS set {name!r} has no version {wanted}; versions there: {", ".join(there)}')
    for version in reversed(fitting if wanted else there):
        if 'dataset_info.json' in listed(os.path.join(root, version)):
            return os.path.join(root, version)
    raise DataError(f'{data}: TFDS set {dataset!r} is not prepared; {how_to_prepare(dataset, data)}')


def versions(folder: str) -> list[str]:
    """The folders of versions, the newest last."""
    from jeffnet.data.records import listed

    names = [name for name in listed(folder) if re.fullmatch(r'\d+\.\d+\.\d+', name)]
    return sorted(names, key=lambda name: [int(number) for number in name.split('.')])


def default_config(folder: str, dataset: str) -> str:
    """The configuration that a TFDS set calls its default, or its only one; '' if there is none."""
    from jeffnet.data.records import content, listed

    configs = [name for name in listed(folder) if versions(os.path.join(folder, name))]
    notes = os.path.join(folder, '.config')
    default = json.loads(content(os.path.join(notes, 'metadata.json'))) if 'metadata.json' in listed(notes) else {}
    if default.get('default_config_name') in configs:
        return default['default_config_name']
    if len(configs) > 1:
        raise DataError(f'{folder}: give one of its configurations, {dataset}/CONFIG; there: {", ".join(configs)}')
    return configs[0] if configs else ''


def how_to_prepare(dataset: str, data_dir: str | os.PathLike) -> str:
    """The command that prepares a TFDS set, as the end of an error."""
    is_imagenet = dataset.partition('/')[0].partition(':')[0] == 'imagenet2012'
    return f'prepare it: {prepare_command(dataset, data_dir, "FOLDER_OF_THE_TWO_TAR_FILES" if is_imagenet else None)}'


def prepare_command(dataset: str, data_dir: str | os.PathLike, manual_dir: str | None = None) -> str:
    """The command that prepares a TFDS set; TFDS' own `tfds build` works only where apache_beam is installed too."""
    config = f"download_config=tfds.download.DownloadConfig(manual_dir='{manual_dir}')" if manual_dir else ''
    builder = f"tfds.builder('{dataset}', data_dir='{os.fspath(data_dir)}')"
    return f'python -c "import tensorflow_datasets as tfds; {builder}.download_and_prepare({config})"'
