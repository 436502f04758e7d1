"""VAN, which timm lacks: its blocks against NumPy, networks against PyTorch, counts against the paper."""

from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import special

import jeffnet
from benchmarks import hornet_van_reference, parity, torch_reference
from jeffnet.models import van
from tests import plain_layers, small_networks

RNG = np.random.default_rng(0)
CLOSE = {'rtol': 2e-5, 'atol': 2e-5}  # float32, values of size 1
COUNTS = {  # parameters, and the paper's multiply-adds in thousand millions
    'pt_van_b0': (4_105_800, 0.88), 'pt_van_b1': (13_861_800, 2.5), 'pt_van_b2': (26_578_472, 5.0),
    'pt_van_b3': (44_765_608, 9.0), 'pt_van_b4': (60_283_176, 12.2), 'pt_van_b5': (89_967_688, 17.2),
    'pt_van_b6': (199_829_416, 38.9),
}  # fmt: skip


@pytest.mark.parametrize('name', COUNTS)
def test_counts_are_those_of_the_paper(name):
    info, (parameters, multiply_adds) = jeffnet.model_info(name), COUNTS[name]
    assert info.parameters == parameters
    assert info.multiply_adds / 1e9 == pytest.approx(multiply_adds, rel=0.02)


# ------------------------------------------------------------------------------------------------------------- blocks


def gelu(x):
    return x * special.ndtr(x)


def attended(x, values, prefix=''):
    """Large-kernel attention in NumPy."""
    y = plain_layers.depthwise(x, values, f'{prefix}conv0')
    y = plain_layers.depthwise(y, values, f'{prefix}conv_spatial', dilation=3)
    return x * plain_layers.pointwise(y, values, f'{prefix}conv1')


def test_large_kernel_attention_is_that_of_numpy():
    block, x = van.LargeKernelAttention(6), RNG.standard_normal((2, 13, 8, 6), np.float32)
    values = plain_layers.values_of(block)
    np.testing.assert_allclose(plain_layers.run(block, values, x), attended(x, values), **CLOSE)


def test_spatial_attention_is_that_of_numpy():
    block, x = van.SpatialAttention(6), RNG.standard_normal((2, 7, 8, 6), np.float32)
    values = plain_layers.values_of(block)
    y = attended(gelu(plain_layers.pointwise(x, values, 'proj_1')), values, 'spatial_gating_unit.')
    expected = plain_layers.pointwise(y, values, 'proj_2') + x
    np.testing.assert_allclose(plain_layers.run(block, values, x), expected, **CLOSE)


def test_perceptron_is_that_of_numpy():
    block, x = van.ConvMlp(6, 16), RNG.standard_normal((2, 5, 4, 6), np.float32)
    values = plain_layers.values_of(block)
    y = plain_layers.depthwise(plain_layers.pointwise(x, values, 'fc1'), values, 'dwconv')
    expected = plain_layers.pointwise(gelu(y), values, 'fc2')
    np.testing.assert_allclose(plain_layers.run(block, values, x), expected, **CLOSE)


# ----------------------------------------------------------------------------------------------------------- networks

WIDTHS, DEPTHS = (8, 16, 24, 32), (1, 2, 1, 1)
SMALL = (partial(van.VAN, WIDTHS, DEPTHS), 'pt_van_b0', partial(hornet_van_reference.VAN, WIDTHS, DEPTHS))


def test_small_networks_compute_what_the_reference_does(tmp_path):
    assert not small_networks.faults('pt_small_van', *SMALL, tmp_path)


def test_authors_file_has_the_feature_maps_of_the_reference(tmp_path):
    network, x = torch_reference.reference('pt_van_b0'), parity.images(small_networks.SIZE)
    torch.save({'state_dict': network.state_dict()}, tmp_path / 'van.pth.tar')
    model = jeffnet.create_model('pt_van_b0', 'nnx', weights=tmp_path / 'van.pth.tar', features_only=True)
    assert [tuple(each.values()) for each in model.feature_info] == [
        (i + 1, width, 4 * 2**i, f'norm{i + 1}') for i, width in enumerate((32, 64, 160, 256))
    ]
    with torch.no_grad():
        maps = [each.permute(0, 2, 3, 1).numpy() for each in network.maps(torch.from_numpy(x).permute(0, 3, 1, 2))]
    for found, expected in zip(jeffnet.predictor(model)(x), maps, strict=True):
        assert np.abs(found - expected).max() < parity.BAR32 * parity.spread(expected)


def test_saved_weights_have_the_authors_names(tmp_path):
    model = jeffnet.create_model('pt_van_b0', 'nnx', num_classes=10)
    jeffnet.save_weights(model, tmp_path / 'van.safetensors')
    hornet_van_reference.create('van_b0', num_classes=10).load_state_dict(load_file(tmp_path / 'van.safetensors'))
    jeffnet.save_weights(model, tmp_path / 'van')
    assert jeffnet.create_model(f'local-dir:{tmp_path / "van"}', 'nnx', pretrained=True).num_classes == 10
    assert 'timm.create_model' not in (tmp_path / 'van' / 'README.md').read_text()


def test_new_networks_begin_as_the_authors():
    variables = jeffnet.flat_variables(jeffnet.create_model('pt_van_b0', 'linen')[1])
    assert (variables['block1_0.layer_scale_1'] == np.float32(1e-2)).all()
    for name, std in (('block4_1.mlp.fc1.kernel', (2 / 1024) ** 0.5), ('block3_0.mlp.dwconv.kernel', (2 / 9) ** 0.5),
                      ('head.kernel', 0.02)):  # fmt: skip
        assert np.std(variables[name]) == pytest.approx(std, rel=0.05)
