"""RegNet: small networks and feature maps against timm's, and torchvision's files; test_timm_networks.py has all names.

A small network has four stages of 16, 32, 64 and 128 channels, of which the third has two blocks.
"""

from functools import partial

import numpy as np
import pytest
import timm
import torch
from timm.layers import GroupNormAct
from timm.models.regnet import RegNet, RegNetCfg
from torchvision.models import regnet as torchvision_regnet

import jeffnet
from benchmarks import parity, torch_reference
from jeffnet.core.activations import silu
from jeffnet.core.block import PYTORCH, declarations
from jeffnet.create import plan
from jeffnet.models import regnet
from jeffnet.models.regnet_blocks import groups_of_16
from jeffnet.weights import files, judges, recognise
from jeffnet.weights.names import translate
from jeffnet.weights.stored import StoredArray
from tests import small_networks

SHAPE = {'depth': 5, 'w0': 16, 'wa': 24.0, 'wm': 2.0, 'group_size': 8}
TIMMS = {'act': ('act_layer', 'silu'), 'norm': ('norm_layer', partial(GroupNormAct, group_size=16))}


def pair(like: str, **fields) -> tuple:
    """Our network, the published one whose entry in the table it takes, and timm's, all with the same fields."""
    theirs = dict(TIMMS.get(key, (key, value)) for key, value in fields.items())
    return partial(regnet.RegNet, **{**SHAPE, **fields}), like, partial(RegNet, RegNetCfg(**{**SHAPE, **theirs}))


Y = {'se_ratio': 0.25}
Z = {**Y, 'bottle_ratio': 4.0, 'downsample': None, 'linear_out': True, 'act': silu}
V = {**Y, 'preact': True, 'act': silu}
SMALL = {
    'pt_small_regnetx': pair('pt_regnetx_002', group_size=24),  # which widens and narrows all stages
    'pt_small_regnety_avg': pair('pt_regnety_002', **Y, downsample='avg'),
    'pt_small_regnety_sgn': pair('pt_regnety_040_sgn', **Y, act=silu, norm=groups_of_16),
    'pt_small_regnetv': pair('pt_regnetv_040', **V),
    'pt_small_regnetv_avg': pair('pt_regnetv_064', **V, downsample='avg'),
    'pt_small_regnetz': pair('pt_regnetz_040', **Z),
    'pt_small_regnetz_h': pair('pt_regnetz_040_h', **Z, num_features=40),
}
DILATED = {'pt_small_regnety_avg': 16, 'pt_small_regnetv_avg': 8}


@pytest.mark.parametrize('name', SMALL)
def test_small_networks_compute_what_timms_do(name, tmp_path):
    ours, like, theirs = SMALL[name]
    options = {'output_stride': DILATED.get(name, 32)}
    assert not small_networks.faults(name, ours, like, partial(theirs, **options), tmp_path, **options)


def test_feature_maps_are_those_of_timm(tmp_path):
    assert not small_networks.feature_faults('pt_regnetx_002', tmp_path)


@pytest.mark.parametrize(('name', 'output_stride'), [('regnetv_040', 32), ('regnetz_040_h', 8), ('regnety_002', 16)])
def test_levels_are_those_of_timm(name, output_stride):
    with torch.device('meta'):
        expected = timm.create_model(name, output_stride=output_stride).feature_info
    levels = plan(f'pt_{name}', output_stride=output_stride).block.levels
    assert [{key: each[key] for key in ('num_chs', 'reduction', 'module')} for each in levels] == expected


@pytest.mark.parametrize('name', ['pt_small_regnety_sgn', 'pt_small_regnetv', 'pt_small_regnetz'])
def test_initial_values_are_distributed_as_timms(name):
    """Zeros of the last norms too, which only networks with all shortcuts have."""
    ours, like, theirs = SMALL[name]
    small_networks.register(name, ours, like)
    state = judges.timm_state(*jeffnet.create_model(name))
    expected = theirs(zero_init_last='regnetz' not in name).state_dict()
    assert state.keys() == expected.keys()
    for key, array in state.items():
        reference = expected[key].numpy()
        if reference.std() == 0:
            np.testing.assert_array_equal(array, reference, err_msg=key)
        else:  # two samples of one distribution: five standard errors of a standard deviation
            assert array.std() == pytest.approx(reference.std(), rel=5 / array.size**0.5), key


def test_drop_path_rates_are_those_of_timm():
    theirs = timm.create_model('regnetx_002', drop_path_rate=0.2)
    blocks = [block for n in range(1, 5) for block in getattr(theirs, f's{n}').children()]
    rates = [getattr(block.drop_path, 'drop_prob', 0.0) for block in blocks]
    stages = regnet.build_stages(plan('pt_regnetx_002', drop_path_rate=0.2).block)
    np.testing.assert_allclose([rate for stage in stages for rate in stage.drop_rates], rates, rtol=1e-6)


@pytest.mark.parametrize(('name', 'classes'), [('pt_regnety_320.seer', -1), ('pt_regnety_120.sw_in12k', 11821)])
def test_networks_have_the_classes_of_their_weights(name, classes):
    assert plan(name).block.num_classes == classes
    assert plan(name, num_classes=10).block.num_classes == 10


# ------------------------------------------------------------------------------------------------ torchvision's files

TORCHVISION = {f'pt_{arch}': theirs for arch, theirs in judges.TORCHVISION.items() if arch.startswith('regnet')}


def shapes_of(theirs: str, monkeypatch) -> dict[str, torch.Tensor]:
    """The state dict of torchvision's network without memory, but for the few numbers that it computes of."""
    compute = torchvision_regnet.BlockParams.from_init_params

    def on_cpu(**numbers):
        with torch.device('cpu'):
            return compute(**numbers)

    monkeypatch.setattr(torchvision_regnet.BlockParams, 'from_init_params', on_cpu)
    with torch.device('meta'):
        return getattr(torchvision_regnet, theirs)().state_dict()


@pytest.mark.parametrize('name', TORCHVISION)
def test_every_array_of_torchvision_has_its_place(name, monkeypatch):
    state = shapes_of(TORCHVISION[name], monkeypatch)
    arrays = {key: StoredArray(tuple(array.shape), np.dtype('float32'), array.numpy) for key, array in state.items()}
    block = plan(name, num_classes=1000).block
    found = translate('pytorch', arrays, jeffnet.model_info(name), block, PYTORCH)
    assert {k: v.shape for k, v in found.flat.items()} == {k: v.shape for k, v in declarations(block).items()}
    assert not found.unexpected


def test_a_file_of_torchvision_gives_its_logits(tmp_path):
    network = torch_reference.randomise(torchvision_regnet.regnet_y_400mf(num_classes=10), 64)
    weights = torch_reference.save_weights(network, tmp_path / 'model.safetensors')
    only = jeffnet.FRAMEWORKS[:1]  # all read files with the same code
    (row,) = parity.compare('pt_regnety_004', network, weights, (small_networks.SIZE,), only=only, num_classes=10)
    assert row['ok']
    norm = next(module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d))
    assert (norm.eps, 1 - norm.momentum) == (PYTORCH.bn_eps, PYTORCH.bn_momentum)
    assert set(recognise.models_of(files.read(weights))) == {'pt_regnety_004', 'pt_regnety_004.pycls_in1k'}
