"""ConvNeXt: small networks and feature maps against timm's, files of torchvision and Facebook."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from timm.models import convnext as timm_convnext

import jeffnet
from benchmarks import parity, torch_reference
from jeffnet.core.activations import gelu_tanh, silu
from jeffnet.core.block import declarations
from jeffnet.core.layers import GlobalResponseNorm, RmsNorm, SimpleNorm
from jeffnet.create import plan
from jeffnet.models import convnext
from tests import small_networks

DEPTHS, WIDTHS = (1, 1, 1, 1), (24, 32, 48, 64)
OURS = partial(convnext.ConvNeXt, DEPTHS, WIDTHS)
THEIRS = partial(timm_convnext.ConvNeXt, depths=DEPTHS, dims=WIDTHS)
SHAPES = {'stem_type': 'overlap_tiered', 'norm_eps': 1e-2, 'kernel_sizes': (7, 5, 5, 3)}
V2 = {'use_grn': True, 'ls_init_value': None}
# Ours, the published network whose entry in the table it takes, timm's, options of both.
SMALL = {
    'pt_small_convnext': (OURS, 'pt_convnext_tiny.fb_in1k', THEIRS, {}),
    'pt_small_convnext_dilated': (OURS, 'pt_convnext_tiny.fb_in1k', THEIRS, {'output_stride': 8}),
    'pt_small_convnext_rms_act': (
        partial(OURS, norm_layer=SimpleNorm, stem_type='overlap_act', conv_mlp=True, act=gelu_tanh),
        'pt_convnext_zepto_rms_ols',
        partial(THEIRS, norm_layer='simplenorm', stem_type='overlap_act', conv_mlp=True, act_layer='gelu_tanh'),
        {'output_stride': 16},
    ),
    'pt_small_convnext_mlp': (  # the hidden layer keeps its GELU
        partial(OURS, act=silu, norm_layer=RmsNorm, head_hidden_size=40, **SHAPES),
        'pt_convnext_large_mlp.clip_laion2b_augreg_ft_in1k',
        partial(THEIRS, act_layer='silu', norm_layer='rmsnorm2d', head_hidden_size=40, **SHAPES),
        {},
    ),
    'pt_small_convnext_hnf': (
        partial(OURS, head_norm_first=True, stem_type='overlap'),
        'pt_convnext_tiny_hnf',
        partial(THEIRS, head_norm_first=True, stem_type='overlap'),
        {},
    ),
    'pt_small_convnextv2': (
        partial(OURS, use_grn=True, layer_scale=0.0, conv_mlp=True),
        'pt_convnextv2_atto',
        partial(THEIRS, conv_mlp=True, **V2),
        {},
    ),
}


def ok(rows: list[dict]) -> bool:
    """Whether all rows of a comparison are within the bar."""
    return all(row['ok'] for row in rows)


@pytest.mark.parametrize('name', SMALL)
def test_small_networks_compute_what_timms_do(name, tmp_path):
    *networks, theirs, options = SMALL[name]
    assert not small_networks.faults(name, *networks, partial(theirs, **options), tmp_path, **options)


def test_feature_maps_are_those_of_timm(tmp_path):
    assert not small_networks.feature_faults('pt_test_convnext', tmp_path)


def test_a_last_norm_is_part_of_the_final_feature_map_but_no_level(tmp_path):
    name, (network, like, theirs, _) = 'pt_small_convnext_hnf', SMALL['pt_small_convnext_hnf']
    small_networks.register(name, network, like)
    theirs = torch_reference.randomise(theirs())
    weights = torch_reference.save_weights(theirs, tmp_path / 'model.safetensors')
    x = parity.images((64, 64))
    with torch.no_grad():
        final, levels = theirs.forward_intermediates(torch.from_numpy(x).permute(0, 3, 1, 2))
    for expected, options in ((final, {'num_classes': 0}), (levels[-1], {'features_only': True, 'out_indices': (3,)})):
        found = jeffnet.predictor(jeffnet.create_model(name, 'nnx', weights=weights, **options))(x)
        expected = expected.permute(0, 2, 3, 1).numpy()
        assert np.abs(np.asarray(found).reshape(expected.shape) - expected).max() < 2e-4 * parity.spread(expected)


def test_the_hidden_layer_is_part_of_what_comes_before_the_classifier(tmp_path):
    name, (network, like, theirs, _) = 'pt_small_convnext_mlp', SMALL['pt_small_convnext_mlp']
    small_networks.register(name, network, like)
    theirs = torch_reference.randomise(theirs(num_classes=0))
    weights = torch_reference.save_weights(theirs, tmp_path / 'model.safetensors')
    assert ok(parity.compare(name, theirs, weights, (small_networks.SIZE,), only=('nnx',), num_classes=-1))


def test_heads_are_those_of_the_weights():
    """Pretraining of V2 leaves no norm behind the pooling either: its networks end in the feature map."""
    classes = {
        'convnext_tiny': 1000, 'convnext_base.fb_in22k': 21841, 'convnext_nano.in12k': 11821,
        'convnext_base.clip_laion2b': 640, 'convnext_xxlarge.clip_laion2b_soup': 1024,
        'convnext_tiny.dinov3_lvd1689m': -1, 'convnextv2_atto.fcmae': 0,
    }  # fmt: skip
    assert {name: plan(f'pt_{name}').block.num_classes for name in classes} == classes
    assert not [name for name in declarations(plan('pt_convnextv2_atto.fcmae').block) if name.startswith('head')]


def test_a_network_without_head_in_timms_configuration(tmp_path):
    theirs = torch_reference.reference(name := 'pt_convnextv2_atto.fcmae')
    torch_reference.save_weights(theirs, tmp_path / 'model.safetensors')
    about = {'architecture': 'convnextv2_atto', 'num_classes': 0, 'pretrained_cfg': {'tag': 'fcmae', 'num_classes': 0}}
    (tmp_path / 'config.json').write_text(json.dumps(about))
    model = jeffnet.create_model(f'local-dir:{tmp_path}', 'nnx', pretrained=True)
    assert (model.variant, model.num_classes) == (name, 0)
    x = parity.images((32, 64))
    expected = torch_reference.torch_logits(theirs, x)
    assert np.abs(np.asarray(jeffnet.predictor(model)(x)) - expected).max() < 2e-4 * parity.spread(expected)


def test_global_response_norm_has_a_derivative_where_a_channel_is_zero():
    norm = jeffnet.linen.build(GlobalResponseNorm(2))
    params = {'scale': jnp.ones(2), 'bias': jnp.ones(2)}
    x = jnp.ones((1, 3, 3, 2)).at[..., 1].set(0)
    assert np.isfinite(jax.grad(lambda x: norm.apply({'params': params}, x).sum())(x)).all()


# ------------------------------------------------------------------------------------------ files of other publishers


def test_files_of_torchvision_are_read(tmp_path):
    theirs = torch_reference.randomise(torchvision.models.convnext_tiny())
    for block in theirs.modules():
        if hasattr(block, 'layer_scale'):  # [C, 1, 1]
            torch.nn.init.uniform_(block.layer_scale, 0.2, 0.6)
    torch.save(theirs.state_dict(), path := tmp_path / 'convnext_tiny.pth')
    assert ok(parity.compare('pt_convnext_tiny', theirs, path, (small_networks.SIZE,), only=('objax',)))


def facebook_name(name: str) -> str:
    """Facebook's name of an array by timm's: the inverse of what timm does to load them."""
    name = name.replace('head.norm.', 'norm.').replace('head.fc.', 'head.').replace('stem.', 'downsample_layers.0.')
    name = name.replace('.blocks.', '.').replace('conv_dw', 'dwconv')
    name = name.replace('mlp.grn.weight', 'grn.gamma').replace('mlp.grn.bias', 'grn.beta').replace('mlp.fc', 'pwconv')
    stage, dot, rest = name.removeprefix('stages.').partition('.downsample.')
    return f'downsample_layers.{stage}.{rest}' if dot else name


@pytest.mark.parametrize('name', ['pt_small_convnext', 'pt_small_convnextv2'])
def test_files_of_facebook_are_read(name, tmp_path):
    network, like, theirs, _ = SMALL[name]
    small_networks.register(name, network, like)
    theirs = torch_reference.randomise(theirs())
    state = {facebook_name(name): array for name, array in theirs.state_dict().items()}
    for key, array in state.items():
        if '.grn.' in key:
            state[key] = array.reshape(1, 1, 1, -1)
        elif 'pwconv' in key and array.ndim == 4:
            state[key] = array[..., 0, 0]
    assert timm_convnext.checkpoint_filter_fn(state, theirs).keys() == theirs.state_dict().keys()
    torch.save({'model': state}, path := tmp_path / 'published.pth')
    assert ok(parity.compare(name, theirs, path, (small_networks.SIZE,), only=('objax',)))


def test_the_architecture_can_be_changed_within_reason():
    changed = plan('pt_convnext_tiny', depths=[1, 1, 2, 1], stem_type='overlap').block
    assert (changed.depths, changed.stem_type) == ((1, 1, 2, 1), 'overlap')
    with pytest.raises(ValueError, match=r'depths=\(1, 1\): expected 4 positive whole numbers'):
        plan('pt_convnext_tiny', depths=(1, 1))
    with pytest.raises(ValueError, match=r"stem_type='deep': expected one of 'patch', "):
        plan('pt_convnext_tiny', stem_type='deep')
    with pytest.raises(TypeError, match='pruned is a part of the architecture that cannot be changed'):
        plan('pt_resnet50', pruned=((1, 2),))
