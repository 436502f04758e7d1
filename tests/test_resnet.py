"""ResNet: its names and facts, timm's arithmetic in every framework, training statistics, initial values, files."""

import jax
import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.numpy import load_file

import jeffnet
from benchmarks import parity, torch_reference
from jeffnet.core.block import declarations
from jeffnet.create import plan
from jeffnet.models.resnet import build_stages
from jeffnet.weights import judges

NAMES = jeffnet.list_models(family='resnet')
BAR = parity.BAR32  # of the spread between inputs: ten times what float32 loses in these networks


@pytest.fixture(scope='module')
def network():
    """timm's ResNet-18, randomised."""
    return torch_reference.reference('pt_resnet18')


@pytest.fixture
def weights(network, tmp_path):
    """A file of its arrays."""
    return torch_reference.save_weights(network, tmp_path / 'model.safetensors')


def run(name, framework, x, **options):
    """The output and the module of a model."""
    made = jeffnet.create_model(name, framework, **options)
    module, variables = made if framework == 'linen' else (made, None)
    return jeffnet.predictor(module, variables)(x), module


def close(ours, theirs):
    """Whether two outputs are the same but for rounding, in units of the spread between inputs."""
    theirs = theirs.detach().numpy()
    return np.abs(np.asarray(ours) - theirs).max() < BAR * parity.spread(theirs)


def nchw(x):
    return torch.from_numpy(x).permute(0, 3, 1, 2)


# ----------------------------------------------------------------------------------------------------- names, facts


def test_names_pick_weights_by_timms_tags():
    depths, forms = (10, 14, 18, 26, 34, 50, 101, 152, 200), ('', 'c', 'd', 's', 't')
    every = {f'resnet{depth}{form}' for depth in depths for form in forms}
    names = {f'pt_{arch}' for arch in every | {'resnet50_gn', 'test_resnet'} if timm.is_model(arch)}
    assert {name for name in NAMES if '.' not in name} == names
    tags = {name.partition('.')[2] for name in NAMES if name.startswith('pt_resnet50.')}
    assert {'a2_in1k', 'tv2_in1k', 'fb_swsl_ig1b_ft_in1k', 'gluon_in1k'} < tags
    assert jeffnet.model_info('pt_resnet50.a1_in1k').name == 'pt_resnet50'
    assert {jeffnet.model_info(f'pt_resnet50.{tag}').weights for tag in tags} == {f'resnet50.{tag}' for tag in tags}
    assert jeffnet.model_info('pt_resnet50').tag == timm.get_pretrained_cfg('resnet50').tag == 'a1_in1k'


def test_families_and_papers_go_by_name():
    families = {
        'pt_resnet50d': ('resnet', 'arXiv:1812.01187'), 'pt_resnet50.a2_in1k': ('resnet', 'arXiv:2110.00476'),
        'pt_resnext101_32x8d.fb_wsl_ig1b_ft_in1k': ('resnext', 'arXiv:1805.00932'),
        'pt_wide_resnet50_2.tv_in1k': ('wide_resnet', 'arXiv:1605.07146'),
        'pt_seresnextaa101d_32x8d': ('resnet_antialiased', 'arXiv:1904.11486'),
        'pt_senet154': ('seresnet', 'arXiv:1709.01507'), 'pt_ecaresnetlight': ('ecaresnet', 'arXiv:1910.03151'),
        'pt_resnetrs50': ('resnetrs', 'arXiv:2103.07579'), 'pt_skresnet18': ('sknet', 'arXiv:1903.06586'),
        'pt_resnest14d': ('resnest', 'arXiv:2004.08955'), 'pt_resnet20_cifar': ('resnet_cifar', 'arXiv:1512.03385'),
    }  # fmt: skip
    assert {name: (jeffnet.model_info(name).family, jeffnet.model_info(name).paper) for name in families} == families


@pytest.mark.parametrize('arch', ['resnet18', 'resnet34', 'resnet50', 'resnet152', 'resnext50_32x4d',
                                  'resnext101_64x4d', 'wide_resnet101_2'])  # fmt: skip
