"""The hub: whole files or one clear error, from a real server on this machine."""

import errno
import hashlib
import logging
import os
import time
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

import jeffnet
from jeffnet.weights import hub
from tests.hub_repository import FILE, NET, SOURCE, WEIGHTS, add, blobs, files
from tests.hub_server import TOKEN, Fault


@pytest.mark.parametrize(
    ('source', 'parsed'),
    [
        ('hf-hub:owner/net', ('owner/net', None)),
        ('hf-hub:timm/mnasnet_small.lamb_in1k@main', ('timm/mnasnet_small.lamb_in1k', 'main')),
        ('hf-hub:owner/net@refs/pr/4', ('owner/net', 'refs/pr/4')),
        (f'hf-hub:owner/net@{"a" * 40}', ('owner/net', 'a' * 40)),
    ],
)
def test_sources(source, parsed):
    assert hub.parse(source) == parsed and hub.is_hub(source)


@pytest.mark.parametrize(
    'source',
    [
        'hf-hub:net',
        'hf-hub:',
        'hf-hub:a/b/c',
        'hf-hub:a/b@',
        'hf-hub:a/b@c d',
        'hf-hub:a b/c',
        'owner/net',
        ' hf-hub:a/b',
    ],
)
def test_sources_that_are_none(source):
    with pytest.raises(ValueError) as caught:
        hub.parse(source)
    assert repr(source) in str(caught.value) and 'hf-hub:owner/repo@revision' in str(caught.value)
    assert not hub.is_hub(Path('model.safetensors'))


def test_a_file_is_downloaded_once_and_then_only_asked_for(server, cache):
    commit = add(server)
    path = hub.fetch(NET, FILE)
    assert path.read_bytes() == WEIGHTS and path.parent.name == commit
    (get,) = server.asked('GET', FILE)
    assert f'jeffnet/{jeffnet.__version__}' in get.headers['user-agent']
    assert all(f'jeffnet/{jeffnet.__version__}' in r.headers['user-agent'] for r in server.requests)
    server.requests.clear()
    assert hub.fetch(NET, FILE) == path
    assert [r.method for r in server.requests] == ['HEAD']
    server.requests.clear()
    assert hub.fetch(NET, FILE, commit) == path and not server.requests  # a commit never changes
    assert hub.fetch(NET, 'config.json').read_text() == '{"a": 1}'


def test_a_branch_is_followed_and_a_commit_stays(server, cache):
    first = add(server)
    assert hub.fetch(NET, FILE).read_bytes() == WEIGHTS
    second = add(server, weights=b'newer')
    add(server, weights=b'aside', branch='refs/pr/1')
    assert hub.fetch(NET, FILE).read_bytes() == b'newer'
    assert hub.fetch(NET, FILE, first).read_bytes() == WEIGHTS
    assert hub.fetch(NET, FILE, second).read_bytes() == b'newer'
    assert hub.fetch(NET, FILE, 'refs/pr/1').read_bytes() == b'aside'


FAULTS = {
    'cut in the middle': (
        Fault(cut=1000),
        'the connection broke off .*received 1000 bytes, expected 20000.*call again',
    ),
    'reset in the middle': (Fault(cut=1000, reset=True), 'the connection broke off .*reset by peer'),
    'closed without an answer': (Fault(cut=-1), 'the connection broke off'),
    'closed at first contact': (Fault(cut=-1, methods=('HEAD',)), 'the connection broke off'),
    'reset at first contact': (Fault(cut=-1, reset=True, methods=('HEAD',)), 'the connection broke off'),
    'silent in the middle': (Fault(stall=1000), r'is silent.*HF_HUB_DOWNLOAD_TIMEOUT \(0\.1 s\)'),
    'silent before the file': (Fault(stall=-1), 'is silent.*HF_HUB_DOWNLOAD_TIMEOUT'),
    'silent at first contact': (Fault(stall=-1, methods=('HEAD',)), r'is silent.*HF_HUB_ETAG_TIMEOUT \(0\.3 s\)'),
    'too short': (Fault(data=WEIGHTS[:4000]), '4000 bytes arrived where 20000 were announced'),
    'too long': (Fault(size=40, methods=('HEAD',)), '20000 bytes arrived where 40 were announced'),
    'server error': (Fault(status=500, methods=('HEAD',)), r'answers with an error \(500\); wait and call again'),
    'server error for the file': (Fault(status=503), r'answers with an error \(503\); wait'),
    'too many requests': (Fault(status=429, methods=('HEAD',)), r'answers with an error \(429\); wait'),
    'no path of a hub': (Fault(status=404, methods=('HEAD',)), r'answers with an error \(404\); check HF_ENDPOINT'),
    'no hub at all': (Fault(status=200, methods=('HEAD',)), 'does not answer as a hub does; check HF_ENDPOINT'),
}


