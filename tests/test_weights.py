"""Weights files in and out: strict about names and shapes, one error for all faults."""

import json
import logging
import os
import subprocess
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from safetensors.numpy import save_file

import jeffnet
from benchmarks import parity
from jeffnet import weights

NAME = 'pt_mnasnet_small'


@pytest.fixture(scope='module')
def state():
    return {k: v.numpy() for k, v in parity.reference(NAME).state_dict().items()}


def write(state, path):
    save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, path)
    return path


def test_one_error_lists_every_missing_unexpected_and_misshapen_array(state, tmp_path):
    bad = {**state, 'extra.weight': np.zeros(3, np.float32), 'bn1.bias': np.zeros(9, np.float32)}
    del bad['conv_head.weight'], bad['blocks.1.0.bn1.running_var']
    path = write(bad, tmp_path / 'bad.safetensors')
    with pytest.raises(ValueError) as caught:
        jeffnet.create_model(NAME, weights=path)
    text = str(caught.value)
    assert str(path) in text and 'strict=False' in text
    for part in ('2 missing', 'conv_head.kernel', 'blocks_1_0.bn1.var', '1 unexpected', 'extra.scale',
                 '1 of another shape',
                 'bn1.bias: (9,) in the file, (8,) in the model'):  # fmt: skip
        assert part in text


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_not_strict_loads_what_fits_and_logs_the_rest(framework, state, tmp_path, caplog):
    bad = dict(state)
    del bad['conv_head.weight']
    made = jeffnet.create_model(NAME, framework, weights=write(bad, tmp_path / 'bad.safetensors'), strict=False)
    flat = jeffnet.flat_variables(made[1] if framework == 'linen' else made)
    np.testing.assert_array_equal(flat['classifier.bias'], state['classifier.bias'])
    fresh = jeffnet.flat_variables(jeffnet.create_model(NAME)[1])
    np.testing.assert_array_equal(flat['conv_head.kernel'], fresh['conv_head.kernel'])
    assert 'conv_head.kernel' in caplog.text


def test_another_number_of_classes_gives_a_fresh_classifier_and_says_so(state, tmp_path, caplog):
    path = write(state, tmp_path / 'model.safetensors')
    flat = jeffnet.flat_variables(jeffnet.create_model(NAME, weights=path, num_classes=4)[1])
    assert flat['classifier.kernel'].shape == (1280, 4)
    np.testing.assert_array_equal(flat['conv_stem.kernel'], state['conv_stem.weight'].transpose(2, 3, 1, 0))
    assert 'fresh classifier of 4 classes' in caplog.text and caplog.records[0].levelno == logging.WARNING


def test_a_file_of_other_classes_needs_the_number(state, tmp_path):
    other = {**state, 'classifier.weight': np.zeros((6, 1280), np.float32), 'classifier.bias': np.zeros(6, np.float32)}
    path = write(other, tmp_path / 'model.safetensors')
    with pytest.raises(ValueError, match='num_classes='):
        jeffnet.create_model(NAME, weights=path)
    flat = jeffnet.flat_variables(jeffnet.create_model(NAME, weights=path, num_classes=6)[1])
    assert not np.any(flat['classifier.kernel'])


@pytest.mark.parametrize('options', [{'num_classes': 0}, {'num_classes': -1}, {'features_only': True}])
@pytest.mark.parametrize('name', [NAME, 'tf_mobilenetv3_small_minimal_100'])
def test_the_head_of_a_file_may_stay_unused(name, options, tmp_path):
    path = parity.save_weights(parity.reference(name), tmp_path / 'model.safetensors')
    flat = jeffnet.flat_variables(jeffnet.create_model(name, weights=path, **options)[1])
    assert 'classifier.kernel' not in flat and 'conv_stem.kernel' in flat


def test_checkpoint_folder_round_trip(tmp_path):
    _, variables = jeffnet.create_model(NAME, num_classes=3, in_chans=1, seed=5)
    folder = tmp_path / 'runs' / 'best'
    preprocessing = {'kind': 'pil', 'image_size': [32, 32]}
    for step in (1, 2):  # the second replaces the first
        weights.save(
            folder, model=NAME, options={'num_classes': 3, 'in_chans': 1}, variables=jeffnet.flat_variables(variables),
            preprocessing=preprocessing, classes=['a', 'b', 'c'], metrics={'step': step},
        )  # fmt: skip
    config = weights.read_config(folder)
    assert (config['model'], config['classes'], config['metrics']) == (NAME, ['a', 'b', 'c'], {'step': 2})
    assert [p.name for p in folder.parent.iterdir()] == ['best']
    for framework in ('objax', 'nnx'):
        model = jeffnet.create_model(config['model'], framework, weights=folder, **config['options'])
        loaded = jeffnet.flat_variables(model)
        for name, array in jeffnet.flat_variables(variables).items():
            np.testing.assert_array_equal(loaded[name], array)


