"""What lies in a tar archive: images, labels and class names, from the headers and the small label files alone."""

import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from posixpath import basename, dirname, join, normpath

import numpy as np

from jeffnet.data.folder import EXTENSIONS, natural
from jeffnet.data.source import DataError

LABELS = ('.cls', '.json')
CLASS_FILES = ('classes.txt', 'classnames.txt')
SPLITS = ('train', 'validation', 'val', 'test')
COMPRESSED = {b'\x1f\x8b': 'gzip', b'BZh': 'bzip2', b'\xfd7zXZ': 'xz', b'\x28\xb5\x2f\xfd': 'zstd'}
MAX_CLASSES = 1_000_000  # where nothing names the classes, a label beyond it is damage rather than a class

Label = int | str
Place = tuple[int, int]  # offset in the archive, size
Sample = tuple[str, Place, Label, str]  # name, place, label, split whose folder it lies in or ''
Classes = tuple[list[str], str]  # class names, and where they come from


def members(path: str) -> Iterator[tarfile.TarInfo]:
    """The headers of an archive; DataError if not all of it can be read."""
    damaged = 'copy it again, or pack it anew'
    with open(path, 'rb') as file:
        start = file.read(6)
        kind = next((kind for magic, kind in COMPRESSED.items() if start.startswith(magic)), None)
        if kind:
            raise DataError(f'{path}: is compressed ({kind}), and images are read by position; decompress it first')
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode='r:') as tar:
                while (info := tar.next()) is not None:
                    tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # tarfile would keep all of them
                    yield info
                end = tar.offset
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise DataError(f'{path}: is no whole tar archive ({error}); {damaged}') from error
        # tarfile takes any unreadable header for the end, and so would lose what follows.
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE:
            raise DataError(f'{path}: is cut off, as it has no end mark; {damaged}')
        while block:
            if block.strip(b'\0'):
                raise DataError(f'{path}: is damaged after byte {end}, or several archives joined in a file; {damaged}')
            block = file.read(1 << 20)


def files(path: str) -> Iterator[tuple[str, Place]]:
    """Names, without ./, and places of the files in an archive; hidden ones are left out."""
    linked = None
    for info in members(path):
        parts = [part for part in info.name.split('/') if part not in ('', '.')]
        name = '/'.join(parts)
        if not parts or '__MACOSX' in parts or any(part.startswith('.') for part in parts):
            continue
        if info.isreg():
            if info.issparse():
                raise DataError(f'{path}::{name}: is stored as a sparse file; pack it anew without --sparse')
            yield name, (info.offset_data, info.size)
        elif (info.issym() or info.islnk()) and name.lower().endswith((*EXTENSIONS, *LABELS)):
            linked = linked or link_targets(path)  # another pass, only where links matter
            if '/' + name not in linked:
                cause = f'is a link to {info.linkname}, which is not in this archive'
                raise DataError(f'{path}::{name}: {cause}; pack it anew with tar --dereference --hard-dereference')
            yield name, linked['/' + name]


def link_targets(path: str) -> dict[str, Place]:
    """The places of all files and of all links that lead to one, by absolute name."""
    places, links = {}, {}
    for info in members(path):
        name = normpath('/' + info.name)
        if info.isreg():
            places[name] = info.offset_data, info.size
        elif info.issym() or info.islnk():
            links[name] = normpath(join('/', dirname(name) if info.issym() else '', info.linkname))
    while found := {name: places[target] for name, target in links.items() if target in places and name not in places}:
        places.update(found)
    return places


def index(path: str, split: str | None) -> tuple[Iterator[Sample], Classes | None]:
    """The samples of an archive, whose headers and label files are read here, and the class names that it lists."""
    images: dict[str, Place] = {}
    labels: dict[str, Label | DataError] = {}  # by sample
    listed = None
    with open(path, 'rb') as file:
        for name, (offset, size) in files(path):
            key, extension = sample_key(name)
            member = f'{path}::{name}'
            if name.lower().endswith(EXTENSIONS):
                if name in images:
                    raise DataError(f'{member}: is there twice; unpack the archive and pack it anew')
                images[name] = offset, size
            elif extension == '.cls':  # the authority where a sample has both
                labels[key] = cls_label(os.pread(file.fileno(), size, offset), member)
            elif extension == '.json' and key not in labels:
                try:
                    labels[key] = json_label(os.pread(file.fileno(), size, offset), member)
                except DataError as error:  # of no matter, unless it should have been the label of an image
                    labels[key] = error
            elif basename(name) in CLASS_FILES and listed is None:
                listed = class_lines(os.pread(file.fileno(), size, offset), member), member
    if not images:
        raise DataError(f'{path}: holds no image ({", ".join(EXTENSIONS)}); add images, or leave this archive out')
    is_shard = any(not isinstance(label, DataError) for label in labels.values())
    known = (split, *SPLITS) if split else SPLITS
    return (shard_samples if is_shard else folder_samples)(path, images, labels, known), listed


def sample_key(name: str) -> tuple[str, str]:
    """A member's name up to the first dot of its last part, and the rest in small letters."""
    folder, slash, base = name.rpartition('/')
    stem, dot, extension = base.partition('.')
    return folder + slash + stem, dot + extension.lower()


