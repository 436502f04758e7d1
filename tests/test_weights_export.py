"""Weights out: files and folders that timm loads, bit for bit, and jeffnet again in every framework."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

import jeffnet
from benchmarks import parity, torch_reference
from jeffnet.core.layers import BatchNorm, GroupNorm
from tests.conftest import SMALL as NAME


def made(framework, path, name=NAME, **options):
    """(model, variables) as `save_weights` takes them."""
    model = jeffnet.create_model(name, framework, weights=path, **options)
    return model if framework == 'linen' else (model, None)


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_round_trip_is_exact_for_every_array(framework, state, write, tmp_path):
    model, variables = made(framework, write(state, tmp_path / 'a.safetensors'))
    path = jeffnet.save_weights(model, tmp_path / 'b.safetensors', variables)
    back = load_file(path)
    assert back.keys() == state.keys()
    for name, array in state.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape, name
        np.testing.assert_array_equal(back[name], array)


@pytest.mark.parametrize('name', ['tf_mixnet_s', 'tf_efficientnet_es', 'pt_mobilenetv3_small_075'])
def test_round_trip_of_other_kinds_of_blocks(name, tmp_path):
    network = torch_reference.reference(name)
    path = torch_reference.save_weights(network, tmp_path / 'a.safetensors')
    back = load_file(jeffnet.save_weights(jeffnet.create_model(name, 'nnx', weights=path), tmp_path / 'b.safetensors'))
    assert back.keys() == network.state_dict().keys()
    for key, tensor in network.state_dict().items():
        np.testing.assert_array_equal(back[key], tensor.numpy())


def test_timm_loads_our_file_and_gives_our_logits(tmp_path):
    """Tolerance: float32 against float32, in units of the spread, as in the parity table."""
    module, variables = jeffnet.create_model('pt_mnasnet_small', weights=None, num_classes=7, in_chans=1, seed=3)
    rng = np.random.default_rng(0)
    import jax

    variables = jax.tree.map(lambda x: x + 0.1 * rng.random(x.shape).astype(np.float32), variables)
    path = jeffnet.save_weights(module, tmp_path / 'model.safetensors', variables)
    network = timm.create_model('mnasnet_small', num_classes=7, in_chans=1, checkpoint_path=str(path)).eval()
    for size in (32, 49):
        x = parity.images((size, size), channels=1)
        expected = torch_reference.torch_logits(network, x)
        ours = np.asarray(jeffnet.predictor(module, variables)(x))
        assert np.abs(ours - expected).max() < parity.BAR32 * parity.spread(expected)


def test_timm_and_jeffnet_load_our_folder_by_itself(state, write, tmp_path):
    path = write(state, tmp_path / 'a.safetensors')
    module, variables = jeffnet.create_model(
        NAME, weights=path, num_classes=5, in_chans=4, bn_eps=1e-3, output_stride=16
    )
    preprocessing = {'kind': 'tf', 'image_size': [64, 48], 'crop_pct': 0.9, 'mean': [0.5] * 3, 'std': [0.5] * 3}
    labels = ['a', 'b', 'c', 'd', 'e']
    folder = jeffnet.save_weights(
        module, tmp_path / 'folder', variables, preprocessing=preprocessing, classes=labels, metrics={'top1': 50.0}
    )
    assert sorted(p.name for p in folder.iterdir()) == ['README.md', 'config.json', 'model.safetensors']
    network = timm.create_model(f'local-dir:{folder}', pretrained=True)
    assert (network.num_classes, network.conv_stem.in_channels, network.bn1.eps) == (5, 4, 1e-3)
    assert network.pretrained_cfg['input_size'] == (4, 64, 48) and network.pretrained_cfg['crop_pct'] == 0.9
    np.testing.assert_array_equal(network.classifier.bias.detach().numpy(), variables['params']['classifier']['bias'])
    for options in ({'name': f'local-dir:{folder}', 'pretrained': True}, {'name': NAME, 'weights': folder}):
        again = jeffnet.create_model(framework='linen', **options)
        assert again[0] == module and again[0].policy == module.policy
        for name, array in jeffnet.flat_variables(variables).items():
            np.testing.assert_array_equal(jeffnet.flat_variables(again[1])[name], array)
    config = jeffnet.weights.read_config(folder)
    assert config['classes'] == labels and config['metrics'] == {'top1': 50.0}
    assert config['preprocessing']['kind'] == 'tf' and config['preprocessing']['image_size'] == [64, 48]
    card = (folder / 'README.md').read_text()
    assert card.startswith('---\nlibrary_name: jeffnet\n') and '| top1 | 50.0 |' in card and '2. c' in card
    random = jeffnet.create_model(f'local-dir:{folder}')[1]  # as in timm: the architecture alone
    assert not np.array_equal(random['params']['bn1']['bias'], variables['params']['bn1']['bias'])


def test_a_folder_that_timm_wrote(state, tmp_path):
    network = timm.create_model('mnasnet_small', num_classes=6)
    timm.models.save_for_hf(network, tmp_path, safe_serialization=True)
    for name, options in ((f'local-dir:{tmp_path}', {'pretrained': True}), (NAME, {'weights': tmp_path})):
        model = jeffnet.create_model(name, 'objax', **options)
        assert (model.num_classes, model.variant) == (6, NAME)
        bias = jeffnet.flat_variables(model)['classifier.bias']
        np.testing.assert_array_equal(bias, network.classifier.bias.detach().numpy())
    with pytest.raises(ValueError, match=r'is a checkpoint of pt_mnasnet_small, not of pt_mnasnet_100'):
        jeffnet.create_model('pt_mnasnet_100', weights=tmp_path)


@pytest.mark.parametrize(
    'architecture, tag, name',
    [
        ('tf_efficientnet_b0', 'ns_jft_in1k', 'tf_efficientnet_b0_ns'),
        ('tf_efficientnet_b0', 'ap_in1k', 'tf_efficientnet_b0_ap'),
        ('tf_efficientnet_b0', 'mine', 'tf_efficientnet_b0'),
        ('efficientnet_b0', None, 'pt_efficientnet_b0'),
        ('tf_efficientnet_l2', 'ns_jft_in1k_475', 'tf_efficientnet_l2_ns_475'),
        ('resnet50', 'a1_in1k', 'pt_resnet50'),
        ('resnet50', 'a2_in1k', 'pt_resnet50.a2_in1k'),
        ('convnext_tiny', 'in12k', 'pt_convnext_tiny.in12k'),
        ('no_such_network', 'in12k', None),
    ],
)
def test_architectures_of_timm_by_our_names(architecture, tag, name):
    from jeffnet.weights.checkpoint import model_of_timm

    assert model_of_timm(architecture, tag) == name


def test_variables_alone_say_what_their_shapes_show(state, write, tmp_path):
    path = write(state, tmp_path / 'a.safetensors')
    _, variables = jeffnet.create_model(NAME, weights=path)
    jeffnet.save_weights(variables, path)
    with safe_open(path, 'numpy') as file:
        assert json.loads(file.metadata()['jeffnet'])['model'] == NAME
    _, several = jeffnet.create_model('pt_mobilenetv3_small_100', num_classes=4)
    jeffnet.save_weights(several, path)  # pt_ and tf_ have these arrays, and the file must not choose
    with safe_open(path, 'numpy') as file:
        assert 'jeffnet' not in file.metadata()
    network = timm.create_model('tf_mobilenetv3_small_100', num_classes=4, checkpoint_path=str(path))
    np.testing.assert_array_equal(
        network.classifier.weight.detach().numpy().T, several['params']['classifier']['kernel']
    )
    with pytest.raises(ValueError, match='those of several models, and a folder must say which one: give name='):
        jeffnet.save_weights(several, tmp_path / 'folder')
    jeffnet.save_weights(several, tmp_path / 'folder', name='tf_mobilenetv3_small_100')
    assert jeffnet.weights.read_config(tmp_path / 'folder')['model'] == 'tf_mobilenetv3_small_100'
    with pytest.raises(ValueError, match=r'not those of pt_mnasnet_100: they fit .*pt_mobilenetv3_small_100'):
        jeffnet.save_weights(several, path, name='pt_mnasnet_100')
    with pytest.raises(ValueError, match='not those of any model'):
        jeffnet.save_weights({'params': {'a': np.zeros(3)}}, path)


@pytest.mark.parametrize('options', [{'num_classes': 0}, {'num_classes': -1}, {'features_only': True}])
def test_networks_without_a_classifier(options, state, write, tmp_path):
    model = jeffnet.create_model(NAME, 'nnx', weights=write(state, tmp_path / 'a.safetensors'), **options)
    back = load_file(jeffnet.save_weights(model, tmp_path / 'b.safetensors'))
    assert 'classifier.weight' not in back
    for name, array in back.items():
        np.testing.assert_array_equal(array, state[name])


def test_the_file_is_whole_or_absent(state, write, tmp_path, monkeypatch):
    path = write(state, tmp_path / 'a.safetensors')
    model, before = jeffnet.create_model(NAME, 'nnx', weights=path), path.read_bytes()

    def full(*args, **kwargs):
        Path(args[1]).write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('safetensors.numpy.save_file', full)
    for target in (path, tmp_path / 'folder'):
        with pytest.raises(OSError, match='No space left'):
            jeffnet.save_weights(model, target)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ['a.safetensors']


def test_bad_targets_and_models(tmp_path):
    module, variables = jeffnet.create_model(NAME, num_classes=2)
    with pytest.raises(ValueError, match=r'x\.pth: jeffnet writes \.safetensors files, folders'):
        jeffnet.save_weights(variables, tmp_path / 'x.pth')
    (tmp_path / 'notes').mkdir()
    (tmp_path / 'notes' / 'a.txt').write_text('mine')
    with pytest.raises(ValueError, match='a folder with other things in it'):
        jeffnet.save_weights(module, tmp_path / 'notes', variables)
    with pytest.raises(ValueError, match='3 classes are named, but the model has 2'):
        jeffnet.save_weights(module, tmp_path / 'x.safetensors', variables, classes=['a', 'b', 'c'])
    with pytest.raises(TypeError, match=r'(pass|give) its variables'):
        jeffnet.save_weights(module, tmp_path / 'x.safetensors')
    with pytest.raises(TypeError, match='expected an Objax or NNX module'):
        jeffnet.save_weights(torch.nn.Linear(1, 1), tmp_path / 'x.safetensors')
    from jeffnet.nnx import build

    with pytest.raises(ValueError, match='was not made by create_model: give name='):
        jeffnet.save_weights(build(BatchNorm(3)), tmp_path / 'x.safetensors')


def test_layers_that_were_exchanged_are_written_too(tmp_path):
    import dataclasses

    from jeffnet.create import plan
    from jeffnet.nnx import build

    chosen = plan(NAME)
    policy = dataclasses.replace(
        chosen.policy, rewrite=lambda b: GroupNorm(b.features, 4) if isinstance(b, BatchNorm) else b
    )
    back = load_file(jeffnet.save_weights(build(chosen.block, policy), tmp_path / 'group.safetensors'))
    assert 'bn1.weight' in back and 'bn1.running_mean' not in back and 'bn1.num_batches_tracked' not in back


def test_edge_networks_of_timm_are_built_as_timm_builds_them(tmp_path, caplog):
    """Trained further by timm, the weights go with timm's strides; the published ones go with those of the release."""
    network = timm.create_model('tf_efficientnet_es', num_classes=5)
    timm.models.save_for_hf(network, tmp_path / 'timm', safe_serialization=True)
    module, variables = jeffnet.create_model(f'local-dir:{tmp_path}/timm', pretrained=True)
    assert not module.stride_in_projection and 'built as timm does' in caplog.text
    caplog.clear()
    jeffnet.save_weights(module, tmp_path / 'a.safetensors', variables)
    assert not caplog.records
    ours, fresh = jeffnet.create_model('tf_efficientnet_es')
    jeffnet.save_weights(ours, tmp_path / 'b.safetensors', fresh)
    assert ours.stride_in_projection and 'timm strides elsewhere' in caplog.text


