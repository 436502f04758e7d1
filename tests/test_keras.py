"""Keras Applications: files in every format, logits and feature maps against Keras itself, and the way back."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm

import jeffnet
from benchmarks import keras_reference, parity, torch_reference
from jeffnet.core.block import declarations
from jeffnet.create import plan
from jeffnet.data import Preprocessing
from jeffnet.weights import files, keras_command, keras_file, keras_names

keras = keras_reference.keras
ROOT = Path(__file__).parents[1]
h5py = keras_reference.h5py
NAMES = jeffnet.list_models('keras_*')
# Keras' NumPy back end makes arrays of its variables in the way of NumPy 1. Until it defines `__array__(copy=)`.
# To find the shapes behind ConvNeXt's and Inception-ResNet's scales it computes with whatever lies in fresh memory.
pytestmark = [
    pytest.mark.filterwarnings('ignore:.*__array__ implementation:DeprecationWarning'),
    pytest.mark.filterwarnings('ignore:.* encountered in (add|multiply):RuntimeWarning'),
]
# Of each family, with the size of the image; all names and sizes are in `make parity`.
SMALLEST = {
    'keras_mobilenet_v2_035': (48, 41), 'keras_efficientnet_b0': (48, 41), 'keras_resnet50': (48, 41),
    'keras_resnet50v2': (48, 41), 'keras_densenet121': (48, 41), 'keras_inception_v3': (75, 81),
    'keras_mobilenet_025': (48, 41), 'keras_mobilenet_v3_small_minimalistic': (48, 41), 'keras_xception': (75, 81),
    'keras_efficientnet_v2_b0': (64, 64), 'keras_convnext_tiny': (48, 41), 'keras_nasnet_mobile': (48, 41),
    'keras_inception_resnet_v2': (75, 81),
}  # fmt: skip
SIZE = SMALLEST['keras_mobilenet_v2_035']
# Keras takes seconds for larger ones.
BUILT = [name for name in NAMES if jeffnet.model_info(name).parameters < 30e6 or name == 'keras_vgg16']
TINY = 'keras_mobilenet_v2_035'


@pytest.fixture(scope='module')
def judge():
    """The smallest of the networks, randomised."""
    return keras_reference.Judge(TINY, SIZE)


@pytest.fixture
def weights(judge, tmp_path):
    """Its file as Keras 3 writes it."""
    return keras_reference.save(judge.model, tmp_path, 'weights.h5')


def keras_layers(name: str) -> list[keras_names.Layer]:
    chosen = plan(name)
    return keras_names.layers_of(chosen.info, chosen.block, chosen.policy)


# -------------------------------------------------------------------------------------------------- names and layers


@pytest.mark.parametrize('name', BUILT)
def test_layers_and_facts_are_those_of_keras(name):
    info = jeffnet.model_info(name)
    model = keras_reference.build(name, info.input_size[:2], drawn=False)
    theirs = {layer.name: [tuple(v.shape) for v in layer.weights] for layer in model.layers if layer.weights}
    declared = declarations(plan(name).block, plan(name).policy)
    ours = keras_layers(name)
    assert [layer.name for layer in ours] == list(theirs)
    arrays = {n: np.empty(d.shape) for n, d in declared.items()}
    found = {}
    for layer_name, _, own in keras_names.to_keras(info, plan(name).block, plan(name).policy, arrays):
        found.setdefault(layer_name, []).extend(array.shape for array in own.values())
    assert found == theirs
    assert sorted(n for layer in ours for n in layer.variables.values() if n) == sorted(declared)
    places = keras_file.places_of({'config': {'layers': [
        {'class_name': type(layer).__name__, 'config': {'name': layer.name}} for layer in model.layers
    ]}})  # fmt: skip
    assert {layer.place: layer.name for layer in ours}.items() <= places.items()
    assert info.parameters == sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    policy = plan(name).policy
    assert {(norm.epsilon, norm.momentum) for norm in norms} <= {(policy.bn_eps, policy.bn_momentum)}
    assert not policy.bn_unbiased


# --------------------------------------------------------------------------------------------------------- identity


@pytest.mark.parametrize('kind', keras_reference.FORMATS)
def test_every_format_gives_keras_logits(judge, kind, tmp_path):
    path = keras_reference.save(judge.model, tmp_path, kind)
    rows = parity.compare(TINY, judge, path, (SIZE,))
    assert len(rows) == 3 and all(row['ok'] for row in rows)


@pytest.mark.parametrize('name', SMALLEST)
def test_the_smallest_of_each_family(name, tmp_path):
    """Logits, feature maps, and the way back."""
    judge, size = keras_reference.Judge(name, SMALLEST[name]), SMALLEST[name]
    path = keras_reference.save(judge.model, tmp_path, 'hosted')
    rows = parity.compare(name, judge, path, (size,))
    assert not [row for row in rows if not row['ok']]
    bar, x = float(rows[0]['bar']), parity.images(size)
    model = jeffnet.create_model(name, 'nnx', weights=path, features_only=True)
    maps = keras_reference.feature_maps(judge.model, x)
    places = [place_of(np.asarray(level), maps, bar) for level in jeffnet.predictor(model)(x)]
    assert places == sorted(places)
    made = jeffnet.create_model(name, 'objax', weights=path)
    for kind in ('weights.h5', 'h5'):  # of Keras 3 and Keras 2
        fresh = judge.rebuild()
        fresh.load_weights(jeffnet.save_weights(made, tmp_path / f'back.{kind}'))
        assert all(np.array_equal(a, b) for a, b in zip(fresh.get_weights(), judge.model.get_weights(), strict=True))
    loaded = jeffnet.flat_variables(made)
    for kind in keras_reference.FORMATS:
        path = keras_reference.save(judge.model, tmp_path, kind)
        flat = jeffnet.flat_variables(jeffnet.create_model(name, weights=path)[1])
        assert all(np.array_equal(flat[variable], array) for variable, array in loaded.items())


def place_of(level: np.ndarray, maps: list[np.ndarray], bar: float) -> int:
    """Which of Keras' feature maps, in their order, a level is; each has other random weights behind it."""
    errors = [np.abs(level - m).max() / parity.spread(m) if m.shape == level.shape else np.inf for m in maps]
    assert min(errors) < bar
    return int(np.argmin(errors))