@pytest.mark.parametrize('name', FAULTS)
def test_a_failed_download_is_one_error_leaves_nothing_and_can_be_repeated(name, server, cache):
    commit = add(server)
    fault, text = FAULTS[name]
    server.faults[FILE] = fault
    other = cache / 'models--owner--net' / 'blobs' / f'{hashlib.sha256(WEIGHTS).hexdigest()}.0123abcd.incomplete'
    other.parent.mkdir(parents=True)
    other.write_bytes(b'of another process')
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=rf'^model\.safetensors of owner/net: .*{text}') as caught:
        hub.fetch(NET, FILE)
    assert time.monotonic() - start < 5
    assert '\n' not in str(caught.value)
    assert set(files(cache)) - {'models--owner--net/refs/main'} == {str(other.relative_to(cache))}
    server.faults.clear()
    path = hub.fetch(NET, FILE)
    assert path.read_bytes() == WEIGHTS and path.parent.name == commit


def test_a_silent_hub_is_given_up_after_the_times_set(server, cache, monkeypatch):
    """One time HF_HUB_ETAG_TIMEOUT at first contact, six times HF_HUB_DOWNLOAD_TIMEOUT in the download."""
    add(server)
    monkeypatch.setattr(constants, 'HF_HUB_DOWNLOAD_TIMEOUT', 0.2)
    for fault, requests, least, most in [
        (Fault(stall=-1, methods=('HEAD',)), 1, 0.3, 3),
        (Fault(stall=1000), 2 + 6, 1.2, 6),
    ]:
        server.faults[FILE] = fault
        server.requests.clear()
        start = time.monotonic()
        with pytest.raises(ConnectionError, match='is silent'):
            hub.fetch(NET, FILE)
        assert least <= time.monotonic() - start < most
        assert len(server.asked('HEAD', FILE) + server.asked('GET', FILE)) == requests


@pytest.mark.parametrize('unranged', [False, True])
def test_a_cut_download_goes_on_where_it_stopped(unranged, server, cache, monkeypatch):
    add(server)
    monkeypatch.setattr(constants, 'DOWNLOAD_CHUNK_SIZE', 1000)
    server.faults = {FILE: Fault(cut=3500, times=1), 'net/resolve/main/' + FILE: Fault(unranged=unranged)}
    assert hub.fetch(NET, FILE).read_bytes() == WEIGHTS
    assert [r.headers.get('range') for r in server.asked('GET', FILE)] == [None, 'bytes=3000-']


