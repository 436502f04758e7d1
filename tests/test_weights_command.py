"""`python -m jeffnet.weights`: what it prints, what it writes, one line and status 2 for bad input."""

import subprocess
import sys

import jax
import numpy as np
import pytest
import torch
import torchvision
from safetensors.numpy import load_file

import jeffnet
from jeffnet.weights import judges
from jeffnet.weights.__main__ import main
from tests.conftest import SMALL as NAME


@pytest.fixture
def file(state, write, tmp_path):
    return write(state, tmp_path / 'model.safetensors')


def test_inspect_shows_what_a_file_holds_and_fits(state, file, tmp_path, capsys):
    assert main(['inspect', str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f'{file}: names and axes of PyTorch (timm, torchvision)'
    assert lines[1].startswith(f'  {len(state)} arrays: ') and 'float32 values' in lines[1]
    assert '  model named in it: none' in lines and f'  models of the same arrays: {NAME}' in lines
    assert '  NaN or infinite values: none' in lines
    assert [line.split() for line in lines if line.startswith('conv_stem')] == [
        ['conv_stem.weight', 'float32', '8x3x3x3']
    ]
    saved = jeffnet.save_weights(jeffnet.create_model(NAME, 'nnx', weights=file), tmp_path / 'saved.safetensors')
    bad = {**state, 'bn1.bias': np.full(8, np.nan, np.float32)}
    torch.save({'model': {k: torch.from_numpy(v) for k, v in bad.items()}}, tmp_path / 'bad.pth')
    assert main(['inspect', str(saved)]) == main(['inspect', str(tmp_path / 'bad.pth')]) == 0
    shown = capsys.readouterr().out
    assert f'  model named in it: {NAME}' in shown and '  NaN or infinite values: bn1.bias' in shown


def test_convert_writes_files_and_folders_that_need_no_name(state, tmp_path, capsys):
    path = tmp_path / 'last.pth'
    torch.save({'model': {'module.' + k: torch.from_numpy(v) for k, v in state.items()}}, path)
    for output in ('out.safetensors', 'folder'):
        assert main(['convert', str(path), '--model', NAME, '--output', str(tmp_path / output)]) == 0
        assert f'{output}: {NAME}, ' in capsys.readouterr().out
        assert main(['verify', str(tmp_path / output)]) == 0
        assert 'none missing, unexpected or misshapen' in capsys.readouterr().out
    back = load_file(tmp_path / 'folder' / 'model.safetensors')
    assert all(np.array_equal(back[k], v) for k, v in state.items())


def test_convert_keeps_what_a_training_checkpoint_knows(tmp_path):
    options = {'num_classes': 3, 'in_chans': 1}
    _, variables = jeffnet.create_model(NAME, **options)
    preprocessing = {'kind': 'tf', 'image_size': [32, 40], 'crop_pct': 0.8, 'in_chans': 1, 'mean': 0.5, 'std': 0.2}
    jeffnet.weights.save(
        tmp_path / 'best', model=NAME, options=options, variables=jeffnet.flat_variables(variables),
        preprocessing=preprocessing, classes=['a', 'b', 'c'], metrics={'top1': 90.0},
    )  # fmt: skip
    assert main(['convert', str(tmp_path / 'best'), '--output', str(tmp_path / 'hub')]) == 0
    old, new = (jeffnet.weights.read_config(tmp_path / name) for name in ('best', 'hub'))
    assert (new['model'], new['classes'], new['metrics']) == (old['model'], old['classes'], old['metrics'])
    assert new['options'] == {**options, 'output_stride': 32}
    assert new['preprocessing']['image_size'] == [32, 40] and new['preprocessing']['crop_pct'] == 0.8


def test_verify_against_the_references(file, tmp_path, capsys):
    assert main(['verify', str(file), '--model', NAME, '--against', 'timm']) == 0
    assert 'logits differ from those of timm by at most ' in capsys.readouterr().out
    path = tmp_path / 'model.pth'
    torch.save(torchvision.models.mobilenet_v3_small().eval().state_dict(), path)
    assert main(['verify', str(path), '--model', 'pt_mobilenetv3_small_100', '--against', 'torchvision']) == 0
    assert ': the same function' in capsys.readouterr().out
    module, variables = jeffnet.create_model(NAME, weights=file)
    other = jax.tree.map(lambda x: x * 1.01, variables)
    assert not judges.compare('timm', file, module, other).inside
    assert 'NOT the same function' in judges.Comparison('timm', 3e-4, 1e-5).describe()
    assert main(['verify', str(file), '--model', NAME, '--against', 'torchvision']) == 2
    assert "takes torchvision's own files" in capsys.readouterr().err


FAULTS = {
    'does not exist': ['verify', 'DIR/nowhere.pth', '--model', NAME],
    '--model is missing': ['verify', 'FILE'],
    'unknown model': ['verify', 'FILE', '--model', 'pt_mnasnet_smal'],
    'does not fit pt_mnasnet_100': ['verify', 'FILE', '--model', 'pt_mnasnet_100'],
    'a fresh classifier of 5 classes': ['convert', 'FILE', '--model', NAME, '--num-classes', '5', '--output', 'DIR/x'],
    'jeffnet writes .safetensors files': ['convert', 'FILE', '--model', NAME, '--output', 'DIR/x.npz'],
    'holds no model.safetensors': ['inspect', 'DIR/empty'],
    'is empty': ['inspect', 'DIR/empty.pth'],
    'no model with published weights matches': ['download', 'convnext*'],
    'unknown model ': ['download', 'convnext_atto'],
    'names no file or folder of weights': ['inspect', ''],
    'invalid choice': ['fly'],
    '--output': ['convert', 'FILE', '--model', NAME],
}


@pytest.mark.parametrize('says', FAULTS)
def test_faults_are_one_line_and_status_2_and_leave_nothing(says, file, tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty.pth').touch()
    argv = [part.replace('FILE', str(file)).replace('DIR', str(tmp_path)) for part in FAULTS[says]]
    assert main(argv) == 2
    error = capsys.readouterr().err.strip()
    assert says.strip() in error and '\n' not in error and len(error) < 1200
    assert sorted(p.name for p in tmp_path.iterdir()) == ['empty', 'empty.pth', 'model.safetensors']


def test_the_command_is_there_and_its_output_can_be_cut(file):
    command = [sys.executable, '-m', 'jeffnet.weights']
    shown = subprocess.run([*command, '--help'], capture_output=True, text=True, check=True).stdout
    assert all(name in shown for name in ('inspect', 'convert', 'verify', 'download'))
    cut = subprocess.run(
        f'{" ".join(command)} inspect {file} | head -1', shell=True, capture_output=True, text=True, check=True
    )
    assert cut.stderr == ''
    failed = subprocess.run([*command, 'inspect', 'nowhere.pth'], capture_output=True, text=True, check=False)
    assert failed.returncode == 2 and 'Traceback' not in failed.stderr
