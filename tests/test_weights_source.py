"""From a name to a model: the hub, folders and files as users call for them, in every framework and in the scripts."""

import json
import subprocess
import sys

import numpy as np
import pytest
import timm
from PIL import Image

import jeffnet
from jeffnet import validate
from jeffnet.weights.__main__ import main
from tests.conftest import SMALL as NAME
from tests.hub_repository import DEPRECATED
from tests.hub_server import TOKEN, Fault

FILE = 'model.safetensors'


@pytest.fixture
def published(server, cache, state, write, tmp_path):
    """The hub has timm's repository of SMALL; its server."""
    content = write(state, tmp_path / 'served.safetensors').read_bytes()
    server.add('timm/mnasnet_small.lamb_in1k', {FILE: content, 'config.json': b'{}'})
    return server


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_pretrained_fetches_the_pinned_weights(framework, published, state, monkeypatch):
    for repeat in (1, 2):
        made = jeffnet.create_model(NAME, framework, pretrained=True)
        flat = jeffnet.flat_variables(made[1] if framework == 'linen' else made)
        np.testing.assert_array_equal(flat['classifier.bias'], state['classifier.bias'])
        assert len(published.asked('GET', FILE)) == 1, repeat


def test_a_pinned_revision_is_asked_for(published, monkeypatch):
    import dataclasses

    from jeffnet.models import table
    from jeffnet.weights import source

    commit = published.repositories['timm/mnasnet_small.lamb_in1k'].branches['main']
    info = dataclasses.replace(table.model_info(NAME), revision=commit)
    assert source.pinned(info).parent.name == commit
    assert published.asked('GET', f'{commit}/{FILE}')


@DEPRECATED
def test_a_model_goes_to_the_hub_and_comes_back_to_jeffnet_and_timm(server, cache, monkeypatch):
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    module, variables = jeffnet.create_model(NAME, num_classes=3, in_chans=1, seed=7)
    preprocessing = {'kind': 'pil', 'image_size': [40, 40], 'crop_pct': 0.9, 'in_chans': 1, 'mean': 0.5, 'std': 0.25}
    url = jeffnet.push_to_hub(
        module, 'owner/net', variables, preprocessing=preprocessing, classes=['a', 'b', 'c'], message='First'
    )
    assert url.startswith(f'{server.url}/owner/net/commit/')
    again, loaded = jeffnet.create_model('hf-hub:owner/net', pretrained=True)
    assert again == module
    by_name = jeffnet.create_model(NAME, 'nnx', weights='hf-hub:owner/net@main')
    for name, array in jeffnet.flat_variables(variables).items():
        np.testing.assert_array_equal(jeffnet.flat_variables(loaded)[name], array)
        np.testing.assert_array_equal(jeffnet.flat_variables(by_name)[name], array)
    network = timm.create_model('hf-hub:owner/net', pretrained=True)
    assert (network.num_classes, network.conv_stem.in_channels) == (3, 1)
    np.testing.assert_array_equal(network.bn1.weight.detach().numpy(), variables['params']['bn1']['scale'])
    card = server.repositories['owner/net'].commits[url.rpartition('/')[2]]['README.md'].data.decode()
    assert "jeffnet.create_model('hf-hub:owner/net', pretrained=True)" in card and 'license: apache-2.0' in card
    with pytest.raises(ValueError, match='those of several models'):
        jeffnet.push_to_hub(jeffnet.create_model('pt_mobilenetv3_small_100')[1], 'owner/other')
    assert 'owner/other' not in server.repositories


def test_a_repository_of_another_kind(server, cache, state, write, tmp_path):
    content = write(state, tmp_path / 'a.safetensors').read_bytes()
    server.add('owner/other', {FILE: content, 'config.json': json.dumps({'architecture': 'no_such_network'}).encode()})
    with pytest.raises(ValueError, match=r"timm calls its architecture 'no_such_network', which jeffnet does not have"):
        jeffnet.create_model('hf-hub:owner/other', pretrained=True)
    with pytest.raises(ValueError, match=r'holds the timm architecture no_such_network, not one of pt_mnasnet_small'):
        jeffnet.create_model(NAME, weights='hf-hub:owner/other')
    server.add('owner/bare', {FILE: content})
    assert jeffnet.create_model(NAME, weights='hf-hub:owner/bare')[0].variant == NAME
    with pytest.raises(ValueError, match=r'holds no config\.json that names its model'):
        jeffnet.create_model('hf-hub:owner/bare', pretrained=True)
    odd = {'architecture': 'mnasnet_small', 'num_classes': 1000, 'model_args': {'act_layer': 'silu'}}
    server.add('owner/odd', {FILE: content, 'config.json': json.dumps(odd).encode()})
    with pytest.raises(ValueError, match='its model_args hold act_layer, which jeffnet does not know'):
        jeffnet.create_model('hf-hub:owner/odd', pretrained=True)
    wrong = {'architecture': 'mnasnet_small', 'num_classes': 10}
    server.add('owner/wrong', {FILE: content, 'config.json': json.dumps(wrong).encode()})
    with pytest.raises(ValueError, match='its classifier has 1000 classes'):  # no fresh one: nobody asked for it
        jeffnet.create_model('hf-hub:owner/wrong', pretrained=True)