def test_a_checkpoint_folder_brings_its_options_and_refuses_another_model(tmp_path):
    options = {'num_classes': 3, 'in_chans': 1, 'output_stride': 8}
    made, variables = jeffnet.create_model(NAME, **options)
    flat = jeffnet.flat_variables(variables)
    weights.save(tmp_path / 'best', model=NAME, options=options, variables=flat, preprocessing={})
    for path in (tmp_path / 'best', str(tmp_path / 'best'), tmp_path / 'best' / 'model.safetensors'):
        assert jeffnet.create_model(NAME, weights=path)[0] == made
    assert jeffnet.create_model(NAME, weights=tmp_path / 'best', output_stride=32)[0].output_stride == 32
    with pytest.raises(ValueError, match='is a checkpoint of pt_mnasnet_small, not of pt_mnasnet_100'):
        jeffnet.create_model('pt_mnasnet_100', weights=tmp_path / 'best')


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / 'cut.safetensors').write_bytes(b'\x10\x00\x00')
    with pytest.raises(ValueError, match=r'cut\.safetensors is not a complete safetensors file'):
        jeffnet.create_model(NAME, weights=tmp_path / 'cut.safetensors')
    (tmp_path / 'model.onnx').write_bytes(b'')
    with pytest.raises(ValueError, match=r'cannot read \.onnx files'):
        jeffnet.create_model(NAME, weights=tmp_path / 'model.onnx')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match=r'holds no model\.safetensors'):
        jeffnet.create_model(NAME, weights=tmp_path / 'empty')
    with pytest.raises(FileNotFoundError, match=r'holds no config\.json'):
        weights.read_config(tmp_path / 'empty')
    (tmp_path / 'empty' / 'config.json').write_text(json.dumps({'architecture': 'x'}))
    with pytest.raises(ValueError, match='not written by jeffnet'):
        weights.read_config(tmp_path / 'empty')
    with pytest.raises(ValueError, match='hf-hub:owner/repo'):
        jeffnet.create_model(NAME, weights='hf-hub:nonsense')


def test_the_hub_offline_is_one_clear_error(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
    with pytest.raises(ConnectionError, match=r'timm/mnasnet_small\.lamb_in1k.*weights=<path>'):
        jeffnet.create_model(NAME, pretrained=True)


class Hub(BaseHTTPRequestHandler):
    """The two requests by which the hub library fetches one file."""

    file: Path

    def do_HEAD(self):
        self.answer(b'')

    def do_GET(self):
        self.answer(self.file.read_bytes())

    def answer(self, body):
        known = self.path == '/timm/mnasnet_small.lamb_in1k/resolve/main/model.safetensors'
        self.send_response(200 if known else 404)
        if known:
            self.send_header('ETag', '"0123abcd"')
            self.send_header('X-Repo-Commit', '1' * 40)
            self.send_header('Content-Length', str(self.file.stat().st_size))
        self.end_headers()
        self.wfile.write(body if known else b'')

    def log_message(self, *args):
        """Keeps the test's output quiet."""


def test_pretrained_downloads_the_pinned_weights_once(state, tmp_path):
    Hub.file = write(state, tmp_path / 'served.safetensors')
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    program = (
        'import jeffnet, numpy as np\n'
        "model = jeffnet.nnx.create_model('pt_mnasnet_small', pretrained=True)\n"
        "print(float(np.abs(jeffnet.flat_variables(model)['classifier.bias']).sum()))"
    )
    address = f'http://127.0.0.1:{server.server_address[1]}'
    own = {'HF_ENDPOINT': address, 'HF_HOME': str(tmp_path / 'cache'), 'HF_HUB_DISABLE_PROGRESS_BARS': '1'}
    run = partial(subprocess.run, [sys.executable, '-c', program], capture_output=True, text=True, check=True)
    expected = pytest.approx(float(np.abs(state['classifier.bias']).sum()), rel=1e-5)
    assert float(run(env={**os.environ, **own}).stdout) == expected
    server.shutdown()
    server.server_close()
    assert float(run(env={**os.environ, **own, 'HF_HUB_OFFLINE': '1'}).stdout) == expected  # now from the cache
