"""Keras' published files: into the folder where Keras itself keeps them, checked by the checksum that Keras states."""

import hashlib
import http.client
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
SIGNATURE = b'\x89HDF\r\n\x1a\n'  # of HDF5


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
    if path.is_file() and not fault(path, info):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
    except OSError as error:
        reason = f'{path.parent} cannot be written ({error.strerror})'
        raise OSError(f'{reason}; set KERAS_HOME to another folder') from error
    os.close(handle)
    temporary = Path(name)
    try:
        download(address, temporary)
        if wrong := fault(temporary, info):
            raise ConnectionError(f'{address}: the file that came {wrong}; call again')
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # as any other file: the folder may be shared
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def fault(path: Path, info: ModelInfo) -> str | None:
    """What shows that a file is not the published one."""
    if info.checksum is None:  # a page that asks for a password, for example
        with path.open('rb') as file:
            return None if file.read(len(SIGNATURE)) == SIGNATURE else 'is no HDF5 file'
    found = checksum_of(path, info.checksum)
    return None if found == info.checksum else f'has the checksum {found}, not {info.checksum}'


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
    except (urllib.error.URLError, TimeoutError, http.client.HTTPException) as error:
        reason = getattr(error, 'reason', error) or type(error).__name__
        raise ConnectionError(f'{address}: no connection ({reason}); {ELSEWHERE}') from error


def checksum_of(path: Path, like: str | None) -> str:
    """The checksum of a file, of the kind that another one is."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256' if len(like or '') == 64 else 'md5').hexdigest()