def test_resnet_rs_of_keras_2(tmp_path):
    """Keras 3 left ResNet-RS out; Keras 2 has it, which shares no process with Keras 3."""
    subprocess.run([sys.executable, '-m', 'benchmarks.tf_keras_reference', str(tmp_path)], check=True, cwd=ROOT)
    judged = np.load(tmp_path / 'logits.npz')
    with jax.enable_x64(True):
        for kind in ('h5', 'weights.h5', 'keras'):
            path = tmp_path / f'model.{kind}'
            module, variables = jeffnet.create_model('keras_resnetrs50', weights=path, dtype=jnp.float64)
            error = np.abs(jeffnet.predictor(module, variables)(judged['x']) - judged['y']).max()
            assert error < 2e-5 * parity.spread(judged['y'])  # the file has mean and variance in float32, we exactly


def test_files_without_names_of_layers(judge, weights):
    with h5py.File(weights, 'a') as file:
        for group in file['layers'].values():
            if 'name' in group['vars'].attrs:
                del group['vars'].attrs['name']
    assert files.read(weights).layout == keras_file.PLACED
    assert all(row['ok'] for row in parity.compare(TINY, judge, weights, (SIZE,)))


# ----------------------------------------------------------------------------------------------------------- way back


def test_the_command_translates_both_ways(judge, weights, tmp_path, capsys):
    ours = tmp_path / 'ours.safetensors'
    assert keras_command.main(['--model', TINY, '--weights', str(weights), '--output', str(ours)]) == 0
    shown = capsys.readouterr().out
    assert '262 arrays of the network filled' in shown and 'logits' in shown and 'keras-tf' in shown
    back = tmp_path / 'back.weights.h5'
    assert keras_command.main(['--model', TINY, '--weights', str(ours), '--output', str(back)]) == 0
    first, second = (files.read(path).arrays for path in (weights, back))
    assert first.keys() == second.keys() and all(np.array_equal(first[k].read(), second[k].read()) for k in first)
    capsys.readouterr()
    assert keras_command.main(['--model', TINY, '--output', str(ours), '--num-classes', '-2']) == 2
    assert "'-2' is not a whole number, -1 or more" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- bad files


