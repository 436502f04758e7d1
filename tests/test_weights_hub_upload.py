"""Uploads to the hub: what comes back, and what cannot be."""

import json
import time

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import load_file

import jeffnet
from benchmarks import torch_reference
from jeffnet.weights import hub
from tests.hub_repository import DEPRECATED, FILE, NET, add
from tests.hub_server import TOKEN, Fault


@pytest.fixture
def checkpoint(tmp_path):
    """A folder as a checkpoint is: real weights of a tiny network, a configuration, a page."""
    folder = tmp_path / 'checkpoint'
    folder.mkdir()
    torch_reference.save_weights(torch_reference.reference('pt_mnasnet_small'), folder / FILE)
    (folder / 'config.json').write_text(json.dumps({'architecture': 'mnasnet_small'}))
    (folder / 'README.md').write_text('---\nlicense: apache-2.0\n---\nA network.\n')
    return folder


@DEPRECATED
def test_an_uploaded_folder_comes_back(server, cache, checkpoint, monkeypatch):
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    url = hub.upload(checkpoint, 'owner/mine', message='A first state')
    repository = server.repositories['owner/mine']
    commit = repository.branches['main']
    assert url == f'{server.url}/owner/mine/commit/{commit}' and not repository.private
    (sent,) = server.asked('POST', '/commit/main')
    lines = [json.loads(line) for line in sent.body.splitlines()]
    assert lines[0]['value']['summary'] == 'A first state'
    assert {line['value'].get('path'): line['key'] for line in lines[1:]} == {
        'README.md': 'file', 'config.json': 'file', FILE: 'lfsFile'
    }  # fmt: skip
    assert f'jeffnet/{jeffnet.__version__}' in sent.headers['user-agent']
    folder = hub.folder('hf-hub:owner/mine')
    assert folder.name == commit
    assert (folder / 'config.json').read_bytes() == (checkpoint / 'config.json').read_bytes()
    there, here = load_file(folder / FILE), load_file(checkpoint / FILE)
    assert there.keys() == here.keys() and all(np.array_equal(there[name], here[name]) for name in here)
    (checkpoint / 'config.json').write_text('{"architecture": "other"}')
    assert hub.upload(checkpoint, 'owner/mine', message='A second state') != url
    assert len(server.asked('PUT')) == 1  # the weights were there
    assert 'other' in (hub.folder('hf-hub:owner/mine') / 'config.json').read_text()
    assert hub.folder(f'hf-hub:owner/mine@{commit}') == folder


@DEPRECATED
def test_an_upload_to_a_private_repository_and_to_a_branch(server, cache, checkpoint, monkeypatch):
    hub.upload(checkpoint, 'owner/mine', token=TOKEN, private=True, message='m')
    assert server.repositories['owner/mine'].private
    server.repositories['owner/mine'].branches['trial'] = server.repositories['owner/mine'].branches['main']
    (checkpoint / 'config.json').write_text('{}')
    hub.upload(checkpoint, 'owner/mine', token=TOKEN, private=True, revision='trial', message='m')
    with pytest.raises(FileNotFoundError, match='HF_TOKEN'):
        hub.folder('hf-hub:owner/mine')
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    assert (hub.folder('hf-hub:owner/mine@trial') / 'config.json').read_text() == '{}'
    assert (hub.folder('hf-hub:owner/mine') / 'config.json').read_text() != '{}'


@DEPRECATED
def test_an_upload_that_cannot_be(server, cache, checkpoint, monkeypatch):
    add(server)

    def fails(kind, text, folder=checkpoint, repo=NET, token=TOKEN, **options):
        with pytest.raises(kind, match=text) as caught:
            hub.upload(folder, repo, token=token, message='m', **options)
        assert '\n' not in str(caught.value)
        assert isinstance(caught.value, ConnectionError) == (kind is ConnectionError)

    fails(PermissionError, '^upload to owner/new: .*401.*hf auth login.*HF_TOKEN', repo='owner/new', token=None)
    fails(PermissionError, '401.*hf auth login', repo='owner/new', token='hf_wrong')
    fails(ValueError, "'net': expected owner/repo", repo='net')
    fails(ValueError, "'a--b/c'", repo='a--b/c')
    fails(FileNotFoundError, 'nowhere is no folder', folder=checkpoint / 'nowhere')
    fails(FileNotFoundError, 'no such branch', revision='v9')
    fails(ValueError, 'owner/net: the repository exists and is public', private=True)
    server.faults['/commit/main'] = Fault(status=400, headers={'X-Error-Message': 'no such licence'}, methods=('POST',))
    fails(ValueError, r'the hub refuses the request \(no such licence\)')
    for fault, text in [
        (Fault(stall=-1, methods=('POST',)), r'is silent.*HF_HUB_DOWNLOAD_TIMEOUT \(0\.1 s\)'),
        (Fault(cut=-1, methods=('POST',)), 'the connection broke off'),
        (Fault(status=500, methods=('POST',)), r'answers with an error \(500\)'),
    ]:
        for path in ('/repos/create', '/preupload/main', '/commit/main'):
            server.faults = {path: fault}
            monkeypatch.setattr(hub, 'UPLOAD_PATIENCE', 1)
            before = time.monotonic()
            fails(ConnectionError, f'^upload to owner/net: .*{text}')
            assert time.monotonic() - before < 3
    assert huggingface_hub.get_session().timeout.read is None  # as the library had it
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    fails(ConnectionError, '^upload to owner/net: HF_HUB_OFFLINE is set; unset it$')
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    server.close()
    fails(ConnectionError, 'no connection to .*refused')
    assert set(server.repositories) == {NET} and len(server.repositories[NET].commits) == 1