def test_a_module_its_name_and_its_variables_must_agree(tmp_path):
    module, variables = jeffnet.create_model('pt_mobilenetv3_small_100', num_classes=3)
    with pytest.raises(ValueError, match=r"a module of pt_mobilenetv3_small_100, not of name='tf_"):
        jeffnet.save_weights(module, tmp_path / 'a', variables, name='tf_mobilenetv3_small_100')
    other = jeffnet.create_model('pt_mobilenetv3_small_100', num_classes=5)[1]
    with pytest.raises(ValueError, match=r'not those of pt_mobilenetv3_small_100: see classifier'):
        jeffnet.save_weights(module, tmp_path / 'a', other)
    assert not (tmp_path / 'a').exists()


def test_nothing_beside_a_model_is_lost_and_links_stay(tmp_path):
    model = jeffnet.create_model(NAME, 'nnx', num_classes=2)
    folder = jeffnet.save_weights(model, tmp_path / 'folder')
    (tmp_path / 'link').symlink_to('folder')
    jeffnet.save_weights(model, tmp_path / 'link')
    assert (tmp_path / 'link').is_symlink() and sorted(p.name for p in tmp_path.iterdir()) == ['folder', 'link']
    (tmp_path / 'plain').touch()
    assert (folder / 'model.safetensors').stat().st_mode == (tmp_path / 'plain').stat().st_mode
    (folder / 'optimizer.pt').write_text('mine')
    with pytest.raises(ValueError, match='other things in it'):
        jeffnet.save_weights(model, folder)
    assert (folder / 'optimizer.pt').read_text() == 'mine'
    assert jeffnet.save_weights(model, tmp_path / 'exp-0.5').is_dir()


def test_networks_without_a_classifier_come_back(tmp_path):
    for i, options in enumerate(
        ({'features_only': True, 'out_indices': (1, 3)}, {'num_classes': 0}, {'num_classes': -1})
    ):
        model = jeffnet.create_model(NAME, 'nnx', seed=4, **options)
        for path in (tmp_path / f'{i}.safetensors', tmp_path / f'folder{i}'):
            again = jeffnet.create_model(NAME, 'nnx', weights=jeffnet.save_weights(model, path))
            assert (again.num_classes, again.out_indices) == (model.num_classes, model.out_indices)
            np.testing.assert_array_equal(again.conv_stem.kernel[...], model.conv_stem.kernel[...])


def test_a_full_disk_is_one_error(tmp_path):
    model = jeffnet.create_model(NAME, 'nnx', num_classes=2)
    with pytest.raises(OSError, match=r'/dev/full|full'):
        jeffnet.weights.checkpoint.write_arrays(Path('/proc/full.safetensors'), jeffnet.flat_variables(model), {})
