"""ResNetV2: layers, small networks and feature maps against timm's; test_timm_networks.py has all names."""

import json
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from timm import layers as timm_layers
from timm.models import resnetv2 as timm_resnetv2

import jeffnet
from jeffnet.core import initial
from jeffnet.core.activations import identity
from jeffnet.core.block import PYTORCH, declarations
from jeffnet.core.layers import GroupNorm, StdConv
from jeffnet.core.norm_act import EvoNormS0, FilterResponseNorm
from jeffnet.models import resnetv2
from jeffnet.weights.names import timm_names, to_timm
from tests import small_networks

DEPTHS = (2, 2)


def ours(depths=DEPTHS, **options):
    """A small network; of 32 channels, since that is the number of groups."""
    return partial(resnetv2.ResNetV2, depths, features=32, **options)


def theirs(depths=DEPTHS, expansion=4, **options):
    """timm's of the same widths."""
    channels = tuple(32 * 2**i * expansion for i in range(len(depths)))
    widths = {'channels': channels, 'stem_chs': 32, 'bottle_ratio': 1 / expansion}
    layers = {'conv_layer': timm_layers.create_conv2d, 'norm_layer': timm_layers.BatchNormAct2d}
    return partial(timm_resnetv2.ResNetV2, depths, **widths, **{**layers, **options})


BASIC, THEIR_BASIC = {'block': resnetv2.PreActBasic}, {'basic': True, 'expansion': 1}
DEEP, THEIR_DEEP = {'stem_widths': (16, 16), 'avg_down': True}, {'stem_type': 'deep', 'avg_down': True}
TIERED, THEIR_TIERED = {'stem_widths': (12, 16), 'avg_down': True}, {'stem_type': 'tiered', 'avg_down': True}
BIT = {'conv_layer': resnetv2.bit_conv, 'norm_layer': GroupNorm, 'zero_pad_pool': True}
THEIR_BIT = {
    'conv_layer': partial(timm_layers.StdConv2d, eps=1e-8), 'norm_layer': timm_layers.GroupNormAct,
    'stem_type': 'fixed',
}  # fmt: skip
EVOS, FRN = ({'norm_layer': norm, 'act': identity} for norm in (EvoNormS0, FilterResponseNorm))
SMALL = {  # our options, the published network whose entry in the table it takes, timm's options
    'basic': (BASIC, 'pt_resnetv2_18', THEIR_BASIC),
    'basic_deep': (BASIC | DEEP, 'pt_resnetv2_18d', THEIR_BASIC | THEIR_DEEP),
    'bottleneck': ({}, 'pt_resnetv2_50', {}),
    'tiered': (TIERED, 'pt_resnetv2_50t', THEIR_TIERED),
    'bit': (BIT, 'pt_resnetv2_50x1_bit', THEIR_BIT),
    'group_norm': ({'norm_layer': GroupNorm}, 'pt_resnetv2_50d_gn', {'norm_layer': timm_layers.GroupNormAct}),
    'evo_norm': (EVOS, 'pt_resnetv2_50d_evos', {'norm_layer': timm_layers.EvoNorm2dS0}),
    'response_norm': (FRN, 'pt_resnetv2_50d_frn', {'norm_layer': timm_layers.FilterResponseNormTlu2d}),
}


@pytest.mark.parametrize('kind', SMALL)
def test_small_networks_compute_what_timms_do(kind, tmp_path):
    options, like, their_options = SMALL[kind]
    assert not small_networks.faults(
        f'pt_small_resnetv2_{kind}', ours(**options), like, theirs(**their_options), tmp_path
    )


# Of four stages, so that two are dilated at stride 8; average pools in shortcuts then have stride 1.
@pytest.mark.parametrize('kind', ['basic_deep', 'tiered'])
def test_dilated_networks_compute_what_timms_do(kind, tmp_path):
    options, like, their_options = SMALL[kind]
    depths = (1, 1, 2, 2)
    ours_, theirs_ = ours(depths, **options), theirs(depths, output_stride=8, **their_options)
    assert not small_networks.faults(f'pt_dilated_resnetv2_{kind}', ours_, like, theirs_, tmp_path, output_stride=8)


def test_feature_maps_are_those_of_timm(tmp_path):
    assert not small_networks.feature_faults('pt_resnetv2_18d', tmp_path)


LAYERS = {
    'bit_conv': (resnetv2.bit_conv(6, 32, 3), timm_layers.StdConv2d(6, 32, 3, eps=1e-8)),
    'standardised': (StdConv(6, 32, 3), timm_layers.StdConv2d(6, 32, 3)),
    'group_norm': (GroupNorm(64), timm_layers.GroupNormAct(64, apply_act=False)),
    'evo_norm': (EvoNormS0(64), timm_layers.EvoNorm2dS0(64)),
    'response_norm': (FilterResponseNorm(64), timm_layers.FilterResponseNormTlu2d(64)),
}


@pytest.mark.parametrize('kind', LAYERS)
def test_layers_have_the_epsilon_of_timms(kind):
    """Kernels and inputs so small that it shows."""
    block, reference = LAYERS[kind]
    rng = np.random.default_rng(0)
    values = {
        key: (1e-4 if kind in ('bit_conv', 'standardised') else 1) * rng.standard_normal(p.shape).astype(np.float32)
        for key, p in declarations(block).items()
    }
    names = timm_names(block, PYTORCH)
    reference.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in to_timm(values, names).items()})
    x = 3e-3 * rng.standard_normal((2, 7, 6, block.in_features if 'kernel' in values else 64)).astype(np.float32)
    expected = reference(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach().numpy()
    found = jeffnet.nnx.build(block, PYTORCH, initial.Source(0, values))(jnp.asarray(x))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_the_classifier_is_written_as_the_convolution_that_timm_has(tmp_path):
    small_networks.register('pt_written_resnetv2', ours(**BIT), 'pt_resnetv2_50x1_bit')
    model = jeffnet.create_model('pt_written_resnetv2', 'nnx', num_classes=7)
    file = jeffnet.save_weights(model, tmp_path / 'model.safetensors')
    theirs(**THEIR_BIT)(num_classes=7).load_state_dict(safetensors.torch.load_file(file))
    with pytest.raises(ValueError, match='its classifier has 7 classes: pass num_classes=7'):
        jeffnet.create_model('pt_written_resnetv2', 'nnx', weights=file)
    folder = jeffnet.save_weights(model, tmp_path / 'model')
    assert json.loads((folder / 'config.json').read_text())['num_features'] == 256
