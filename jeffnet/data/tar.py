"""Images inside tar archives, read where they lie: WebDataset shards, or class folders that were packed as they are.

A WebDataset sample is what shares a name up to the first dot: `0001.jpg` with `0001.cls` (a class number or name) or
`0001.json` (with 'label' or 'class'). All that follows the first dot must be an image extension, so that `0001.seg.png`
is no image. In an archive without such labels, the class is the folder: the one right below train/, validation/, val/
or test/, else the image's own; dots mean nothing there.
"""

import glob
import json
import os
import re
import tarfile
import threading
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from posixpath import basename, dirname, join, normpath

import numpy as np

from jeffnet.data.folder import EXTENSIONS, SYNONYMS, natural
from jeffnet.data.source import DataError

LABELS = ('.cls', '.json')
CLASS_FILES = ('classes.txt', 'classnames.txt')
SPLITS = ('train', 'validation', 'val', 'test')
ARCHIVES = ('.tar', '.tar.gz', '.tgz', '.tar.bz2', '.tar.xz', '.tar.zst')  # the compressed ones: to say what is wrong
COMPRESSED = {b'\x1f\x8b': 'gzip', b'BZh': 'bzip2', b'\xfd7zXZ': 'xz', b'\x28\xb5\x2f\xfd': 'zstd'}
MAX_CLASSES = 1_000_000  # where nothing names the classes, a label beyond it is damage rather than a class
MAX_OPEN = 256  # archives kept open by a process: the usual limit is 1024 files, and ImageNet may have 1024 shards

Label = int | str
Place = tuple[int, int]  # offset in the archive, size


class TarFiles:
    """The index of the images in tar archives; each process opens the archives for itself, when it first reads."""

    def __init__(self, paths: list[str]):
        self.paths = paths
        self.stamps = [stamp(os.stat(path)) for path in paths]
        self.places = np.empty((0, 4), np.int64)  # by image: archive, offset, size, start of its name in `names`
        self.names = b''  # each ends with a zero byte: a million str objects would be slow to send to a worker
        self.labels, self.classes = np.empty(0, np.int32), list[str]()
        self.handles, self.lock = dict[int, int](), threading.Lock()

    @classmethod
    def open(
        cls, data: str | os.PathLike, split: str | None = None, classes: Sequence[str] | None = None
    ) -> 'TarFiles':
        """Indexes DATA: a .tar file, a folder of them, or a pattern such as `/data/val-{000..063}.tar` or `val-*.tar`.

        A split is told by names of archives (`imagenet-val-000.tar`) or by folders, around or inside them; without
        one, validation is taken where there is one. Classes are `classes`, else the lines of a classes.txt or
        classnames.txt in or beside the archives, else the numbers up to the last label or the names in natural order.
        Raises FileNotFoundError for what is missing, DataError for what is unusable.
        """
        where = os.fspath(data)
        paths = find_archives(where, split)
        of_path = [split_of(path, split) for path in paths]
        chosen = choose_split(set(of_path), split, where)
        files = cls([path for path, part in zip(paths, of_path, strict=True) if chosen in (None, part)])
        places, names, labels, parts, known = array('q'), bytearray(), [], [], None
        for number, path in enumerate(files.paths):
            samples, listed = index(path, split)
            known = known or listed
            for name, place, label, part in samples:
                places.extend((number, *place, len(names)))
                names += name.encode('utf-8', 'surrogateescape') + b'\0'
                labels.append(label)
                parts.append(part)
        inside = choose_split(set(parts), split, where)
        if split is not None and chosen is None and inside is None:
            cause = f'no name of an archive or folder tells what is of the split {split!r}'
            raise FileNotFoundError(f'{where}: {cause}; leave the split out, or give the archives of that split')
        kept = [inside in (None, part) for part in parts]
        files.places, files.names = np.array(places, np.int64).reshape(-1, 4)[kept], bytes(names)
        labels = [label for label, keep in zip(labels, kept, strict=True) if keep]
        known = known or class_file(files.paths[0], where)
        if classes is not None:
            known = list(classes), 'the classes asked for'
        files.labels, files.classes = number_labels(labels, known, files.name)
        return files

    def __len__(self) -> int:
        return len(self.places)

    def name(self, index: int) -> str:
        """The path of the archive and the name of the member, `archive.tar::member`."""
        number, start = self.places[index, 0], self.places[index, 3]
        member = self.names[start : self.names.index(b'\0', start)].decode('utf-8', 'backslashreplace')
        return f'{self.paths[number]}::{member}'

    def read(self, index: int) -> bytes:
        """The image file's content; OSError, or DataError if the archive is no longer what was indexed."""
        number, offset, size, _ = self.places[index].tolist()
        content = self.read_at(number, offset, size)
        if len(content) != size:
            raise DataError(f'{self.name(index)}: only {len(content)} of {size} bytes could be read; copy it again')
        return content

    def read_at(self, number: int, offset: int, size: int) -> bytes:
        """Bytes of an archive, read without a shared position, so that threads do not disturb each other."""
        handle = self.handles.get(number)
        if handle is not None:
            return os.pread(handle, size, offset)
        handle, keep = os.open(self.paths[number], os.O_RDONLY), False
        try:
            if stamp(os.fstat(handle)) != self.stamps[number]:
                raise DataError(f'{self.paths[number]}: has changed since its members were listed; start again')
            with self.lock:
                keep = number not in self.handles and len(self.handles) < MAX_OPEN
                if keep:
                    self.handles[number] = handle
            return os.pread(handle, size, offset)
        finally:
            if not keep:
                os.close(handle)

    def __getstate__(self) -> dict:
        return {**self.__dict__, 'handles': {}, 'lock': None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, lock=threading.Lock())

    def __del__(self):
        for handle in self.__dict__.get('handles', {}).values():
            os.close(handle)


