"""File formats: what is on disk into arrays by name, and whose names those are; never by unpickling.

| suffix | written by | read with |
|---|---|---|
| `.safetensors` | timm, jeffnet, the hub | safetensors |
| `.pth`, `.pt`, `.bin`, `.ckpt`, `.pth.tar` | PyTorch | torch, `weights_only=True` (`torch_file`) |
| `.npz` | the predecessor's zoo | NumPy, no pickles |
| `.h5`, `.weights.h5`, `.keras` | Keras | h5py (`keras_file`) |
| `.index` and `.data-...` | TensorFlow | TensorFlow (`tf_checkpoint`) |
"""

import hashlib
import json
import math
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  teaches NumPy the name bfloat16, which safetensors files may hold
import numpy as np

from jeffnet.weights import keras_file, tf_checkpoint
from jeffnet.weights.stored import StoredArray

TORCH_SUFFIXES = ('.pth', '.pt', '.bin', '.ckpt', '.tar')
SUFFIXES = ('.safetensors', *TORCH_SUFFIXES, '.npz', *keras_file.SUFFIXES)
AVERAGE = 'model_ema.safetensors'  # beside model.safetensors in a checkpoint folder, where a run averaged its weights
IN_FOLDER = ('model.safetensors', 'pytorch_model.bin', 'open_clip_model.safetensors')  # looked for in this order
WRAPPERS = ('module.', '_orig_mod.', 'timm_model.', 'model.')  # prefixes from DataParallel, torch.compile, ...
HASH = re.compile(r'-([0-9a-f]{8,64})\.npz')
DIGEST = 'jeffnet.sha256'  # the key of a file's metadata


@dataclass(frozen=True)
class WeightsFile:
    """The arrays of a file by the file's own names."""

    path: Path
    layout: str  # whose names and axes: 'jeffnet', 'pytorch', 'predecessor', 'tensorflow', 'keras', ...
    arrays: dict[str, StoredArray]
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, Any]:
        """What `save_weights` wrote about the model: its name, options, preprocessing; of other files nothing."""
        try:
            said = json.loads(self.metadata.get('jeffnet', '{}'))
            return {**said, 'options': dict(said.get('options', {}))} if said else {}
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f'the metadata of {self.path} are not as jeffnet writes them ({error})') from error


def read(path: Path, use_ema: bool = True) -> WeightsFile:
    """Opens a weights file, or the one in a folder; arrays are read later, one at a time (and see `check_values`).

    `use_ema` takes averaged weights where the file holds both. Raises FileNotFoundError for a missing file and
    ValueError for one that cannot be read, or that could run code if it were.
    """
    prefix = tf_checkpoint.find(path)
    if prefix is not None and not _usual(path):
        return WeightsFile(prefix, 'tensorflow', tf_checkpoint.read(prefix, use_ema))
    average = path / AVERAGE
    file = average if use_ema and average.is_file() else find(path)
    with file.open('rb') as opened:  # says plainly if it may not be read
        empty = not opened.read(1)
    if empty:
        raise ValueError(f'{file} is empty; fetch or write it again')
    if file.suffix == '.safetensors':
        return _read_safetensors(file)
    if file.suffix == '.npz':
        return WeightsFile(file, 'predecessor', _read_npz(file))
    if file.suffix.lower() in keras_file.SUFFIXES:
        return WeightsFile(file, *keras_file.read(file))
    from jeffnet.weights import torch_file

    return WeightsFile(file, 'pytorch', unwrapped(torch_file.read(file, use_ema)))


def holds_average(path: Path) -> bool:
    """Whether a weights file, or the one in a folder, holds averaged weights beside the raw ones."""
    prefix = tf_checkpoint.find(path)
    if prefix is not None and not _usual(path):
        return tf_checkpoint.holds_average(prefix)
    if (path / AVERAGE).is_file():
        return True
    file = find(path)
    if file.suffix not in TORCH_SUFFIXES:
        return False
    from jeffnet.weights import torch_file

    return torch_file.holds_average(file)


