"""ResNet's descendants, SKNet and ResNeSt: small networks, feature maps, initial values against timm's."""

from functools import partial

import jax
import numpy as np
import pytest
import timm
import torch
from timm.layers import BlurPool2d, EcaModule
from timm.models import resnest as timm_resnest
from timm.models import resnet as timm_resnet
from timm.models import sknet as timm_sknet

import jeffnet
from benchmarks import parity, torch_networks, torch_reference
from jeffnet.core.block import declarations
from jeffnet.core.channel_attention import eca_size
from jeffnet.core.pooling import blur_pool
from jeffnet.create import plan
from jeffnet.models import resnest, resnet, sknet
from jeffnet.models.resnet_blocks import BasicBlock, Bottleneck
from jeffnet.weights import judges
from jeffnet.weights.names import TO_TORCH, timm_names
from tests import small_networks

EVEN = (64, 96)  # sides that timm's average pools halve without a rest
WIDTHS = (16, 16, 24, 32)
GROUPS = {'cardinality': 4, 'base_width': 16}
D = {'stem': 16, 'stem_widths': (8, 8), 'avg_down': True}
THEIR_D = {'stem_type': 'deep', 'stem_width': 8, 'avg_down': True}


def ours(block, network=resnet.ResNet, repeats=(1, 1, 1, 1), **options):
    """A network of four small stages."""
    return partial(network, tuple(zip([block] * 4, repeats, WIDTHS, strict=True)), **options)


def theirs(block, layers=(1, 1, 1, 1), **options):
    """timm's of the same stages."""
    return partial(timm_resnet.ResNet, block, layers, channels=WIDTHS, **options)


