"""Images inside tar archives, read where they lie: WebDataset shards, or class folders that were packed as they are.

A WebDataset sample is what shares a name up to the first dot: `0001.jpg` with `0001.cls` (a class number or name) or
`0001.json` (with 'label' or 'class'). All that follows the first dot must be an image extension, so that `0001.seg.png`
is no image. In an archive without such labels, the class is the folder: the one right below train/, validation/, val/
or test/, else the image's own; dots mean nothing there.
"""

import glob
import os
import re
import threading
from array import array
from collections.abc import Sequence
from itertools import product

import numpy as np

from jeffnet.data.folder import SYNONYMS, natural
from jeffnet.data.source import DataError
from jeffnet.data.tar_index import SPLITS, class_file, index, number_labels

ARCHIVES = ('.tar', '.tar.gz', '.tgz', '.tar.bz2', '.tar.xz', '.tar.zst')  # the compressed ones: to say what is wrong
MAX_OPEN = 256  # archives kept open by a process: the usual limit is 1024 files, and ImageNet may have 1024 shards


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


def find_archives(data: str, split: str | None) -> list[str]:
    """The archives of a file, folder or pattern, in natural order."""
    if re.match(r'pipe:|\w+://', data):
        raise DataError(f'{data}: is not on this machine; download the archives and give their folder')
    if os.path.isdir(data):
        folders = [data, *(os.path.join(data, name) for name in dict.fromkeys((*SPLITS, split or 'train')))]
        found = [e.path for f in folders if os.path.isdir(f) for e in os.scandir(f) if e.is_file()]
        found = [
            path for path in found if path.lower().endswith(ARCHIVES) and not os.path.basename(path).startswith('.')
        ]
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
