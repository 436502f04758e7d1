"""The kept index of TFRecord files: when it is written, when it is taken, when it is not."""

import logging
import os

import numpy as np
import pytest

from jeffnet.data import records_index
from jeffnet.data.opening import open_training
from tests.record_sets import IMAGES, SHARDS, everything


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A cache folder of the test, where small sets are kept too; the number of files listed since."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(records_index, 'KEPT_FROM', 1)
    listed, inner = [], records_index.file_index
    monkeypatch.setattr(records_index, 'file_index', lambda path, *rest: listed.append(path) or inner(path, *rest))

    def count():
        number = len(listed)
        listed.clear()
        return number

    return count


def test_the_index_is_kept_until_a_file_changes(kept, prepared, tmp_path):
    data, folder = str(prepared[0]), prepared[1]
    first = everything(open_training(data, 'train'))
    assert kept() == SHARDS
    assert everything(open_training(data, 'train')) == first and kept() == 0
    assert len(open_training(data, 'validation')) == IMAGES and kept() == SHARDS
    os.utime(sorted(folder.glob('*train*'))[1], (1, 1))
    assert everything(open_training(data, 'train')) == first and kept() == SHARDS
    for path in (tmp_path / 'cache' / 'jeffnet').iterdir():
        for content in (b'', b'no index', path.read_bytes()[:-50]):
            path.write_bytes(content)
            open_training(data, 'train')
    assert kept() > 0
    assert everything(open_training(data, 'train')) == first and kept() == 0
    assert not list((tmp_path / 'cache' / 'jeffnet').glob('*.part'))


def test_a_kept_index_of_other_files_is_not_taken(kept, prepared, tmp_path):
    data = str(prepared[0])
    open_training(data, 'train')
    (path,) = (tmp_path / 'cache' / 'jeffnet').iterdir()
    np.savez(path, places=np.zeros((5, 2), np.int64), labels=np.zeros(5, np.int64), counts=np.array([5]))
    kept()
    assert len(open_training(data, 'train')) > 5 and kept() == SHARDS


def test_small_sets_are_not_kept(kept, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(records_index, 'KEPT_FROM', 10_000)
    open_training(str(prepared[0]), 'train')
    assert not (tmp_path / 'cache').exists()


def test_a_cache_that_cannot_be_written_is_said(kept, prepared, tmp_path, caplog):
    (tmp_path / 'cache').write_text('a file')
    with caplog.at_level(logging.WARNING):
        open_training(str(prepared[0]), 'train')
    assert 'the index of the records cannot be kept' in caplog.text and 'lists them again' in caplog.text