SMALL = {  # ours, the published network whose entry in the table it takes, timm's, options that both get
    'basic_blur_se': (  # with a tiered stem
        ours(BasicBlock, repeats=(2, 1, 1, 1), **{**D, 'stem_widths': (6, 8)}, anti_alias='blur', se_ratio=1 / 16),
        'pt_seresnet18',
        theirs(timm_resnet.BasicBlock, (2, 1, 1, 1), **{**THEIR_D, 'stem_type': 'deep_tiered'}, aa_layer=BlurPool2d,
               block_args={'attn_layer': 'se'}),
    ),
    'senet_blur': (
        ours(Bottleneck, **GROUPS, se_ratio=1 / 16, down_size=3, reduce_first=2, anti_alias='blur'),
        'pt_senet154',
        theirs(timm_resnet.Bottleneck, **GROUPS, down_kernel_size=3, block_reduce_first=2, aa_layer=BlurPool2d,
               block_args={'attn_layer': 'se'}),
        {'output_stride': 16},
    ),
    'rs_eca': (  # a convolution for the pool
        ours(Bottleneck, repeats=(2, 1, 1, 1), **D, conv_pool=True, eca=True),
        'pt_resnetrs50',
        theirs(timm_resnet.Bottleneck, (2, 1, 1, 1), **THEIR_D, replace_stem_pool=True,
               block_args={'attn_layer': 'eca'}),
        {'output_stride': 8},
    ),
    'aa': (
        ours(Bottleneck, **D, anti_alias='avg'),
        'pt_resnetaa50d',
        theirs(timm_resnet.Bottleneck, **THEIR_D, aa_layer=torch.nn.AvgPool2d),
    ),
    'sk_basic': (
        ours(sknet.SelectiveBasicBlock, sknet.SKNet, sk_ratio=1 / 8, sk_divisor=16),
        'pt_skresnet18',
        theirs(timm_sknet.SelectiveKernelBasic,
               block_args={'sk_kwargs': {'rd_ratio': 1 / 8, 'rd_divisor': 16, 'split_input': True}}),
    ),
    'sk_groups': (
        ours(sknet.SelectiveBottleneck, sknet.SKNet, **GROUPS, split_input=False),
        'pt_skresnext50_32x4d',
        theirs(timm_sknet.SelectiveKernelBottleneck, **GROUPS, block_args={'sk_kwargs': {'split_input': False}}),
        {'output_stride': 16},
    ),
    'split': (
        ours(resnest.SplitBottleneck, resnest.ResNeSt, **D),
        'pt_resnest14d',
        theirs(timm_resnest.ResNestBottleneck, **THEIR_D, block_args={'radix': 2, 'avd': True}),
        {'output_stride': 16},
    ),
    'split_4s2x': (
        ours(resnest.SplitBottleneck, resnest.ResNeSt, **D, radix=4, cardinality=2, base_width=32, pool_first=True),
        'pt_resnest50d_4s2x40d',
        theirs(timm_resnest.ResNestBottleneck, **THEIR_D, cardinality=2, base_width=32,
               block_args={'radix': 4, 'avd': True, 'avd_first': True}),
    ),
    'split_1s4x': (
        ours(resnest.SplitBottleneck, resnest.ResNeSt, **D, **GROUPS, radix=1, pool_first=True),
        'pt_resnest50d_1s4x24d',
        theirs(timm_resnest.ResNestBottleneck, **THEIR_D, **GROUPS,
               block_args={'radix': 1, 'avd': True, 'avd_first': True}),
    ),
    'group_norm': (
        partial(resnet.ResNet, ((Bottleneck, 1, 32),) * 4, group_norm=True),
        'pt_resnet50_gn',
        partial(timm_resnet.ResNet, timm_resnet.Bottleneck, (1, 1, 1, 1), channels=(32,) * 4, norm_layer='groupnorm'),
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', SMALL)
def test_small_networks_compute_what_timms_do(name, tmp_path):
    variant, like, network, *options = SMALL[name]
    options = options[0] if options else {}
    size = EVEN if name == 'aa' else small_networks.SIZE
    network = partial(network, **options)
    assert not small_networks.faults(f'pt_small_{name}', variant, like, network, tmp_path, size, **options)
    pairs = zip(variant(**options).levels, network().feature_info, strict=True)
    assert all(mine[key] == their[key] for mine, their in pairs for key in ('num_chs', 'reduction', 'module'))


def test_feature_maps_are_those_of_timm(tmp_path):
    assert not small_networks.feature_faults('pt_test_resnet', tmp_path)


def test_networks_of_cifar_are_those_of_the_paper(tmp_path):
    parameters = {20: 269722, 32: 464154, 44: 658586, 56: 853018, 110: 1727962}
    for layers, count in parameters.items():
        info = jeffnet.model_info(f'pt_resnet{layers}_cifar')
        assert info.parameters == count == sum(p.numel() for p in torch_networks.CifarResNet(layers).parameters())
        assert (info.input_size, info.options) == ((32, 32, 3), {'num_classes': 10})
    network = torch_reference.reference('pt_resnet20_cifar')
    weights = torch_reference.save_weights(network, tmp_path / 'model.safetensors')
    rows = parity.compare('pt_resnet20_cifar', network, weights, ((33, 40),))
    assert len(rows) == 3 and all(row['ok'] for row in rows)


def test_the_widest_resnext_has_the_variables_of_pytorchs_hub():
    with torch.device('meta'):
        network = torch_networks.create('pt_resnext101_32x48d_wsl')
    chosen = plan('pt_resnext101_32x48d_wsl')
    names = timm_names(chosen.block, chosen.policy, resnet.WEIGHT_NAMES)
    ours = {
        names[flat]: tuple(each.shape[i] for i in TO_TORCH[len(each.shape)]) if flat.endswith('kernel') else each.shape
        for flat, each in declarations(chosen.block, chosen.policy).items()
    }
    assert ours == {k: tuple(v.shape) for k, v in network.state_dict().items() if not k.endswith('tracked')}
    assert chosen.info.parameters == sum(p.numel() for p in network.parameters())


def test_names_without_timms_network_are_known():
    ours = {name for name in jeffnet.list_models('pt_res*') if not timm.is_model(jeffnet.model_info(name).timm)}
    assert ours == {'pt_resnext101_32x48d_wsl', *(f'pt_resnet{layers}_cifar' for layers in (20, 32, 44, 56, 110))}


def test_published_heads_are_those_of_the_names():
    assert plan('pt_resnetaa50d.sw_in12k').block.num_classes == 11821
    assert plan('pt_resnet50.bamboo').block.num_classes == -1
    assert plan('pt_resnet50.bamboo', num_classes=10).block.num_classes == 10


@pytest.mark.parametrize('arch', ['resnet26', 'ecaresnext26t_32x4d', 'seresnet18', 'skresnet18', 'resnest14d'])
def test_initial_values_are_distributed_as_timms(arch):
    torch.manual_seed(0)
    theirs = timm.create_model(arch).state_dict()
    ours = judges.timm_state(*jeffnet.create_model(f'pt_{arch}'))
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        reference = theirs[name].numpy()
        if reference.std() == 0:  # zeros and ones, the last scale of a block among them
            np.testing.assert_array_equal(array, reference, err_msg=name)
        else:  # two samples of one distribution: five standard errors of a standard deviation
            assert array.std() == pytest.approx(reference.std(), rel=5 / array.size**0.5), name
            assert abs(array.mean()) < 5 * array.std() / array.size**0.5, name


@pytest.mark.parametrize('stride', [1, 2])
def test_blur_pool_is_timms(stride):
    x = parity.images((7, 10), channels=5)
    expected = BlurPool2d(5, stride=stride)(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(blur_pool(x, stride), expected, rtol=1e-5, atol=1e-6)


def test_sizes_of_efficient_channel_attention_are_timms():
    for features in (64, 128, 256, 512, 1024, 2048):
        assert eca_size(features) == EcaModule(features).conv.kernel_size[0]


def test_average_pools_take_sides_that_timms_cannot_halve():
    variant, *_ = SMALL['aa']
    block = variant(num_classes=0)
    shape = jax.eval_shape(jeffnet.linen.build(block).init, jax.random.key(0), np.zeros((1, 75, 50, 3), np.float32))
    module = jeffnet.linen.build(block)
    out = jax.eval_shape(module.apply, shape, np.zeros((1, 75, 50, 3), np.float32))
    assert out.shape == (1, 3, 2, 128)
