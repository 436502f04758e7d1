"""The Hugging Face hub: files of a repository into the hub library's cache, folders into repositories.

The library's own settings hold: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HUB_ETAG_TIMEOUT,
HF_HUB_DOWNLOAD_TIMEOUT, HF_HUB_DISABLE_PROGRESS_BARS. Whatever goes wrong ends in one error of these kinds:

- ConnectionError: the hub or the way to it fails; calling again may help. DamagedFile is one.
- FileNotFoundError, PermissionError, ValueError: the caller names or lacks something. MissingFile is one.
- OSError otherwise: the disk.
"""

import hashlib
import logging
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import jeffnet

REPO = r'[\w.-]+/[\w.-]+'
SOURCE = re.compile(rf'hf-hub:(?P<repo>{REPO})(?:@(?P<revision>[^\s@]+))?')
COMMIT = re.compile(r'[0-9a-f]{40}')
SHA256 = re.compile(r'[0-9a-f]{64}')
CONFIG = 'config.json'
WEIGHTS = ('model.safetensors', 'pytorch_model.bin')  # the first that a repository has
UPLOAD_PATIENCE = 6  # times HF_HUB_DOWNLOAD_TIMEOUT: the hub takes its time over a commit
LOG_IN = 'log in with `hf auth login` or set HF_TOKEN'
ELSEWHERE = 'fetch it where there is a connection and pass weights=<path>, or bring a filled cache and set HF_HOME'

log = logging.getLogger('jeffnet')


class MissingFile(FileNotFoundError):
    """The repository has no file of this name; `commit` is the state of the repository that says so, if known."""

    def __init__(self, message: str, commit: str | None = None):
        super().__init__(message)
        self.commit = commit


class DamagedFile(ConnectionError):
    """A file is not what its checksum says; it has been taken out of the cache."""


def is_hub(source: object) -> bool:
    """Whether this names a repository of the hub, well or badly."""
    return isinstance(source, str) and source.startswith('hf-hub:')


def parse(source: str) -> tuple[str, str | None]:
    """The repository and the revision of `hf-hub:owner/repo[@revision]`; ValueError for any other text."""
    match = SOURCE.fullmatch(source)
    if not match:
        raise ValueError(f'{source!r}: expected hf-hub:owner/repo or hf-hub:owner/repo@revision')
    return match['repo'], match['revision']


def folder(source: str) -> Path:
    """The cached folder with the weights of `hf-hub:owner/repo[@revision]` and, if there is one, its config.json.

    Both are of one commit. Raises MissingFile if the repository has no weights, else as `fetch`.
    """
    repo, revision = parse(source)
    with _branch_kept(repo, revision):
        try:
            commit = fetch(repo, CONFIG, revision).parent.name
        except MissingFile as missing:
            commit = missing.commit or revision
        for name in WEIGHTS:
            with suppress(MissingFile):
                return fetch(repo, name, commit).parent
    raise MissingFile(f'{repo} holds no weights: none of {", ".join(WEIGHTS)}', commit)


def fetch(repo: str, filename: str, revision: str | None = None) -> Path:
    """One file of a repository, in the cache; what is there already is used if it is current or the hub is away.

    Raises the errors above: MissingFile if the repository has no such file, DamagedFile for a wrong checksum.
    """
    what = f'{filename} of {repo}' + (f'@{revision}' if revision else '')
    with _branch_kept(repo, revision), _explained(what, download=True):
        path = _find(repo, filename, revision, what)
        _check(path, what)
    return path


def upload(
    folder: Path,
    repo: str,
    *,
    token: str | None = None,
    private: bool = False,
    revision: str | None = None,
    message: str,
) -> str:
    """Commits the files of a folder to a branch of a repository, made if need be; returns the commit's address.

    Raises the errors above, and ValueError rather than adding to a public repository with `private=True`.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder} is no folder: nothing to upload')
    if not re.fullmatch(REPO, repo):
        raise ValueError(f'{repo!r}: expected owner/repo')
    api = HfApi(token=token, library_name='jeffnet', library_version=jeffnet.__version__)
    with _explained(f'upload to {repo}', download=False), _time_limit():
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise ValueError('the repository exists and is public; make it private on its page, or take another name')
        done = api.upload_folder(repo_id=repo, folder_path=folder, revision=revision, commit_message=message)
    return done.commit_url


def _find(repo: str, filename: str, revision: str | None, what: str) -> Path:
    """The file in the cache, downloaded if it is not there or not current."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repo, filename, revision=revision)  # a path, a mark "not in the repository", None
    held = _text(_branch(repo, revision))
    if cached is None or not (constants.HF_HUB_OFFLINE or COMMIT.fullmatch(revision or '')):
        try:
            current = _ask(repo, filename, revision)
        except Exception as error:  # no answer: what is in the cache will do
            if cached is None:
                raise
            log.warning('%s: %s; what is in the cache is used', what, _silence(error))
        else:
            if not isinstance(cached, str) or current != held:
                cached = hf_hub_download(
                    repo, filename, revision=revision, library_name='jeffnet', library_version=jeffnet.__version__
                )
    if not isinstance(cached, str):
        raise MissingFile(f'{what}: the repository has no file of this name', held or revision)
    return Path(cached)