def test_answers_that_the_caller_must_mend(server, cache, monkeypatch):
    commit = add(server)
    add(server, 'owner/private', private=True)
    add(server, 'owner/gated', gated=True)

    def fails(kind, text, *arguments):
        with pytest.raises(kind, match=text) as caught:
            hub.fetch(*arguments)
        assert not isinstance(caught.value, ConnectionError) and '\n' not in str(caught.value)
        return caught.value

    missing = fails(hub.MissingFile, r'^other\.bin of owner/net: .*no file of this name', NET, 'other.bin')
    assert isinstance(missing, FileNotFoundError) and missing.commit == commit
    for repo in ('owner/none', 'owner/private'):
        error = fails(FileNotFoundError, rf'of {repo}: no such repository, or a private one.*HF_TOKEN', repo, FILE)
        assert type(error) is FileNotFoundError
    error = fails(FileNotFoundError, 'of owner/net@v9: .*no such branch, tag or commit', NET, FILE, 'v9')
    assert type(error) is FileNotFoundError
    fails(PermissionError, 'of owner/gated: access must be asked for.*hf auth login.*HF_TOKEN', 'owner/gated', FILE)
    fails(ValueError, r"of a--b/c: .*'a--b/c'", 'a--b/c', FILE)
    fails(ValueError, r'^\.\./x of owner/net: ', NET, '../x')
    monkeypatch.setenv('HF_TOKEN', 'hf_wrong')
    fails(PermissionError, r'refuses access \(401\).*HF_TOKEN', NET, FILE)
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    fails(PermissionError, 'access must be asked for', 'owner/gated', FILE)
    fails(FileNotFoundError, 'no such repository', 'owner/none', FILE)
    server.faults[FILE] = Fault(status=403, methods=('HEAD',))
    fails(PermissionError, r'refuses access \(403\)', NET, FILE)
    server.faults.clear()
    assert hub.fetch('owner/private', FILE).read_bytes() == WEIGHTS
    for endpoint in ('localhost', 'ftp://localhost'):
        template = endpoint + '/{repo_id}/resolve/{revision}/{filename}'
        monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
        fails(ValueError, 'HF_ENDPOINT is no address of the form https://host', NET, FILE)


def test_no_connection_or_offline_and_not_cached(server, cache, monkeypatch):
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    text = rf'model\.safetensors of owner/net: HF_HUB_OFFLINE is set; unset it.*{cache}.*weights=<path>.*HF_HOME'
    with pytest.raises(ConnectionError, match=text):
        hub.fetch(NET, FILE)
    with pytest.raises(ConnectionError, match=r'^config\.json of owner/net: HF_HUB_OFFLINE is set'):
        hub.folder(SOURCE)
    assert not server.requests
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    server.close()
    with pytest.raises(ConnectionError, match=f'no connection to {server.url} .*refused.*HF_ENDPOINT.*weights=<path>'):
        hub.fetch(NET, FILE)


@pytest.mark.parametrize(
    'fault', [Fault(stall=-1, methods=('HEAD',)), Fault(cut=-1, reset=True, methods=('HEAD',)), None]
)
def test_what_is_cached_is_used_while_the_hub_is_away(fault, server, cache, caplog):
    add(server)
    server.add('owner/bare', {'pytorch_model.bin': WEIGHTS})
    path, folder, bare = hub.fetch(NET, FILE), hub.folder(SOURCE), hub.folder('hf-hub:owner/bare')
    assert not caplog.records
    if fault:
        server.faults = {FILE: fault, 'config.json': fault}
    else:
        server.close()
    assert hub.fetch(NET, FILE) == path
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and record.name == 'jeffnet'
    assert 'model.safetensors of owner/net' in record.message and 'in the cache is used' in record.message
    assert hub.folder(SOURCE) == folder and hub.folder('hf-hub:owner/bare') == bare


def test_a_server_error_does_not_keep_from_what_is_cached(server, cache):
    add(server)
    path = hub.fetch(NET, FILE)
    server.faults[FILE] = Fault(status=500, methods=('HEAD',))
    assert hub.fetch(NET, FILE) == path