def test_download_fills_the_cache_for_use_without_a_connection(published, state, write, tmp_path, capsys, monkeypatch):
    from huggingface_hub import constants

    published.add('owner/net', {FILE: write(state, tmp_path / 'other.safetensors').read_bytes()})
    assert main(['download', NAME, 'hf-hub:owner/net', 'pt_mnasnet_1*']) == 2  # the last is not on this hub
    shown = capsys.readouterr()
    assert [line.partition(': ')[0] for line in shown.out.splitlines()] == [NAME, 'hf-hub:owner/net']
    assert shown.err.startswith('pt_mnasnet_100: model.safetensors of timm/mnasnet_100.rmsp_in1k: no such repository')
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    flat = jeffnet.flat_variables(jeffnet.create_model(NAME, pretrained=True)[1])
    np.testing.assert_array_equal(flat['classifier.bias'], state['classifier.bias'])
    assert main(['download', 'pt_mnasnet_100']) == 2
    assert 'HF_HUB_OFFLINE is set' in capsys.readouterr().err


def test_the_scripts_validate_a_repository_with_its_own_preprocessing(server, cache, tmp_path, capsys):
    for label in 'ab':
        (tmp_path / 'data' / label).mkdir(parents=True)
        Image.new('RGB', (40, 40), 'red' if label == 'a' else 'blue').save(tmp_path / 'data' / label / '0.png')
    model = jeffnet.create_model('tf_mobilenetv3_small_minimal_100', 'nnx', num_classes=2)
    settings = {'kind': 'pil', 'image_size': [33, 33], 'crop_pct': 0.95, 'mean': 0.4, 'std': 0.3}
    folder = jeffnet.save_weights(model, tmp_path / 'folder', preprocessing=settings, classes=['a', 'b'])
    server.add('owner/net', {path.name: path.read_bytes() for path in folder.iterdir()})
    for place in ('hf-hub:owner/net', str(folder)):
        assert validate.main('linen', 'pt', [str(tmp_path / 'data'), '--checkpoint', place]) == 0
        shown = capsys.readouterr().out
        assert 'tf_mobilenetv3_small_minimal_100 (linen, float32) pil: RGB, resize short side to 34' in shown
    for fault, status, says in (
        (Fault(status=500), 2, 'answers with an error (500)'),
        (Fault(cut=1000), 2, 'the connection broke off'),
    ):
        server.add('owner/new', {path.name: path.read_bytes() for path in folder.iterdir()})
        server.faults[FILE] = fault
        assert validate.main('linen', 'pt', [str(tmp_path / 'data'), '--checkpoint', 'hf-hub:owner/new']) == status
        error = capsys.readouterr().err.strip().splitlines()
        assert says in error[-1] and 'Traceback' not in ''.join(error)


def test_bad_weights_end_a_script_with_status_2_and_one_line(state, write, tmp_path):
    """In a process of its own, as a user sees it."""
    (tmp_path / 'data' / 'a').mkdir(parents=True)
    Image.new('RGB', (40, 40)).save(tmp_path / 'data' / 'a' / '0.png')
    path = write({k: v for k, v in state.items() if 'conv_dw' not in k}, tmp_path / 'half.safetensors')
    command = [sys.executable, 'pt_linen_validate.py', str(tmp_path / 'data'), '--model', NAME, '--checkpoint', path]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    (line,) = ran.stderr.strip().splitlines()
    assert line.startswith(
        f'pt_linen_validate.py: {path} does not fit {NAME}: {sum("conv_dw" in k for k in state)} missing from the file'
    )