def _ask(repo: str, filename: str, revision: str | None) -> str | None:
    """The commit that the hub gives for a revision; None if it answers with an error, which the download explains.

    Left to itself, hf_hub_download waits six times a minute for a silent server, whatever HF_HUB_ETAG_TIMEOUT says.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    with suppress(HfHubHTTPError):
        return get_hf_file_metadata(
            hf_hub_url(repo, filename, revision=revision),
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
            library_name='jeffnet',
            library_version=jeffnet.__version__,
        ).commit_hash
    return None


def _check(path: Path, what: str) -> None:
    """Compares a large file with its sha256, by which the cache names it, and takes it out if they differ.

    Small files have no such name, nor has any file in a cache without symbolic links.
    """
    target = path.parent / path.readlink() if path.is_symlink() else path
    if not SHA256.fullmatch(target.name):
        return
    blob = target.parent.resolve() / target.name  # not resolved itself: it may be a link to a file of another name
    with path.open('rb') as file:
        found = hashlib.file_digest(file, 'sha256').hexdigest()
    if found == blob.name:
        return
    raise DamagedFile(f'{what} is damaged: its sha256 is {found}, not {blob.name}. {_take_out(path, blob)}')


def _take_out(path: Path, blob: Path) -> str:
    """Removes a file and what it points at from the cache; what was done, and what to do."""
    from huggingface_hub import constants

    files = [blob, path]
    kept = blob.resolve()  # in the store that all repositories share, if the blob is a link
    if kept.is_relative_to(Path(constants.HF_HUB_CACHE).resolve()):
        files.insert(0, kept)
    try:
        for file in files:
            file.unlink(missing_ok=True)
    except OSError as error:
        return f'It cannot be taken out of the cache ({error.strerror}); remove {blob} and call again'
    again = 'unset HF_HUB_OFFLINE and call again' if constants.HF_HUB_OFFLINE else 'call again'
    return f'It has been taken out of the cache; {again} to fetch it anew'


def _branch(repo: str, revision: str | None) -> Path:
    """The file in which the cache keeps the commit of a branch or tag."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, f'models--{repo.replace("/", "--")}', 'refs', revision or 'main')


def _text(file: Path) -> str | None:
    """What a file says, None if there is none."""
    with suppress(OSError):
        return file.read_text()
    return None


@contextmanager
def _branch_kept(repo: str, revision: str | None) -> Iterator[None]:
    """Lets a branch go on naming the commit the cache holds if a newer one could not be had whole.

    The hub library moves it before the download; offline, the older files would then be out of reach.
    """
    branch = _branch(repo, revision)
    before = _text(branch)
    try:
        yield
    except MissingFile:
        raise
    except BaseException:  # an interrupt as well
        if before is not None and _text(branch) != before:
            with suppress(OSError):
                new = branch.with_name(f'{branch.name}.{uuid.uuid4().hex}')
                new.write_text(before)
                new.replace(branch)
        raise


@contextmanager
def _time_limit() -> Iterator[None]:
    """Ends requests the hub does not answer: of its own, the library waits for ever in an upload."""
    from huggingface_hub import constants, get_session

    client = get_session()
    before = client.timeout
    client.timeout = UPLOAD_PATIENCE * constants.HF_HUB_DOWNLOAD_TIMEOUT
    try:
        yield
    finally:
        client.timeout = before


@contextmanager
def _explained(what: str, *, download: bool) -> Iterator[None]:
    """Turns the dozens of errors of the hub library and of those below it into ours."""
    try:
        yield
    except (MissingFile, DamagedFile):
        raise
    except Exception as error:
        raise _explanation(error, what, download) from error