def test_multiply_adds_are_those_that_torchvision_states(arch):
    meta = torchvision.models.get_model_weights(arch).IMAGENET1K_V1.meta
    info = jeffnet.model_info(f'pt_{arch}')
    assert info.parameters == meta['num_params']
    if info.input_size == (224, 224, 3):
        assert info.multiply_adds == pytest.approx(1e9 * meta['_ops'], rel=1e-3)


# --------------------------------------------------------------------------------------------------------- identity


def test_logits_are_those_of_timm_in_every_framework(network, weights):
    rows = parity.compare('pt_resnet18', network, weights, sizes=((66, 47),))  # an even and an odd side
    assert all(row['ok'] for row in rows) and len(rows) == 3


def test_bottlenecks_are_those_of_timm_in_every_framework(tmp_path):
    model = torch_reference.reference('pt_resnet26')
    rows = parity.compare(
        'pt_resnet26', model, torch_reference.save_weights(model, tmp_path / 'a.safetensors'), ((51, 38),)
    )
    assert all(row['ok'] for row in rows) and len(rows) == 3


def test_the_proof_notices_another_place_of_the_stride(tmp_path):
    model = torch_reference.reference('pt_resnet26')
    weights = torch_reference.save_weights(model, tmp_path / 'model.safetensors')
    model.layer3[0].conv1.stride, model.layer3[0].conv2.stride = (2, 2), (1, 1)  # as the paper has it, and v1.5 not
    theirs = torch.from_numpy(torch_reference.torch_logits(model, x := parity.images((64, 64))))
    assert not close(run('pt_resnet26', 'linen', x, weights=weights)[0], theirs)


def test_a_training_step_has_timms_logits_and_statistics(network, weights):
    x = parity.images((64, 64))
    module, variables = jeffnet.create_model('pt_resnet18', weights=weights)
    step = jax.jit(lambda v, x: module.apply(v, x, training=True, mutable=['batch_stats']))
    logits, changed = step(variables, x)
    try:
        assert close(logits, network.train()(nchw(x)))
        after = {k: v.numpy().copy() for k, v in network.state_dict().items() if 'running' in k}
    finally:
        network.load_state_dict({k: torch.from_numpy(v) for k, v in load_file(weights).items()})
        network.eval()
    ours = judges.timm_state(module, {**variables, **changed})
    for name, value in after.items():  # float32 over up to 32 x 32 x 4 places; 1e-4 of what is usual in the layer
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-4 * np.abs(value).mean(), err_msg=name)


@pytest.mark.parametrize('output_stride', [8, 16, 32])
def test_feature_maps_are_those_of_timm(network, weights, output_stride):
    theirs = timm.create_model('resnet18', features_only=True, output_stride=output_stride)
    theirs.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith('fc.')})
    x = parity.images((56, 49))
    with torch.no_grad():
        expected = theirs.eval()(nchw(x))
    maps, module = run('pt_resnet18', 'nnx', x, weights=weights, features_only=True, output_stride=output_stride)
    assert len(maps) == 5 and all(close(a, b.permute(0, 2, 3, 1)) for a, b in zip(maps, expected, strict=True))
    kept = ('num_chs', 'reduction', 'module')
    ours, expected = module.feature_info, theirs.feature_info.get_dicts()
    assert [[info[k] for k in kept] for info in ours] == [[info[k] for k in kept] for info in expected]


@pytest.mark.parametrize('output_stride', [8, 16])
def test_bottlenecks_dilate_as_timms(output_stride, tmp_path):
    model = torch_reference.reference('pt_resnet26', output_stride=output_stride)
    weights = torch_reference.save_weights(model, tmp_path / 'model.safetensors')
    theirs = torch.from_numpy(torch_reference.torch_logits(model, x := parity.images((56, 49))))
    assert close(run('pt_resnet26', 'linen', x, weights=weights, output_stride=output_stride)[0], theirs)


def test_num_classes_0_and_minus_1_are_timms_features(network, weights):
    x = parity.images((64, 64))
    with torch.no_grad():
        features = network.forward_features(nchw(x))
        pooled = network.forward_head(features, pre_logits=True)
    assert close(run('pt_resnet18', 'linen', x, weights=weights, num_classes=0)[0], features.permute(0, 2, 3, 1))
    assert close(run('pt_resnet18', 'linen', x, weights=weights, num_classes=-1)[0], pooled)