def find(path: Path) -> Path:
    """The weights file that a path names: itself, or the one in the folder."""
    if path.is_dir():
        file = weights_in(path)
        if file is None:
            names = ', '.join(sorted(p.name for p in path.iterdir())[:5]) or 'nothing'
            raise FileNotFoundError(
                f'{path} holds no model.safetensors nor any other single weights file (it holds {names}): '
                'give a checkpoint folder, or the file itself'
            )
        return file
    if not path.exists():
        raise FileNotFoundError(f'weights file {path} does not exist')
    if not path.is_file():
        raise ValueError(f'{path} is no ordinary file')
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f'{path}: cannot read {path.suffix or "this kind of"} files; give a file that ends in '
            f'{", ".join(SUFFIXES)}, a TensorFlow checkpoint (model.ckpt with model.ckpt.index beside it) or a folder'
        )
    return path


def weights_in(folder: Path) -> Path | None:
    """The weights file of a folder: one of the usual names, else the only one."""
    if not folder.is_dir():
        return None
    others = [p for p in sorted(folder.iterdir()) if p.suffix in SUFFIXES and p.is_file()]
    return _usual(folder) or (others[0] if len(others) == 1 else None)


def _usual(folder: Path) -> Path | None:
    """The weights file of a folder by one of the usual names."""
    return next((folder / name for name in IN_FOLDER if (folder / name).is_file()), None)


def unwrapped(arrays: Mapping[str, StoredArray]) -> dict[str, StoredArray]:
    """The arrays without the prefixes that wrappers put before every name."""
    found = dict(arrays)
    for _ in WRAPPERS:  # they nest, in any order
        for prefix in WRAPPERS:
            # A counter of the wrapper itself, such as n_averaged, stands outside.
            if found and all(name.startswith(prefix) or '.' not in name for name in found):
                shorter = {name.removeprefix(prefix): array for name, array in found.items()}
                found = shorter if len(shorter) == len(found) else found
    return found


def check_values(file: WeightsFile) -> None:
    """Raises ValueError if the values are not those that the file was written with, as far as it says."""
    if DIGEST in file.metadata and digest(file.arrays) != file.metadata[DIGEST]:
        raise ValueError(
            f'{file.path} is damaged: its values do not have the sha-256 that was written with them; fetch or write '
            'it again'
        )


def digest(arrays: Mapping[str, StoredArray]) -> str:
    """A sha-256 of names, types, shapes and values, whatever the order and place of the arrays in the file."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name].read(), order='C')
        total.update(f'{name} {array.dtype.name} {arrays[name].shape}\n'.encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def _read_safetensors(path: Path) -> WeightsFile:
    """Arrays by name; the library checks the header.

    Values are read, not mapped into memory as the library does: the pages of a map count as memory beside the arrays.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework='numpy') as checked:
            metadata = dict(checked.metadata() or {})
        with path.open('rb') as file:
            (size,) = struct.unpack('<Q', file.read(8))
            header = json.loads(file.read(size))
    except (SafetensorError, ValueError) as error:
        raise ValueError(f'{path} is not a complete safetensors file ({error}); fetch or write it again') from error
    header.pop('__metadata__', None)
    arrays = {name: _stored(path, name, 8 + size, entry) for name, entry in sorted(header.items())}
    if metadata.get('format') == 'jeffnet' or _is_flat(arrays):
        return WeightsFile(path, 'jeffnet', arrays, metadata)
    return WeightsFile(path, 'pytorch', unwrapped(arrays), metadata)


# How NumPy calls the types of safetensors; complex and sub-byte types are none of a network's.
TYPES = {
    'F64': 'float64', 'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16', 'I64': 'int64', 'I32': 'int32',
    'I16': 'int16', 'I8': 'int8', 'U64': 'uint64', 'U32': 'uint32', 'U16': 'uint16', 'U8': 'uint8', 'BOOL': 'bool',
    'F8_E4M3': 'float8_e4m3fn', 'F8_E5M2': 'float8_e5m2',
}  # fmt: skip