def _explanation(error: BaseException, what: str, download: bool) -> Exception:
    """Our error for one of the hub library's."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    while isinstance(error, LocalEntryNotFoundError | RuntimeError) and error.__cause__:
        error = error.__cause__
    if isinstance(error, HfHubHTTPError):
        return _refusal(error, what)
    if isinstance(error, ValueError):
        return ValueError(f'{what}: {_line(error)}')
    if _is(error, 'UnsupportedProtocol', 'InvalidURL'):
        return ValueError(f'{what}: HF_ENDPOINT is no address of the form https://host ({_line(error)})')
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
        kind = PermissionError if isinstance(error, PermissionError) else OSError
        return kind(f'{what}: {_disk(error, download)}')
    text = f'{what}: {_silence(error)}'
    if download:
        text += f'. It is not in the cache {constants.HF_HUB_CACHE}: {ELSEWHERE}'
    return ConnectionError(text)


def _refusal(error, what: str) -> Exception:
    """Our error for an answer of the hub that is none."""
    from huggingface_hub import errors

    status = error.response.status_code
    if isinstance(error, errors.RemoteEntryNotFoundError):
        commit = error.response.headers.get('X-Repo-Commit')
        return MissingFile(f'{what}: the repository has no file of this name', commit)
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError(f'{what}: the repository has no such branch, tag or commit')
    if isinstance(error, errors.GatedRepoError):
        return PermissionError(f'{what}: access must be asked for on the page of the repository; then {LOG_IN}')
    if isinstance(error, errors.RepositoryNotFoundError):
        return FileNotFoundError(f'{what}: no such repository, or a private one; check the name, or {LOG_IN}')
    if status in (401, 403):
        return PermissionError(f'{what}: the hub refuses access ({status}); {LOG_IN}, with a token that may do this')
    if status == 400:
        reason = ' '.join((error.server_message or _line(error)).split())
        return ValueError(f'{what}: the hub refuses the request ({reason})')
    from huggingface_hub import constants

    again = 'wait and call again' if status >= 500 or status in (408, 429) else 'check HF_ENDPOINT'
    return ConnectionError(f'{what}: {constants.ENDPOINT} answers with an error ({status}); {again}')


def _silence(error: BaseException) -> str:
    """Why no answer, or no whole answer, came from the hub, and what to do."""
    from huggingface_hub import constants

    cause = _line(error)
    if _is(error, 'OfflineModeIsEnabled'):
        return 'HF_HUB_OFFLINE is set; unset it'
    if _is(error, 'TimeoutException'):
        return (
            f'{constants.ENDPOINT} is silent; on a slow line raise HF_HUB_ETAG_TIMEOUT '
            f'({constants.HF_HUB_ETAG_TIMEOUT} s) and HF_HUB_DOWNLOAD_TIMEOUT ({constants.HF_HUB_DOWNLOAD_TIMEOUT} s)'
        )
    if _is(error, 'ProxyError'):
        return f'the proxy fails ({cause}); check HTTPS_PROXY and HTTP_PROXY'
    if _is(error, 'ConnectError'):
        return f'no connection to {constants.ENDPOINT} ({cause}); check the network and HF_ENDPOINT'
    if _is(error, 'FileMetadataError'):
        return f'{constants.ENDPOINT} does not answer as a hub does; check HF_ENDPOINT and the proxy'
    if _is(error, 'TransportError'):
        return f'the connection broke off ({cause}); call again'
    if sizes := re.search(r'of size (\d+) but has size (\d+)', cause):
        return f'{sizes[2]} bytes arrived where {sizes[1]} were announced; call again'
    if 'xet' in cause:
        return f'the xet storage fails ({cause}); HF_HUB_DISABLE_XET=1 goes without it'
    return f'{type(error).__name__} ({cause})'


def _disk(error: OSError, download: bool) -> str:
    """What the disk refuses, and what to do."""
    from huggingface_hub import constants

    text = f'{error.strerror} ({error.filename})' if error.filename else str(error.strerror)
    if not download:
        return text
    return (
        f'{text}. The hub cache is {constants.HF_HUB_CACHE}; set HF_HOME to a folder that can be written and has '
        'room, or HF_HUB_OFFLINE=1 to use what is there'
    )


def _is(error: BaseException, *names: str) -> bool:
    """Whether an error is of a class so named: the hub library is built on httpx or on httpx2, by its version."""
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _line(error: BaseException) -> str:
    """The first line of an error's text, or its kind."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()