def test_taps_are_the_stages():
    _, module = run('pt_resnet18', 'nnx', x := parity.images((64, 64)), num_classes=-1)
    shapes = {name: value.shape[1:] for name, value in jeffnet.intermediates(module, x).items()}
    widths = {'stage_0': (32, 64), 'stage_1': (16, 64), 'stage_2': (8, 128), 'stage_3': (4, 256), 'stage_4': (2, 512)}
    assert shapes == {name: (side, side, width) for name, (side, width) in widths.items()}


# --------------------------------------------------------------------------------------------- initial values, drops


def test_initial_values_of_the_classifier_and_of_the_last_scales():
    ours = judges.timm_state(*jeffnet.create_model('pt_resnet26'))
    assert np.abs(ours['fc.weight']).max() < 2048**-0.5 and not ours['layer1.0.bn3.weight'].any()


def test_drop_path_rates_are_those_of_timm():
    theirs = timm.create_model('resnet26', drop_path_rate=0.2)
    blocks = [b for n in range(1, 5) for b in getattr(theirs, f'layer{n}')]
    rates = [b.drop_path.drop_prob if b.drop_path else 0.0 for b in blocks]
    block = plan('pt_resnet26', drop_path_rate=0.2, drop_rate=0.3).block
    np.testing.assert_allclose([b.drop_rate for stage in build_stages(block) for b in stage], rates)
    assert block.drop_rate == 0.3


@pytest.mark.parametrize('part', ['shortcut', 'classifier'])
def test_drops_act_in_training_alone(part):
    options = {'drop_path_rate': 0.9} if part == 'shortcut' else {'drop_rate': 0.9}
    block = plan('pt_resnet18', num_classes=8, **options).block
    variables = jeffnet.linen.variables_of(block, values=_ones(block))
    module, x = jeffnet.linen.build(block), parity.images((32, 32))
    apply = jax.jit(module.apply, static_argnames=('training', 'mutable'))

    def train(seed):
        key = {'dropout': jax.random.key(seed)}
        return apply(variables, x, training=True, mutable=('batch_stats',), rngs=key)[0]

    assert np.array_equal(train(0), train(0)) and not np.allclose(train(0), train(1))
    assert np.array_equal(apply(variables, x), apply(variables, x))


def _ones(block):
    """The last scales of the residual branches, which begin as zero and would hide a branch that is dropped."""
    return {name: np.ones(d.shape, np.float32) for name, d in declarations(block).items() if name.endswith('2.scale')}


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_round_trip_is_exact_for_every_array(framework, weights, tmp_path):
    made = jeffnet.create_model('pt_resnet18', framework, weights=weights)
    module, variables = made if framework == 'linen' else (made, None)
    back, state = load_file(jeffnet.save_weights(module, tmp_path / 'b.safetensors', variables)), load_file(weights)
    assert back.keys() == state.keys() and all(np.array_equal(back[name], state[name]) for name in state)


def test_files_of_torchvision_are_read(tmp_path):
    theirs = torch_reference.randomise(torchvision.models.resnet18(), 64)
    torch.save(theirs.state_dict(), path := tmp_path / 'resnet18.pth')
    expected = torch.from_numpy(torch_reference.torch_logits(theirs, x := parity.images((64, 64))))
    assert close(run('pt_resnet18', 'linen', x, weights=path)[0], expected)


def test_timm_loads_our_folder_by_itself(weights, tmp_path):
    module, variables = jeffnet.create_model('pt_resnet18', weights=weights, in_chans=1, output_stride=16)
    folder = jeffnet.save_weights(module, tmp_path / 'folder', variables)
    theirs = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    x = parity.images((64, 64), channels=1)
    assert close(jeffnet.predictor(module, variables)(x), torch.from_numpy(torch_reference.torch_logits(theirs, x)))


def test_the_command_line_verifies_against_timm(weights, capsys):
    from jeffnet.weights.__main__ import main

    assert main(['verify', str(weights), '--model', 'pt_resnet18', '--against', 'timm']) == 0
    assert ': the same function' in capsys.readouterr().out
