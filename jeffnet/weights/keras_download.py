"""Keras' published files: into the folder where Keras itself keeps them, checked by the checksum that Keras states."""

import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import jeffnet
from jeffnet.models.table import ModelInfo

HOST = 'https://storage.googleapis.com'
ELSEWHERE = 'fetch it where there is a connection and pass weights=<path>'
PATIENCE = 30  # seconds without a byte
PIECE = 2**20  # bytes


def folder() -> Path:
    """Keras' cache, which its KERAS_HOME moves."""
    return Path(os.environ.get('KERAS_HOME') or Path.home() / '.keras') / 'models'


def fetch(info: ModelInfo) -> Path:
    """The published file of a name, downloaded unless Keras or jeffnet did so before.

    KERAS_WEIGHTS_HOST stands in for the host of the address, for a mirror. Raises ConnectionError, FileNotFoundError
    or OSError, which say what to do; a file with a wrong checksum is not kept.
    """
    address = (info.weights or '').replace(HOST, os.environ.get('KERAS_WEIGHTS_HOST', HOST).rstrip('/'), 1)
    path = folder() / address.rpartition('/')[2]
    if path.is_file() and info.checksum in (None, checksum_of(path, info.checksum)):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
    os.close(handle)
    try:
        download(address, Path(temporary))
        found = checksum_of(Path(temporary), info.checksum)
        if info.checksum not in (None, found):
            raise ConnectionError(
                f'{address}: the file that came has the checksum {found}, not {info.checksum}; call again'
            )
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def download(address: str, path: Path) -> None:
    """Writes what lies at an address to a file."""
    request = urllib.request.Request(address, headers={'User-Agent': f'jeffnet {jeffnet.__version__}'})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer, path.open('wb') as file:
            announced = int(answer.headers.get('Content-Length') or -1)
            while piece := answer.read(PIECE):
                file.write(piece)
            if announced not in (-1, file.tell()):
                raise ConnectionError(f'{address}: {file.tell()} bytes came of {announced}; call again')
    except urllib.error.HTTPError as error:
        kind = FileNotFoundError if error.code == 404 else ConnectionError
        raise kind(f'{address}: the server answers with {error.code} ({error.reason}); {ELSEWHERE}') from error
    except (urllib.error.URLError, TimeoutError) as error:
        reason = getattr(error, 'reason', error)
        raise ConnectionError(f'{address}: no connection ({reason}); {ELSEWHERE}') from error


def checksum_of(path: Path, like: str | None) -> str:
    """The checksum of a file, of the kind that another one is."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256' if len(like or '') == 64 else 'md5').hexdigest()