def _stored(path: Path, name: str, start: int, entry: dict) -> StoredArray:
    """An array by its entry in a header; `start` is where the values of the file begin."""
    if entry['dtype'] not in TYPES:
        raise ValueError(f'{path}: {name} holds {entry["dtype"]} values; jeffnet reads floating-point weights only')
    dtype, shape, (first, last) = np.dtype(TYPES[entry['dtype']]), tuple(entry['shape']), entry['data_offsets']

    def values() -> np.ndarray:
        found = np.fromfile(path, np.uint8, last - first, offset=start + first)
        if found.size != last - first:
            raise ValueError(f'{path} was cut while it was read; fetch or write it again')
        return found.view(dtype).reshape(shape)

    return StoredArray(shape, dtype, values)


def _is_flat(names: Collection[str]) -> bool:
    """Whether these are our flat names (`conv_stem.kernel`), not PyTorch's (`conv_stem.weight`)."""
    leaves = {name.rpartition('.')[2] for name in names}
    return 'kernel' in leaves and 'weight' not in leaves


def _read_npz(path: Path) -> dict[str, StoredArray]:
    """The arrays of the predecessor's format: `names`, and for the i-th of them the array `'i'`."""
    check_hash(path)
    try:
        archive = zipfile.ZipFile(path)
        if 'names.npy' not in archive.namelist():
            raise ValueError("it holds no array 'names', so it is none of the predecessor's weights files")
        names = [str(name) for name in _npz_array(path, archive, 'names', 'names').read()]
        known = {'names.npy', 'types.npy', *(f'{i}.npy' for i in range(len(names)))}
        odd = sorted(set(archive.namelist()) - known)
        if odd:
            raise ValueError(f'it holds arrays without a name ({", ".join(odd[:3])})')
        if len(set(names)) < len(names):
            raise ValueError('it names an array twice')
        return {name: _npz_array(path, archive, str(i), name) for i, name in enumerate(names)}
    except NPZ_FAULTS as error:
        raise ValueError(f'cannot read {path}: {error}; fetch it again or give a .safetensors file') from error


# What zipfile and NumPy raise for damaged archives, and for headers of arrays that are no headers.
NPZ_FAULTS = (
    OSError, EOFError, MemoryError, ValueError, KeyError, TypeError, NotImplementedError, RuntimeError, SyntaxError,
    zlib.error, zipfile.BadZipFile, tokenize.TokenError,
)  # fmt: skip


def check_hash(path: Path) -> None:
    """Raises ValueError if the file's sha-256 does not begin as its name says (`pt_mnasnet_100-3580d9fc.npz`)."""
    match = HASH.search(path.name)
    if match:
        with path.open('rb') as file:
            found = hashlib.file_digest(file, 'sha256').hexdigest()
        if not found.startswith(match[1]):
            raise ValueError(
                f'{path} is damaged or another file: by its name its sha-256 begins with {match[1]}, but it begins '
                f'with {found[: len(match[1])]}; fetch it again'
            )


def _npz_array(path: Path, archive: zipfile.ZipFile, key: str, name: str) -> StoredArray:
    """An array of an archive by its header, checked against the size of its entry before anything is allocated."""
    if f'{key}.npy' not in archive.NameToInfo:
        raise ValueError(f"it names {name!r} but holds no array '{key}' for it")
    info = archive.getinfo(f'{key}.npy')
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
    if dtype.hasobject:
        raise ValueError(f'{name!r} holds Python objects, which could run code')
    if math.prod(shape) * dtype.itemsize > info.file_size:
        raise ValueError(f'{name!r} claims the shape {shape}, more than its {info.file_size} bytes hold')

    def values() -> np.ndarray:
        try:
            with archive.open(info) as file:
                return np.lib.format.read_array(file, allow_pickle=False)
        except NPZ_FAULTS as error:
            raise ValueError(f'cannot read {name!r} in {path}: {error}; fetch it again') from error

    return StoredArray(shape, dtype, values)