def stamp(status: os.stat_result) -> tuple[int, int]:
    """What changes when a file is written again."""
    return status.st_size, status.st_mtime_ns


# Which archives


def find_archives(data: str, split: str | None) -> list[str]:
    """The archives of a file, folder or pattern, in natural order."""
    if re.match(r'pipe:|\w+://', data):
        raise DataError(f'{data}: is not on this machine; download the archives and give their folder')
    if os.path.isdir(data):
        folders = [data, *(os.path.join(data, name) for name in dict.fromkeys((*SPLITS, split or 'train')))]
        found = [e.path for f in folders if os.path.isdir(f) for e in os.scandir(f) if e.is_file()]
        found = [path for path in found if path.lower().endswith(ARCHIVES) and not basename(path).startswith('.')]
        if not found:
            raise FileNotFoundError(f'{data}: holds no .tar file; give a folder of archives, a .tar file or a pattern')
    elif os.path.exists(data):
        found = [data]
    else:
        found = []
        for path in expand(data):
            matches = [path] if os.path.exists(path) else glob.glob(path, recursive=True)
            matches = [match for match in matches if os.path.isfile(match)]
            if not matches:
                cause = 'no such archive' if path == data else f'{path} is missing'
                raise FileNotFoundError(
                    f'{data}: {cause}; give a .tar file, a folder of them or a pattern of their names'
                )
            found += matches
    return sorted(dict.fromkeys(found), key=natural)


def expand(pattern: str) -> list[str]:
    """The names that a pattern with braces stands for: `{a,b}`, or `{008..012}` with as many digits as its ends."""
    choices = []
    for text in re.split(r'(\{[^{}]*\})', pattern):
        ends = re.fullmatch(r'\{(\d+)\.\.(\d+)\}', text)
        if ends:
            width = max(map(len, ends.groups())) if any(end.startswith('0') for end in ends.groups()) else 0
            first, last = sorted(map(int, ends.groups()))
            choices.append([f'{number:0{width}d}' for number in range(first, last + 1)])
        else:
            choices.append(text[1:-1].split(',') if text.startswith('{') and ',' in text else [text])
    return [''.join(parts) for parts in product(*choices)]


def split_of(path: str, split: str | None) -> str:
    """The split that the name of an archive or of its folder tells, or ''."""
    stem, folder = os.path.basename(path).lower(), os.path.basename(os.path.dirname(os.path.abspath(path)))
    known = (split, *SPLITS) if split else SPLITS
    words = (name for name in known if re.search(rf'(?<![a-z]){re.escape(name)}(?![a-z])', stem))
    return next(words, folder if folder in known else '')


def choose_split(there: set[str], split: str | None, where: str) -> str | None:
    """The split to take, by the name it has there; None for all, because no split is told apart."""
    for name in SYNONYMS.get(split or 'validation', (split,)):
        if name in there:
            return name
    if split is None or there == {''}:
        return None
    names = ', '.join(sorted(there - {''}))
    raise FileNotFoundError(f'{where}: has no split {split!r}; there: {names}; give one of these, or other archives')


# What is in an archive


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


Sample = tuple[str, Place, Label, str]  # name, place, label, split whose folder it lies in or ''
Classes = tuple[list[str], str]  # class names, and where they come from


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
