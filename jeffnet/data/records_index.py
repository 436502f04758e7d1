"""Where the records of TFRecord files lie and which labels they have, found without reading the images.

A record is a length (8 bytes), its checksum (4), a serialised tf.Example, and its checksum (4). The Example is a map
from feature names to values in protobuf's wire format, which is walked here from length to length.
"""

import hashlib
import json
import logging
import os
import struct
import tempfile
import zipfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from jeffnet.data.source import DataError
from jeffnet.machine import cache_folder

log = logging.getLogger(__name__)

LAYOUT = 1  # of the kept index; another number, and older ones are not read
KEPT_FROM = 10_000  # records; fewer are listed again in a second
THREADS = 16  # files read at a time: listing waits for the disk or the network
PIECE = 512  # bytes read at a time: the end of one record, and the next up to its image
CRC_AT, FRAME = 8, 12  # where the length's checksum stands, and where the Example begins
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf's wire types

Read = Callable[[int, int], bytes]  # offset, size -> as many bytes as there are


@dataclass(frozen=True)
class Keys:
    """The names of the features that hold the encoded image and its label."""

    image: str
    label: str


@dataclass(frozen=True)
class Index:
    """Records in the order of their files."""

    places: np.ndarray  # int64 [N, 2], offset and size of the Example in its file
    labels: np.ndarray  # int64 [N], as they are stored
    counts: np.ndarray  # int64 [number of files]


class Window:
    """Bytes by their place, read in pieces."""

    def __init__(self, read: Read, piece: int = PIECE):
        self.read, self.piece = read, piece
        self.start, self.held = 0, b''

    def at(self, place: int, size: int) -> bytes:
        """So many bytes, or fewer at the end."""
        begin = place - self.start
        if begin < 0 or begin + size > len(self.held):
            self.start, self.held, begin = place, self.read(place, max(size, self.piece)), 0
        return self.held[begin : begin + size]


Record = tuple[Window, int, int]  # where its bytes are read, their offset there, their size


class Files(Protocol):
    """Files of records, read in any order from several threads and processes."""

    paths: list[str]
    stamps: list[tuple[int, int]]  # size, and what changes when the file is written again

    def records(self, number: int) -> Iterator[Record]:
        """All records of a file, in order."""
        ...


# Protobuf's wire format. Damage gives ValueError.


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where it ends."""
    value = 0
    for position in range(at, min(at + 10, len(data))):
        byte = data[position]
        value |= (byte & 0x7F) << 7 * (position - at)
        if byte < 0x80:
            return value, position + 1
    raise ValueError('a number in it does not end')


def fields(window: Window, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(field number, start, stop) of the values of a message, without reading them."""
    while at < stop:
        head = window.at(at, min(20, stop - at))  # two numbers have at most 20 bytes
        tag, used = varint(head, 0)
        kind, start = tag & 7, at + used
        if kind == BYTES:
            size, used = varint(head, used)
            start, at = at + used, at + used + size
        elif kind == VARINT:
            at += varint(head, used)[1]
        elif kind in (FIXED64, FIXED32):
            at = start + (8 if kind == FIXED64 else 4)
        else:
            raise ValueError(f'it has a value of the unknown wire type {kind}')
        if at > stop:
            raise ValueError('a value in it reaches beyond its end')
        yield tag >> 3, start, at


def features(window: Window, at: int, stop: int) -> Iterator[tuple[str, int, int]]:
    """(name, start, stop) of the features of an Example, each a message with a list of values."""
    for number, start, limit in fields(window, at, stop):
        if number != 1:  # Example.features
            continue
        for entry, first, last in fields(window, start, limit):
            if entry != 1:  # Features.feature
                continue
            parts = {part: (begin, end) for part, begin, end in fields(window, first, last)}
            if 1 in parts and 2 in parts:
                begin, end = parts[1]
                yield window.at(begin, end - begin).decode('utf-8', 'replace'), *parts[2]


def bytes_value(window: Window, at: int, stop: int) -> tuple[int, int] | None:
    """The place of a feature's first value of bytes."""
    for kind, start, end in fields(window, at, stop):
        if kind == 1:  # Feature.bytes_list
            return next(((first, last) for number, first, last in fields(window, start, end) if number == 1), None)
    return None


def int_value(window: Window, at: int, stop: int) -> int | None:
    """A feature's first whole number."""
    for kind, start, end in fields(window, at, stop):
        if kind != 3 or start == end:  # Feature.int64_list
            continue
        _, first, last = next(fields(window, start, end))  # the number itself, or many of them packed
        if first < last:
            value = varint(window.at(first, min(10, last - first)), 0)[0]
            return value - (1 << 64) if value >> 63 else value
    return None


