"""EfficientNetV2, X, MobileNetV4 and other later relatives: small networks and feature maps against timm's."""

from functools import partial

import pytest
import timm
import torch
from timm.layers import GroupNormAct, LayerNormAct2d
from timm.models import efficientnet as timm_efficientnet
from timm.models import mobilenetv3 as timm_mobilenetv3
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, round_channels

import jeffnet
from jeffnet.core.activations import hard_swish, silu
from jeffnet.models import efficientnet, mobile_blocks, mobile_squeeze
from jeffnet.models.efficientnet_stages import cn, ds, dsa, er, ir
from jeffnet.models.mobilenetv4 import uir
from tests import small_networks


def theirs(*stages, network=timm_efficientnet.EfficientNet, act='silu', features=32, stem=8, **options):
    """timm's network of these stages, to be made with a number of classes."""
    act_layer = {'silu': torch.nn.SiLU, 'relu': torch.nn.ReLU, 'hard_swish': torch.nn.Hardswish}[act]
    return lambda num_classes: network(
        decode_arch_def([stage.split() for stage in stages]), num_classes, num_features=features, stem_size=stem,
        act_layer=act_layer, **options,
    )  # fmt: skip


ours = partial(efficientnet.EfficientNet, stem=8, features=32, act=silu)
ours_v3 = partial(efficientnet.MobileNetV3, stem=8, features=32, act=hard_swish)
theirs_v3 = partial(theirs, network=timm_mobilenetv3.MobileNetV3, act='hard_swish')
hard_squeeze = partial(SqueezeExcite, gate_layer='hard_sigmoid')

