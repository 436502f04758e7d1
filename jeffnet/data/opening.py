"""From what the user calls DATA to labelled images: which kind of set lies there, and the reader's object for it."""

import glob
import os
from pathlib import Path
from typing import Any

from jeffnet.data.folder import SYNONYMS, ClassFolder
from jeffnet.data.source import DataError

KINDS = ('folder', 'tar', 'tfrecord', 'imagefolder', 'tfds/NAME', 'hfds/NAME')


def open_images(data: str, pipeline: str, dataset: str | None = None, split: str | None = None) -> Any:
    """The labelled images of DATA: a `Source`, or with the `tf` pipeline a `Stream`.

    `dataset` says what DATA is (see `KINDS`; a bare NAME is a TFDS set, `NAME:SPLIT` too), None: what it looks like.
    Raises FileNotFoundError or DataError for what is not there or not usable, ValueError for another `dataset`.
    """
    kind, name, asked = parsed(dataset) if dataset else (*looks_like(data, pipeline), None)
    if not data and not (kind == 'hfds' and name):  # a set of the hub lies in no folder
        raise ValueError('DATA is missing: a folder of class folders, the parent of its validation/, tar files, ...')
    if asked and split and asked != split:
        raise ValueError(f'--dataset {dataset} and --split {split} name two splits')
    split = asked or split
    if kind in ('tfds', 'imagefolder', 'tfrecord') and pipeline != 'tf':
        raise DataError(
            f'{data}: {described(kind, name)} is read by the tf_ scripts only; give class folders or tar files'
        )
    if kind == 'folder':
        return ClassFolder.open(data, split)
    if kind == 'tar':
        from jeffnet.data.tar import TarFiles

        return TarFiles.open(data, split)
    if kind == 'hfds':
        from jeffnet.data.hf import HubDataset

        return HubDataset.open(name or data, split)
    return open_stream(kind, data, name, split or 'validation')


def open_stream(kind: str, data: str, name: str, split: str) -> Any:
    """A set that only TensorFlow reads."""
    from jeffnet.data import import_reader

    import_reader('tf')  # says what is missing
    from jeffnet.data import streams

    if kind == 'tfrecord':
        return streams.TfRecords(data, split)
    if not os.path.isdir(data) and '://' not in data:
        raise FileNotFoundError(f'{data}: no such folder; give the folder that holds {name or "the images"}')
    import tensorflow_datasets as tfds

    if kind == 'imagefolder':
        return streams.TfdsSplit(tfds.ImageFolder(data), split)
    if not name:  # DATA is the folder of the set itself
        return streams.TfdsSplit(tfds.builder_from_directory(data), split)
    return streams.open_tfds(data, name, split)


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


def described(kind: str, name: str) -> str:
    """A kind of set for people."""
    return {'tfds': f'a TFDS set{" " + name if name else ""}', 'tfrecord': 'a set of TFRecord files'}.get(kind, kind)


def looks_like(data: str, pipeline: str = 'tf') -> tuple[str, str]:
    """(kind, name) of what lies at DATA; class folders if nothing else is recognised.

    The `pt` reader takes a validation folder that lies beside what only TensorFlow reads.
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


def prepare_command(dataset: str, data_dir: str | os.PathLike, manual_dir: str | None = None) -> str:
    """The command that prepares a TFDS set; TFDS' own `tfds build` works only where apache_beam is installed too."""
    config = f"download_config=tfds.download.DownloadConfig(manual_dir='{manual_dir}')" if manual_dir else ''
    builder = f"tfds.builder('{dataset}', data_dir='{os.fspath(data_dir)}')"
    return f'python -c "import tensorflow_datasets as tfds; {builder}.download_and_prepare({config})"'