def test_another_architecture_is_refused(weights):
    with pytest.raises(ValueError, match='keras_mobilenet_v2_035: use that name'):
        jeffnet.create_model('keras_mobilenet_v2', weights=weights)
    with pytest.raises(ValueError, match='of a network that pads as Keras does'):
        jeffnet.create_model('pt_mobilenetv2_100', weights=weights)


def test_no_tensor_is_left_out(weights, judge, tmp_path):
    """Arrays within a layer, of the model itself, or a second one for the same variable are unexpected, not ignored."""
    with h5py.File(weights, 'a') as file:
        file['layers/conv2d/inner/vars/0'] = np.zeros(3, np.float32)
        file.require_group('vars')['0'] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r'2 unexpected in the file(.|\n)*Conv1/inner/vars/0(.|\n)*vars/0'):
        jeffnet.create_model(TINY, weights=weights)
    path = keras_reference.save(judge.model, tmp_path, 'hosted')
    with h5py.File(path, 'a') as file:
        names = keras_file.listed(file, 'layer_names') or []
        file.attrs['layer_names'] = [name.encode() for name in (*names, 'CONV1')]
        file['CONV1'] = file['Conv1']
    with pytest.raises(ValueError, match=r'1 unexpected in the file(.|\n)*CONV1/kernel'):
        jeffnet.create_model(TINY, weights=path)


def test_names_with_a_word_before_them(judge, tmp_path):
    path = keras_reference.save(judge.model, tmp_path, 'hosted')
    plain = jeffnet.flat_variables(jeffnet.create_model(TINY, weights=path)[1])
    with h5py.File(path, 'a') as file:
        names = [name for name in keras_file.listed(file, 'layer_names') or [] if len(file[name])]
        for name in names:
            file.move(name, f'encoder_{name}')
        file.attrs['layer_names'] = [f'encoder_{name}'.encode() for name in names]
    found = jeffnet.flat_variables(jeffnet.create_model(TINY, weights=path)[1])
    assert all(np.array_equal(found[name], array) for name, array in plain.items())


@pytest.mark.parametrize('classes', [-1, 0, 5])
def test_files_without_a_head(judge, classes, tmp_path, caplog):
    model = jeffnet.create_model(TINY, 'nnx', num_classes=-1, weights=keras_reference.save(judge.model, tmp_path, 'h5'))
    path = jeffnet.save_weights(model, tmp_path / 'notop.weights.h5')
    fresh = keras_reference.build(TINY, SIZE, drawn=False, include_top=False)
    fresh.load_weights(path)
    body = judge.model.get_weights()[:-2]
    assert all(np.array_equal(a, b) for a, b in zip(fresh.get_weights(), body, strict=True))
    with pytest.raises(ValueError, match='it has no classifier: pass num_classes=-1'):
        jeffnet.create_model(TINY, weights=path)
    jeffnet.create_model(TINY, num_classes=classes, weights=path)
    assert ('a fresh classifier of 5 classes' in caplog.text) == (classes == 5)


