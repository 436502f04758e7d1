"""The demo's own parts: the image files it writes, and when it calls its result good. Its whole run is `make demo`."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from jeffnet import demo
from jeffnet.data.folder import ClassFolder


def test_digits_are_the_same_files_every_time(tmp_path):
    digests = []
    for folder in (tmp_path / 'a', tmp_path / 'b'):
        assert demo.write_digits(folder) == {'train': 1442, 'validation': 355}
        files = sorted(folder.rglob('*.png'))
        names = ''.join(str(file.relative_to(folder)) for file in files).encode()
        digests.append(hashlib.sha256(names + b''.join(file.read_bytes() for file in files)).hexdigest())
    assert digests[0] == digests[1]


def test_digits_keep_their_pixels_and_every_class(tmp_path):
    demo.write_digits(tmp_path)
    folders = [ClassFolder.open(tmp_path, split) for split in ('train', 'validation')]
    assert [len(folder) for folder in folders] == [1442, 355]
    assert all(np.bincount(folder.labels).min() > 30 for folder in folders)
    pixels = np.stack([np.asarray(Image.open(path)) for folder in folders for path in folder.paths])
    assert (pixels.shape, pixels.dtype, pixels.min(), pixels.max()) == ((1797, 8, 8), np.uint8, 0, 255)


def test_verdict(capsys):
    assert demo.verdict([98.5, 98.5]) == 0
    assert demo.verdict([98.5, 98.2]) == 1
    assert demo.verdict([98.4, 98.4]) == 1
    assert 'differ in top-1: 98.2 to 98.5 %' in (text := capsys.readouterr().err)
    assert 'top-1 is 98.4 %, below 98.5 %' in text


def test_the_command_line_takes_no_arguments(capsys, monkeypatch):
    monkeypatch.setattr(demo.shutil, 'rmtree', lambda *arguments, **options: pytest.fail('the demo started'))
    with pytest.raises(SystemExit) as stopped:
        demo.main(['--help'])
    assert stopped.value.code == 0 and 'python -m jeffnet.demo' in capsys.readouterr().out
    assert demo.main(['--fast']) == 2
    assert capsys.readouterr().err.count('\n') == 1
