"""File formats and bad files: each fault is one error that names the file and the cause, and nothing in it is run."""

import argparse
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

import jeffnet
from jeffnet.weights import files
from tests.conftest import SMALL as NAME


def load(path, **options):
    """The flat variables of SMALL from a file."""
    return jeffnet.flat_variables(jeffnet.create_model(NAME, weights=path, **options)[1])


def tensors(state, scale=1):
    return OrderedDict(
        (k, torch.from_numpy(v * scale if v.dtype == np.float32 else v.copy())) for k, v in state.items()
    )


def same(flat, state, scale=1):
    """Whether two arrays of the file, one transposed and one not, have arrived."""
    np.testing.assert_array_equal(flat['classifier.kernel'], scale * state['classifier.weight'].T)
    np.testing.assert_array_equal(flat['bn1.var'], scale * state['bn1.running_var'])


# --- PyTorch


@pytest.mark.parametrize('suffix', ['.pth', '.pt', '.bin', '.pth.tar', '.ckpt'])
@pytest.mark.parametrize('zipped', [True, False])
def test_a_plain_state_dict(suffix, zipped, state, tmp_path):
    path = tmp_path / f'model{suffix}'
    torch.save(tensors(state), path, _use_new_zipfile_serialization=zipped)
    same(load(path), state)


@pytest.mark.parametrize('key', ['state_dict', 'model', 'model_state_dict'])
@pytest.mark.parametrize('prefix', ['', 'module.', '_orig_mod.', 'module._orig_mod.', '_orig_mod.module.', 'model.'])
def test_a_state_dict_inside_a_training_checkpoint(key, prefix, state, tmp_path):
    path = tmp_path / 'last.pth'
    inner = {prefix + k: v for k, v in tensors(state).items()}
    torch.save({'epoch': 3, 'optimizer': {'state': {}}, key: inner}, path)
    same(load(path), state)


@pytest.mark.parametrize('key', ['state_dict_ema', 'model_ema'])
def test_averaged_weights_are_taken_unless_told_otherwise(key, state, tmp_path):
    path = tmp_path / 'last.pth.tar'
    averaged = {'module.' + k: v for k, v in tensors(state, 2).items()} | {'n_averaged': torch.tensor(7)}
    # timm's train script saves its arguments in a Namespace, which holds nothing that could run.
    torch.save({'args': argparse.Namespace(lr=0.1), 'state_dict': tensors(state), key: averaged}, path)
    same(load(path), state, scale=2)
    same(load(path, use_ema=False), state)


def test_bfloat16_tensors(state, tmp_path, caplog):
    path = tmp_path / 'half.pth'
    torch.save({k: v.bfloat16() if v.is_floating_point() else v for k, v in tensors(state).items()}, path)
    flat = load(path)
    expected = torch.from_numpy(state['bn1.weight']).bfloat16().float().numpy()
    np.testing.assert_array_equal(flat['bn1.scale'], expected)
    assert 'bfloat16 arrays are cast' in caplog.text