def test_other_channels(judge, tmp_path):
    """The layers that normalise an image have its channels; a file of others is not fitted unless asked for."""
    model = keras_reference.build('keras_efficientnet_b0', SIZE, drawn=False, input_shape=(*SIZE, 1))
    path = keras_reference.save(model, tmp_path, 'weights.h5')
    made = jeffnet.create_model('keras_efficientnet_b0', 'nnx', weights=path, in_chans=1)
    model.load_weights(jeffnet.save_weights(made, tmp_path / 'back.weights.h5'))
    arguments = ['--model', 'EfficientNetB0', '--weights', str(path), '--output', str(tmp_path / 'x.safetensors')]
    assert keras_command.main(arguments) == 2 and keras_command.main([*arguments, '--in-chans', '1']) == 0


def test_files_of_timms_other_network_are_refused(tmp_path):
    network = timm.create_model('mobilenetv2_035')
    path = torch_reference.save_weights(network, tmp_path / 'timm.safetensors')
    with pytest.raises(ValueError, match='of a network that pads as PyTorch does'):
        jeffnet.create_model(TINY, weights=path)


def test_shuffled_layers_are_refused(judge, tmp_path):
    path = keras_reference.save(judge.model, tmp_path, 'hosted')
    with h5py.File(path, 'a') as file:
        names = keras_file.listed(file, 'layer_names') or []
        first, second = names.index('block_14_expand'), names.index('block_15_expand')
        names[first], names[second] = names[second], names[first]
        file.attrs['layer_names'] = [name.encode() for name in names]
    with pytest.raises(ValueError, match='shuffled: block_15_expand lies before block_14_project'):
        jeffnet.create_model(TINY, weights=path)


def test_damaged_files_are_refused(weights, tmp_path):
    cut = tmp_path / 'cut.weights.h5'
    cut.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r'cannot read .*cut.weights.h5'):
        jeffnet.create_model(TINY, weights=cut)
    other = tmp_path / 'other.h5'
    with h5py.File(other, 'w') as file:
        file['data'] = np.zeros(3)
    with pytest.raises(ValueError, match='none of the files that Keras writes'):
        jeffnet.create_model(TINY, weights=other)
    linked = tmp_path / 'linked.h5'
    with h5py.File(linked, 'w') as file:
        file.attrs['layer_names'] = [b'a']
        file['a'] = h5py.ExternalLink(str(weights), '/layers')
    with pytest.raises(ValueError, match='link to another place'):
        jeffnet.create_model(TINY, weights=linked)


def test_the_first_generation_of_resnet50_is_told_apart(tmp_path):
    path = tmp_path / 'resnet50_weights_tf_dim_ordering_tf_kernels.h5'
    with h5py.File(path, 'w') as file:
        file.attrs['layer_names'] = [b'res2a_branch2a']
        group = file.create_group('res2a_branch2a')
        group.attrs['weight_names'] = [b'res2a_branch2a_W_1:0']
        group['res2a_branch2a_W_1:0'] = np.zeros((1, 1, 64, 64), np.float32)
    with pytest.raises(ValueError, match='first generation'):
        jeffnet.create_model('keras_resnet50', weights=path)


# ------------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize('mode', ['caffe', 'tf', 'torch'])
def test_pixels_are_those_of_keras(mode):
    from jeffnet.data.preprocessing import normalise

    info = next(jeffnet.model_info(n) for n in NAMES if jeffnet.model_info(n).preprocessing == f'keras-{mode}')
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.float32)
    theirs = keras.applications.imagenet_utils.preprocess_input(pixels.copy(), mode=mode, data_format='channels_last')
    ours = normalise(pixels, Preprocessing.of(info, image_size=(8, 9)))
    np.testing.assert_allclose(ours, theirs, atol=1e-6 * np.abs(theirs).max() * 4)  # another order of the same steps


def test_every_name_has_its_classifier_and_first_convolution():
    for name in NAMES:
        chosen = plan(name)
        declared = declarations(chosen.block, chosen.policy)
        assert {f'{chosen.block.first_conv}.kernel', f'{chosen.block.classifier_name}.kernel'} <= declared.keys()