# The frames around it


def crc_table() -> list[int]:
    """Checksums (CRC-32C) of the 256 bytes."""
    table = list(range(256))
    for _ in range(8):
        table = [(crc >> 1) ^ (0x82F63B78 if crc & 1 else 0) for crc in table]
    return table


CRC_TABLE = crc_table()


def masked_crc(data: bytes) -> int:
    """The checksum that TFRecord files have of the eight bytes of a length; too slow here for whole images."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frames(window: Window, size: int, path: str) -> Iterator[tuple[int, int]]:
    """Offset and size of each record in a TFRecord file of so many bytes; DataError if it is none, or not whole."""
    place = 0
    while place < size:
        head = window.at(place, FRAME)
        whole = len(head) == FRAME
        length, crc = struct.unpack('<QI', head) if whole else (0, 0)
        if whole and crc != masked_crc(head[:CRC_AT]):
            cause = f'is damaged at byte {place}' if place else 'is no TFRecord file, or a compressed one'
            raise DataError(f'{path}: {cause}; copy it again, or write it anew without compression')
        if place + FRAME + length + 4 > size:
            raise DataError(f'{path}: is cut short, or no TFRecord file; copy it again')
        yield place + FRAME, length
        place += FRAME + length + 4


# The index


def record_label(window: Window, at: int, stop: int, keys: Keys) -> int:
    """The label of a record; ValueError if that or the image is missing."""
    label, image, found = None, None, []
    for name, start, end in features(window, at, stop):
        if name == keys.label:
            label = int_value(window, start, end)
        elif name == keys.image:
            image = bytes_value(window, start, end)
        found.append(name)
    for what, key, value in (('image', keys.image, image), ('label', keys.label, label)):
        if value is None:
            raise ValueError(f'it has no {what} {key!r}, but: {", ".join(sorted(found)) or "nothing"}')
    assert label is not None
    return label


def file_index(path: str, records: Iterable[Record], keys: Keys) -> tuple[array, array]:
    """Places (offset, size, offset, size, ...) and labels of the records in one file."""
    places, labels = array('q'), array('q')
    for window, offset, size in records:
        try:
            labels.append(record_label(window, offset, offset + size, keys))
        except ValueError as error:
            cause = f'is no tf.Example of an image and its label ({error})'
            raise DataError(f'{path}: record {len(labels)} {cause}; write the files anew') from None
        places.extend((offset, size))
    return places, labels


def index(files: Files, keys: Keys) -> Index:
    """The index of all files: the one kept from an earlier run if they have not changed, else a new one."""
    key = json.dumps([LAYOUT, keys.image, keys.label, *zip(map(absolute, files.paths), files.stamps, strict=True)])
    kept = cache_folder() / f'records-{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz'
    known = load_index(kept, files)
    if known is not None:
        return known

    def listed(number: int) -> tuple[array, array]:
        return file_index(files.paths[number], files.records(number), keys)

    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(listed, range(len(files.paths))))
    new = Index(
        joined([places for places, _ in parts]).reshape(-1, 2),
        joined([labels for _, labels in parts]),
        np.array([len(labels) for _, labels in parts], np.int64),
    )
    if len(new.labels) >= KEPT_FROM:
        save_index(kept, new)
    return new


def absolute(path: str) -> str:
    """A path that means the same from every folder."""
    return path if '://' in path else os.path.abspath(path)


def joined(parts: Sequence[array]) -> np.ndarray:
    """The numbers of all parts, int64."""
    return np.concatenate([np.empty(0, np.int64), *(np.array(part, np.int64) for part in parts)])


def load_index(path: Path, files: Files) -> Index | None:
    """A kept index; None if there is none, or a damaged one."""
    try:
        with open(path, 'rb') as file, np.load(file, allow_pickle=False) as held:
            known = Index(*(held[name].astype(np.int64) for name in ('places', 'labels', 'counts')))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    fits = len(known.counts) == len(files.paths) and known.counts.sum() == len(known.labels)
    return known if fits and known.places.shape == (len(known.labels), 2) else None


def save_index(path: Path, new: Index) -> None:
    """Keeps an index; whoever reads it meanwhile sees the old one or all of the new one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix='.part', delete=False) as file:
            try:
                np.savez(file, places=new.places, labels=new.labels, counts=new.counts)
                file.flush()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        log.warning('%s: the index of the records cannot be kept (%s); the next run lists them again', path, error)
