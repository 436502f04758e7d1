"""Keras' published files from a server on this machine: fetched once, checked, never kept damaged."""

import dataclasses
import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

import jeffnet
from jeffnet.weights import keras_command, keras_download

CONTENT = b'weights ' * 1000
INFO = dataclasses.replace(jeffnet.model_info('keras_resnet50'), checksum=hashlib.md5(CONTENT).hexdigest())


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The file as it lies on the server; Keras' cache is an empty folder."""
    path = tmp_path / 'server' / INFO.weights.removeprefix(f'{keras_download.HOST}/')
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    monkeypatch.setattr(SimpleHTTPRequestHandler, 'log_message', lambda *_: None)  # it writes to standard error
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / 'server')
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv('KERAS_WEIGHTS_HOST', f'http://127.0.0.1:{server.server_port}')
        monkeypatch.setenv('KERAS_HOME', str(tmp_path / 'keras'))
        yield path
        server.shutdown()


def cached() -> list[str]:
    return sorted(path.name for path in keras_download.folder().iterdir())


def test_a_file_is_fetched_once_into_keras_cache(published):
    path = keras_download.fetch(INFO)
    assert path.read_bytes() == CONTENT and cached() == [published.name]
    published.unlink()
    assert keras_download.fetch(INFO) == path


def test_a_damaged_file_is_not_kept_and_a_damaged_cache_is_mended(published):
    path = keras_download.fetch(INFO)
    path.write_bytes(b'cut')
    assert keras_download.fetch(INFO).read_bytes() == CONTENT
    path.unlink()
    published.write_bytes(b'other')
    with pytest.raises(ConnectionError, match=f'the checksum .*, not {INFO.checksum}; call again'):
        keras_download.fetch(INFO)
    assert cached() == []


def test_a_page_in_the_place_of_a_file_without_a_checksum(published):
    bare = dataclasses.replace(INFO, checksum=None)
    with pytest.raises(ConnectionError, match='the file that came is no HDF5 file; call again'):
        keras_download.fetch(bare)
    published.write_bytes(keras_download.SIGNATURE + CONTENT)
    assert keras_download.fetch(bare).stat().st_mode & 0o777 == published.stat().st_mode & 0o777


def test_what_is_not_there_is_named(published, monkeypatch):
    published.unlink()
    with pytest.raises(FileNotFoundError, match=f'{published.name}: the server answers with 404'):
        keras_download.fetch(INFO)
    monkeypatch.setenv('KERAS_WEIGHTS_HOST', 'http://127.0.0.1:9')
    with pytest.raises(ConnectionError, match=r'no connection .*pass weights='):
        keras_download.fetch(INFO)
    assert cached() == []


def test_all_goes_on_after_a_file_that_fails(published, monkeypatch, tmp_path, capsys):
    others = [jeffnet.model_info(f'keras_mobilenet_v2_{alpha}') for alpha in ('050', '035')]
    monkeypatch.setattr(keras_command, 'named', lambda model: others)
    assert keras_command.main(['--model', 'all', '--output', str(tmp_path / 'out')]) == 2
    first, second, last = capsys.readouterr().err.strip().split('\n')[-3:]
    assert 'keras_mobilenet_v2_050: http' in first and 'answers with 404' in first
    assert 'keras_mobilenet_v2_035: http' in second and '2 of 2 failed: keras_mobilenet_v2_050, keras_mob' in last


def test_pretrained_asks_for_the_published_file_and_its_checksum(published):
    with pytest.raises(ConnectionError, match=f'{published.name}: the file that came has the checksum {INFO.checksum}'):
        jeffnet.create_model('keras_resnet50', pretrained=True)