@pytest.mark.parametrize('damage', ['changed', 'shortened', 'shared', 'elsewhere'])
@pytest.mark.parametrize('offline', [False, True])
def test_a_damaged_file_is_found_at_every_load_and_taken_out(damage, offline, server, cache, tmp_path, monkeypatch):
    commit = add(server)
    path = hub.fetch(NET, FILE)
    blob = path.resolve()
    # The library links a blob that came through xet to a store in the cache; somebody may link one to another disk.
    store = {'shared': cache / 'blobs' / 'ab' / ('ab' * 32), 'elsewhere': tmp_path / 'elsewhere'}.get(damage)
    if store:
        store.parent.mkdir(parents=True, exist_ok=True)
        blob.rename(store)
        blob.symlink_to(os.path.relpath(store, blob.parent))
        assert hub.fetch(NET, FILE) == path and path.resolve() == store
    data = bytearray(WEIGHTS)
    data[7] ^= 1
    path.resolve().write_bytes(data[:-1] if damage == 'shortened' else data)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', offline)
    again = 'unset HF_HUB_OFFLINE and call again' if offline else 'call again'
    text = rf'^model\.safetensors of owner/net\S* is damaged: its sha256 is .*taken out of the cache; {again}'
    with pytest.raises(hub.DamagedFile, match=text):
        hub.fetch(NET, FILE, commit if damage == 'changed' else None)
    assert issubclass(hub.DamagedFile, ConnectionError)
    assert files(cache) == ['models--owner--net/refs/main']
    assert damage != 'elsewhere' or store.exists()  # not ours to remove
    if offline:
        with pytest.raises(ConnectionError, match='not in the cache'):
            hub.fetch(NET, FILE)
        monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    assert hub.fetch(NET, FILE).read_bytes() == WEIGHTS


def test_a_damaged_file_that_cannot_be_taken_out(server, cache, monkeypatch):
    add(server)
    blob = hub.fetch(NET, FILE).resolve()
    blob.write_bytes(b'damaged')

    def refuse(self, missing_ok=False):
        raise PermissionError(errno.EACCES, 'Permission denied', str(self))

    monkeypatch.setattr(Path, 'unlink', refuse)
    with pytest.raises(hub.DamagedFile, match=f'cannot be taken out of the cache .*; remove {blob} and call again'):
        hub.fetch(NET, FILE)


def test_wrong_bytes_on_the_way_are_found(server, cache):
    add(server)
    server.faults[FILE] = Fault(data=os.urandom(len(WEIGHTS)))
    with pytest.raises(hub.DamagedFile, match=hashlib.sha256(WEIGHTS).hexdigest()):
        hub.fetch(NET, FILE)
    assert not blobs(cache)
    server.faults.clear()
    assert hub.fetch(NET, FILE).read_bytes() == WEIGHTS


def interrupt(url, file, **options):
    file.write(b'half')
    raise KeyboardInterrupt


@pytest.mark.parametrize('call', [lambda: hub.fetch(NET, FILE), lambda: hub.folder(SOURCE)], ids=['fetch', 'folder'])
@pytest.mark.parametrize('failure', ['cut', 'damaged', 'interrupted'])
def test_a_failed_update_leaves_the_older_files_usable_offline(failure, call, server, cache, monkeypatch):
    add(server)
    path, folder = hub.fetch(NET, FILE), hub.folder(SOURCE)
    server.add(NET, {FILE: b'newer'})  # with the same configuration, so that nothing but the weights is downloaded
    before = blobs(cache)
    with monkeypatch.context() as patch, pytest.raises((ConnectionError, KeyboardInterrupt)):
        if failure == 'interrupted':
            patch.setattr(huggingface_hub.file_download, 'http_get', interrupt)
        server.faults[FILE] = {'cut': Fault(cut=2), 'damaged': Fault(data=b'wrong')}.get(failure, Fault(times=0))
        call()
    assert blobs(cache) == before
    with monkeypatch.context() as patch:
        patch.setattr(constants, 'HF_HUB_OFFLINE', True)
        assert hub.fetch(NET, FILE) == path and hub.folder(SOURCE) == folder
    assert path.read_bytes() == WEIGHTS
    server.faults.clear()
    assert (hub.folder(SOURCE) / FILE).read_bytes() == b'newer'


@pytest.mark.parametrize(
    ('there', 'used'),
    [
        (['config.json', 'model.safetensors', 'pytorch_model.bin'], 'model.safetensors'),
        (['config.json', 'pytorch_model.bin'], 'pytorch_model.bin'),
        (['model.safetensors'], 'model.safetensors'),
        (['pytorch_model.bin'], 'pytorch_model.bin'),
    ],
)
def test_a_folder_holds_configuration_and_weights_also_offline(there, used, server, cache, monkeypatch):
    commit = server.add(NET, {name: name.encode() for name in there})
    server.add(NET, {'README.md': b'of a later commit'}, branch='aside')
    wanted = sorted({'config.json', used} & set(there))
    for source in (SOURCE, f'{SOURCE}@{commit}'):
        folder = hub.folder(source)
        assert sorted(p.name for p in folder.iterdir()) == wanted and folder.name == commit
        server.requests.clear()
        with monkeypatch.context() as patch:
            patch.setattr(constants, 'HF_HUB_OFFLINE', True)
            assert hub.folder(source) == folder
        assert not server.requests
    assert hub.folder(f'{SOURCE}@{commit}') == folder and not server.requests  # a commit never changes