def shard_samples(
    path: str, images: dict[str, Place], labels: dict[str, Label | DataError], splits: tuple[str, ...]
) -> Iterator[Sample]:
    """The samples of a WebDataset shard."""
    seen: dict[str, str] = {}
    for name, place in images.items():
        key, extension = sample_key(name)
        if extension not in EXTENSIONS:
            continue
        if key in seen:
            raise DataError(f'{path}::{name}: its sample has another image, {seen[key]}; remove one of them')
        seen[key] = name
        label = labels.get(key)
        if label is None:
            raise DataError(f'{path}::{name}: has no label; add {key}.cls with its class')
        if isinstance(label, DataError):
            raise label
        yield name, place, label, next((part for part in key.split('/')[:-1] if part in splits), '')
    for key, label in labels.items():
        if key not in seen and not isinstance(label, DataError):
            raise DataError(f'{path}::{key}: has a label but no image ({", ".join(EXTENSIONS)}); add it or remove both')


def folder_samples(
    path: str, images: dict[str, Place], labels: dict[str, Label | DataError], splits: tuple[str, ...]
) -> Iterator[Sample]:
    """The images of class folders; `labels` holds but errors of .json files."""
    folders: dict[str, tuple[str, str]] = {}  # class and split
    owners: dict[str, str] = {}  # folder by class
    for name, place in images.items():
        folder = dirname(name)
        if not folder:
            key = sample_key(name)[0]
            cause = f'lies in no class folder and has no label; pack class folders, or add {key}.cls with its class'
            error = labels.get(key)
            raise error if isinstance(error, DataError) else DataError(f'{path}::{name}: {cause}')
        if folder not in folders:
            parts = folder.split('/')
            at = next((i for i, part in enumerate(parts[:-1]) if part in splits), None)
            folders[folder] = (parts[-1], '') if at is None else (parts[at + 1], parts[at])
            if at is None:
                owners.setdefault(parts[-1], folder)
        yield name, place, *folders[folder]
    for folder in (folder for folder, (_, part) in folders.items() if not part):
        # n01/images/ and n02/images/ would silently become a class 'images', n01/more/ a class 'more'.
        other = dirname(folder) if folders.get(dirname(folder), ('', ' '))[1] == '' else owners[basename(folder)]
        if other != folder:
            cause = f'{other}/ and {folder}/ both hold images, and it is unclear which folder names the class'
            raise DataError(f'{path}: {cause}; pack class folders with the images right in them')


# Labels


def cls_label(content: bytes, member: str) -> Label:
    """The number or name in a .cls file."""
    try:
        text = content.decode('utf-8-sig').strip()
    except UnicodeDecodeError:
        text = ''
    if not text.isprintable() or not text:
        raise DataError(f'{member}: holds {content[:20]!r}, which is no label; write the class number or name as text')
    return int(text) if re.fullmatch(r'[+-]?[0-9]{1,18}', text) else text


def json_label(content: bytes, member: str) -> Label:
    """The number or name under 'label' in a .json file, else that under 'class'."""
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise DataError(f'{member}: is no JSON ({error}); write it anew') from None
    label = fields.get('label', fields.get('class')) if isinstance(fields, dict) else None
    if isinstance(label, bool) or not isinstance(label, int | str) or label == '':
        raise DataError(f"{member}: has no label; give 'label' a class number, or 'label' or 'class' a class name")
    return label


def class_lines(content: bytes, where: str) -> list[str]:
    """The class names in a text file, one in each line."""
    try:
        names = [line.strip() for line in content.decode('utf-8-sig').strip().splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f'{where}: is no UTF-8 text ({error}); write a class name in each line') from None
    if not all(names):
        raise DataError(f'{where}: has an empty line; write a class name in each line')
    return names


def class_file(archive: str, data: str) -> Classes | None:
    """The class names of a text file beside the archives, or in the folder that was given."""
    for folder in dict.fromkeys((os.path.dirname(archive), data)):
        for path in (os.path.join(folder, name) for name in CLASS_FILES):
            if os.path.isfile(path):
                with open(path, 'rb') as file:
                    return class_lines(file.read(), path), path
    return None


def number_labels(
    labels: list[Label], known: Classes | None, name: Callable[[int], str]
) -> tuple[np.ndarray, list[str]]:
    """Labels as int32 [N], and the class names; `name` tells an image by its index."""
    kinds = [type(label) for label in labels]
    if len(set(kinds)) > 1:
        first = kinds.index(str)
        raise DataError(f'{name(first)}: label {labels[first]!r} is no number, as others are; write all the same way')
    if kinds[0] is int:
        limit = len(known[0]) if known else MAX_CLASSES
        wrong = next((i for i, label in enumerate(labels) if not 0 <= int(label) < limit), None)
        if wrong is not None:
            among = f'the number of classes in {known[1]}' if known else 'a limit where nothing names the classes'
            cause = 'is negative' if int(labels[wrong]) < 0 else f'is not below {limit}, {among}'
            raise DataError(f'{name(wrong)}: label {labels[wrong]} {cause}; correct it, or give other classes')
        numbers = np.array(labels, np.int32)
        return numbers, known[0] if known else [str(number) for number in range(numbers.max() + 1)]
    found = set(map(str, labels))
    if known is None and found <= set(SPLITS):
        raise DataError(f'{name(0)}: lies in a folder of a split, not of a class; pack folders of one class each')
    classes = known[0] if known else sorted(found, key=natural)
    number_of = {label: number for number, label in enumerate(classes)}
    wrong = next((i for i, label in enumerate(labels) if label not in number_of), None)
    if known and wrong is not None:
        count = f'{len(found - set(classes))} of {len(found)} classes'
        cause = f'{labels[wrong]!r} is not among {known[1]}, nor are {count} in all'
        raise DataError(f'{name(wrong)}: {cause}; leave them out, or give other classes')
    twice = next((label for label, count in Counter(classes).items() if count > 1 and label in found), None)
    if known and twice is not None:
        raise DataError(f'{name(labels.index(twice))}: class {twice!r} is twice in {known[1]}; tell the two apart')
    return np.array([number_of[str(label)] for label in labels], np.int32), classes