INVERTED = ((ir(2, 3, 2, 3, 16, 0.25),),)
SMALL = {  # ours, the published network whose entry in the table it takes, timm's
    'tf_small_v2': (
        partial(ours, ((cn(2, 3, 1, 1, 8, skip=True),), (er(2, 3, 2, 4, 16),), *INVERTED)),
        'tf_efficientnetv2_s',
        theirs(
            'cn_r2_k3_s1_e1_c8_skip', 'er_r2_k3_s2_e4_c16', 'ir_r2_k3_s2_e3_c16_se0.25', pad_type='same',
            norm_layer=partial(torch.nn.BatchNorm2d, eps=1e-3),
        ),
    ),
    'pt_small_context': (
        partial(ours, INVERTED, squeeze=mobile_squeeze.context_of_input),
        'pt_gc_efficientnetv2_rw_t',
        theirs('ir_r2_k3_s2_e3_c16_se0.25', se_layer='gc'),
    ),
    'pt_small_groups': (
        partial(ours, ((ds(1, 3, 1, 1, 8),), *INVERTED), group_size=8, norm=mobile_blocks.group_norm_8),
        'pt_efficientnet_b0_g8_gn',
        theirs(
            'ds_r1_k3_s1_e1_c8_gs8', 'ir_r2_k3_s2_e3_c16_se0.25_gs8', norm_layer=partial(GroupNormAct, group_size=8)
        ),
    ),
    'pt_small_pixel_norm': (
        partial(ours, INVERTED, norm=mobile_blocks.PixelNorm),
        'pt_test_efficientnet_ln',
        theirs('ir_r2_k3_s2_e3_c16_se0.25', norm_layer=LayerNormAct2d),
    ),
    'pt_small_blur': (
        partial(ours, ((cn(1, 3, 2, 1, 8),), (er(1, 3, 2, 2, 8),), *INVERTED), pool=mobile_blocks.dark_blur_pool),
        'pt_efficientnet_blur_b0',
        theirs('cn_r1_k3_s2_e1_c8', 'er_r1_k3_s2_e2_c8', 'ir_r2_k3_s2_e3_c16_se0.25', aa_layer='blurpc'),
    ),
    'pt_small_x': (
        partial(ours, ((ds(2, 3, 2, 1, 8, 0.25, space_to_depth=True),), (er(2, 5, 1, 6, 16, 0.25),))),
        'pt_efficientnet_x_b3',
        theirs('ds_r2_k3_s1_e1_c8_se0.25_d1', 'er_r2_k5_s2_e6_c16_se0.25'),
    ),
    'pt_small_edgetpu': (
        partial(ours, ((cn(1, 1, 1, 1, 8),), (er(1, 3, 2, 8, 16), er(1, 3, 1, 4, 16, group_size=16))), stem_kernel=5),
        'pt_mobilenet_edgetpu_v2_s',
        theirs('cn_r1_k1_s1_c8', 'er_r1_k3_s2_e8_c16 er_r1_k3_s1_e4_gs16_c16', stem_kernel_size=5),
    ),
    'pt_small_fbnetv3': (
        partial(ours_v3, ((ir(2, 3, 2, 3, 40, 0.25),),), head_bias=False, squeeze=mobile_squeeze.of_input_rounded),
        'pt_fbnetv3_b',
        theirs_v3(
            'ir_r2_k3_s2_e3_c40_se0.25', head_bias=False, se_from_exp=False,
            se_layer=partial(hard_squeeze, rd_round_fn=partial(round_channels, round_limit=0.95)),
        ),
    ),
    'pt_small_lcnet': (
        partial(ours_v3, ((dsa(2, stride=2, features=24, se=0.25),),), squeeze=mobile_squeeze.of_middle_exactly),
        'pt_lcnet_050',
        theirs_v3('dsa_r2_k3_s2_c24_se0.25', se_layer=partial(hard_squeeze, force_act_layer=torch.nn.ReLU)),
    ),
    'pt_small_rw': (
        partial(ours_v3, INVERTED, head_bias=False, squeeze=mobile_squeeze.of_middle_with_act),
        'pt_mobilenetv3_rw',
        theirs_v3(
            'ir_r2_k3_s2_e3_c16_se0.25', head_bias=False, se_layer=hard_squeeze,
            norm_layer=partial(torch.nn.BatchNorm2d, eps=1e-3),
        ),
    ),
    'pt_small_v4': (
        partial(
            ours_v3,
            ((uir(1, 3, 5, 2, 4, 16), uir(1, 0, 3, 1, 2, 16), uir(1, 0, 0, 1, 2, 16)), (uir(1, 5, 0, 2, 3, 24),)),
            head_norm=True, pool=mobile_blocks.mean_pool,
        ),
        'pt_mobilenetv4_conv_aa_medium',
        theirs_v3(
            'uir_r1_a3_k5_s2_e4_c16 uir_r1_a0_k3_s1_e2_c16 uir_r1_a0_k0_s1_e2_c16', 'uir_r1_a5_k0_s2_e3_c24',
            head_norm=True, aa_layer='avg',
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', SMALL)
def test_small_networks_compute_what_timms_do(name, tmp_path):
    assert not small_networks.faults(name, *SMALL[name], tmp_path)


@pytest.mark.parametrize('name', ['pt_test_efficientnet', 'pt_mobilenetv4_conv_small_035', 'pt_lcnet_035'])
def test_feature_maps_are_those_of_timm(name, tmp_path):
    assert not small_networks.feature_faults(name, tmp_path)


def test_dilated_space_to_depth_gives_the_sizes_of_timm():
    with torch.device('meta'):
        theirs = timm.create_model('efficientnet_x_b3', features_only=True, output_stride=8)
    ours = jeffnet.create.plan('pt_efficientnet_x_b3', features_only=True, output_stride=8).block
    kept = ('num_chs', 'reduction', 'module')
    described = [[level[key] for key in kept] for level in ours.feature_info]
    assert described == [[level[key] for key in kept] for level in theirs.feature_info.get_dicts()]


def test_weights_of_other_classes_are_names_with_that_many():
    assert jeffnet.model_info('tf_efficientnetv2_s.in21k').options == {'num_classes': 21843}
    assert jeffnet.model_info('tf_efficientnetv2_s').tag == 'in21k_ft_in1k'
    assert jeffnet.create.plan('tf_efficientnetv2_b3.in21k').block.num_classes == 21843