def test_a_folder_without_weights(server, cache, monkeypatch):
    server.add(NET, {'config.json': b'{}'})
    for offline in (False, True):
        monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', offline)
        with pytest.raises(
            hub.MissingFile, match=r'owner/net holds no weights.*model\.safetensors, pytorch_model\.bin'
        ):
            hub.folder(SOURCE)


@pytest.mark.parametrize('config', [True, False])
def test_a_folder_is_of_one_commit_though_the_branch_moves_in_between(config, server, cache, monkeypatch):
    names = ['config.json', FILE] if config else [FILE]
    commit = server.add(NET, dict.fromkeys(names, b'first'))
    fetch = hub.fetch

    def fetch_and_move(repo, filename, revision=None):
        try:
            return fetch(repo, filename, revision)
        finally:
            server.add(NET, {'config.json': b'later', FILE: b'later'})

    monkeypatch.setattr(hub, 'fetch', fetch_and_move)
    folder = hub.folder(SOURCE)
    assert {p.name: p.read_text() for p in folder.iterdir()} == dict.fromkeys(names, 'first') and folder.name == commit


def test_a_folder_is_of_one_commit_though_the_hub_comes_back_in_between(server, cache):
    commit = server.add(NET, {FILE: b'first'})
    assert hub.folder(SOURCE).name == commit
    server.add(NET, {'config.json': b'later', FILE: b'later'})
    server.faults['config.json'] = Fault(cut=-1, methods=('HEAD',))
    assert hub.folder(SOURCE).name == commit


def test_a_file_that_a_later_commit_removes_is_gone_offline_too(server, cache, monkeypatch):
    add(server)
    hub.folder(SOURCE)
    server.repositories[NET].branches.clear()
    commit = server.add(NET, {FILE: WEIGHTS})
    folder = hub.folder(SOURCE)
    assert folder.name == commit and not (folder / 'config.json').exists()
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert hub.folder(SOURCE) == folder
    with pytest.raises(hub.MissingFile):
        hub.fetch(NET, 'config.json')


def test_a_cache_that_cannot_be_written(server, cache, monkeypatch, tmp_path):
    add(server)
    (tmp_path / 'file').write_text('in the way')
    with monkeypatch.context() as patch:
        patch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'file' / 'hub'))
        with pytest.raises(
            OSError, match=f'Not a directory.*The hub cache is {tmp_path}/file/hub; set HF_HOME'
        ) as caught:
            hub.fetch(NET, FILE)
        assert not isinstance(caught.value, ConnectionError)

    def refuse(path, *args, **kwargs):
        raise PermissionError(errno.EACCES, 'Permission denied', path)

    with monkeypatch.context() as patch:
        patch.setattr(os, 'makedirs', refuse)
        with pytest.raises(
            PermissionError, match=f'^model.*: Permission denied .*The hub cache is {cache}; set HF_HOME'
        ):
            hub.fetch(NET, FILE)
        with pytest.raises(PermissionError, match='HF_HUB_OFFLINE=1 to use what is there'):
            hub.folder(SOURCE)

    def fill(url, file, **kwargs):
        file.write(WEIGHTS[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.file_download, 'http_get', fill)
        with pytest.raises(OSError, match=r'No space left on device.*set HF_HOME .*has room') as caught:
            hub.fetch(NET, FILE)
        assert not isinstance(caught.value, ConnectionError)
    assert not blobs(cache)
    assert hub.fetch(NET, FILE).read_bytes() == WEIGHTS
