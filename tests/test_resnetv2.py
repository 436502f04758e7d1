"""ResNetV2: layers, small networks and feature maps against timm's; test_timm_networks.py has all names."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from timm import layers as timm_layers
from timm.models import resnetv2 as timm_resnetv2

import jeffnet
from jeffnet.core import initial
from jeffnet.core.activations import identity
from jeffnet.core.block import PYTORCH
from jeffnet.core.layers import GroupNorm, StdConv
from jeffnet.core.norm_act import EvoNormS0, FilterResponseNorm
from jeffnet.models import resnetv2
from tests import small_networks

DEPTHS = (2, 2)


def ours(**options):
    """A small network; 32 channels, since that is the number of groups."""
    return partial(resnetv2.ResNetV2, DEPTHS, features=32, **options)


def theirs(expansion=4, **options):
    """timm's of the same widths."""
    widths = {'channels': (32 * expansion, 64 * expansion), 'stem_chs': 32, 'bottle_ratio': 1 / expansion}
    layers = {'conv_layer': timm_layers.create_conv2d, 'norm_layer': timm_layers.BatchNormAct2d}
    return partial(timm_resnetv2.ResNetV2, DEPTHS, **widths, **{**layers, **options})


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


# Four stages, so that two of them are dilated at stride 8.
@pytest.mark.parametrize('kind', ['basic_deep', 'bottleneck'])
def test_dilated_networks_compute_what_timms_do(kind, tmp_path):
    options, like, their_options = SMALL[kind]
    widths = [16 * 2**i * (1 if 'basic' in kind else 4) for i in range(4)]