class Hostile:
    """Unpickling this would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('zipped', [True, False])
def test_a_hostile_pickle_is_refused_and_not_run(zipped, state, tmp_path):
    path, trace = tmp_path / 'model.pth', tmp_path / 'trace'
    torch.save({'state_dict': tensors(state), 'x': Hostile(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        ValueError, match=r'model\.pth is refused: it wants posix\.mkdir, and loading that could run code'
    ):
        load(path)
    path.write_bytes(pickle.dumps(Hostile(trace)))  # not even torch's format
    with pytest.raises(ValueError, match=r'model\.pth is refused|model\.pth is not a complete'):
        load(path)
    assert not trace.exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    path = tmp_path / 'module.pt'
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(ValueError, match=r'wants torch\.nn\.modules\.linear\.Linear'):
        load(path)


def test_pytorch_files_without_a_state_dict(tmp_path):
    path = tmp_path / 'model.pth'
    for content in ({'epoch': 3}, {}, {'a': {'b': 1}}):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r'model\.pth holds no state dict'):
            load(path)
    torch.save([torch.zeros(2)], path)
    with pytest.raises(ValueError, match=r'model\.pth holds a list, not a state dict'):
        load(path)
    torch.save({'a': torch.zeros(3, 3).to_sparse()}, path)
    with pytest.raises(ValueError, match=r'a is a quantised, sparse or empty tensor'):
        load(path)


def test_without_pytorch_the_message_says_what_to_install(state, tmp_path, monkeypatch):
    path = tmp_path / 'model.pth'
    torch.save(tensors(state), path)
    monkeypatch.setitem(sys.modules, 'torch', None)
    with pytest.raises(ModuleNotFoundError, match=r"needs PyTorch: pip install 'jeffnet\[torch\]', or give a \.safe"):
        load(path)


# --- safetensors


def test_reading_safetensors_imports_neither_torch_nor_tensorflow(state, write, tmp_path):
    path = write(state, tmp_path / 'model.safetensors')
    program = f'import sys, jeffnet; jeffnet.create_model({NAME!r}, weights={str(path)!r}); print(*sys.modules)'
    run = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    assert not {'torch', 'tensorflow', 'objax'} & set(run.stdout.split())


def test_flat_names_are_known_with_or_without_a_note(state, write, tmp_path):
    flat = load(write(state, tmp_path / 'model.safetensors'))
    path = write({k: np.asarray(v) for k, v in flat.items()}, tmp_path / 'flat.safetensors')
    same(load(path), state)


def test_a_header_that_claims_10_gigabytes(tmp_path):
    path = tmp_path / 'model.safetensors'
    path.write_bytes(struct.pack('<Q', 10 * 2**30) + b'{}')
    with pytest.raises(ValueError, match=r'model\.safetensors is not a complete safetensors file'):
        load(path)
    header = json.dumps({'a': {'dtype': 'F32', 'shape': [2684354560], 'data_offsets': [0, 10737418240]}}).encode()
    path.write_bytes(struct.pack('<Q', len(header)) + header + b'0000')
    with pytest.raises(ValueError, match=r'model\.safetensors is not a complete safetensors file'):
        load(path)


# --- the predecessor's archives


def archive(path, state, **changes):
    names = [k for k in state if 'num_batches' not in k]
    arrays = {str(i): state[name] for i, name in enumerate(names)}
    np.savez(path, **({'names': np.array(names), 'types': np.array(['Conv2d'] * len(names)), **arrays} | changes))
    return path


def test_an_archive_with_object_arrays_is_refused(state, tmp_path):
    trace = tmp_path / 'trace'
    objects = np.array([Hostile(trace)], dtype=object)
    for key in ('names', '0'):
        path = archive(tmp_path / 'model.npz', state, **{key: objects})
        with pytest.raises(ValueError, match=r'cannot read .*model\.npz: .*holds Python objects'):
            load(path)
    assert not trace.exists()


def test_archives_that_are_none_of_the_predecessors(state, tmp_path):
    path = tmp_path / 'model.npz'
    np.savez(path, a=np.zeros(3))
    with pytest.raises(ValueError, match=r"it holds no array 'names'"):
        load(path)
    names = np.array(['stem.conv.weight', '../../escape'])
    np.savez(path, **{'names': names, '0': np.zeros(3)})
    with pytest.raises(ValueError, match=r"it names '\.\./\.\./escape' but holds no array '1'"):
        load(path)


def test_an_array_that_claims_more_than_it_holds(tmp_path):
    path = tmp_path / 'model.npz'
    np.savez(path, **{'names': np.array(['a']), '0': np.zeros(3, np.float32)})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / 'bomb.npz', 'w') as new:
        new.writestr('names.npy', old.read('names.npy'))
        new.writestr('0.npy', old.read('0.npy').replace(b'(3,), }' + b' ' * 11, b'(300000000000,), }'))
    with pytest.raises(ValueError, match=r"'a' claims the shape \(300000000000,\)"):
        load(tmp_path / 'bomb.npz')


def test_the_hash_in_the_name_of_an_archive_is_checked_on_every_load(state, tmp_path):
    import hashlib

    path = archive(tmp_path / 'model.npz', state)
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    right = path.rename(tmp_path / f'pt_mnasnet_small-{sha[:8]}.npz')
    assert len(files.read(right).arrays) == len([k for k in state if 'num_batches' not in k])
    content = bytearray(right.read_bytes())
    content[len(content) // 2] ^= 1
    right.write_bytes(content)
    with pytest.raises(ValueError, match=rf'{right.name} is damaged or another file: .* begins with {sha[:8]}, but'):
        load(right)


# --- whatever the format


@pytest.fixture(params=['model.safetensors', 'saved.safetensors', 'model.pth', 'model.npz'])
def whole(request, state, write, tmp_path):
    """A good file of each kind; `saved` is one that jeffnet wrote."""
    path = tmp_path / request.param
    if path.suffix == '.pth':
        torch.save(tensors(state), path)
    elif path.suffix == '.npz':
        archive(path, state)
    else:
        write(state, path)
        if path.stem == 'saved':
            jeffnet.save_weights(jeffnet.create_model(NAME, weights=path)[1], path)
    return path


def test_truncated_files(whole):
    content = whole.read_bytes()
    for size in (0, 1, 7, 100, len(content) // 2, len(content) - 1):
        whole.write_bytes(content[:size])
        with pytest.raises(ValueError) as caught:
            load(whole)
        assert str(whole) in str(caught.value)


def test_flipped_bits(whole, state):
    """Every flip is seen or is in none of the values; over those, a file of plain safetensors has no checksum."""
    content = whole.read_bytes()
    if whole.suffix == '.npz':
        whole = whole.rename(whole.with_name('model-0123abcd.npz'))  # a name that promises a hash
    expected, seen, rng = None if whole.suffix == '.npz' else load(whole), 0, np.random.default_rng(3)
    guarded = 8 + struct.unpack('<Q', content[:8])[0] if whole.name == 'model.safetensors' else len(content)
    for place in rng.integers(0, guarded, 12):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        whole.write_bytes(flipped)
        try:
            flat = load(whole)
        except ValueError as error:
            assert str(whole) in str(error)
            seen += 1
        else:
            for name, array in flat.items():
                np.testing.assert_array_equal(array, expected[name])
    assert seen >= 9


def test_wrong_kinds_of_places(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'weights file .*nowhere\.pth does not exist'):
        load(tmp_path / 'nowhere.pth')
    for name in ('model.onnx', 'model'):
        (tmp_path / name).write_bytes(b'content')
        with pytest.raises(ValueError, match=rf'{name}: cannot read'):
            load(tmp_path / name)
    (tmp_path / 'folder').mkdir()
    with pytest.raises(FileNotFoundError, match=r'folder holds no model\.safetensors .*it holds nothing'):
        load(tmp_path / 'folder')
    (tmp_path / 'folder.safetensors').mkdir()
    with pytest.raises(FileNotFoundError, match=r'folder\.safetensors holds no model\.safetensors'):
        load(tmp_path / 'folder.safetensors')
    os.mkfifo(tmp_path / 'pipe.pth')
    with pytest.raises(ValueError, match='no ordinary file'):
        load(tmp_path / 'pipe.pth')


def test_a_folder_with_a_single_weights_file(state, tmp_path):
    torch.save(tensors(state), tmp_path / 'epoch_3.pth')
    (tmp_path / 'notes.txt').write_text('fine')
    same(load(tmp_path), state)
    torch.save(tensors(state), tmp_path / 'epoch_4.pth')
    with pytest.raises(FileNotFoundError, match='nor any other single weights file'):
        load(tmp_path)
