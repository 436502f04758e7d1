"""HorNet, which timm lacks: its blocks against NumPy, small networks against PyTorch, counts against the paper."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jeffnet
from benchmarks import hornet_van_reference, parity, torch_reference
from jeffnet.core.block import Policy
from jeffnet.models import hornet
from tests import plain_layers, small_networks

RNG = np.random.default_rng(0)
CLOSE = {'rtol': 2e-5, 'atol': 2e-5}  # float32, values of size 1
COUNTS = {  # parameters, and the paper's multiply-adds in thousand millions
    'pt_hornet_tiny': (22_409_512, 4.0), 'pt_hornet_tiny_gf': (22_991_848, 3.9),
    'pt_hornet_small': (49_528_264, 8.8), 'pt_hornet_small_gf': (50_401_768, 8.7),
    'pt_hornet_base': (87_256_680, 15.6), 'pt_hornet_base_gf': (88_421_352, 15.5),
    'pt_hornet_large_in22k': (209_067_154, 34.8), 'pt_hornet_large_gf_in22k': (210_814_162, 34.7),
    'pt_hornet_large_gf_384_in22k': (216_331_474, 101.8),
}  # fmt: skip


@pytest.mark.parametrize('name', COUNTS)
def test_counts_are_those_of_the_paper(name):
    info, (parameters, multiply_adds) = jeffnet.model_info(name), COUNTS[name]
    assert info.parameters == parameters
    assert info.multiply_adds / 1e9 == pytest.approx(multiply_adds, rel=0.01)  # without the Fourier transforms


# ------------------------------------------------------------------------------------------------------------- blocks


def gated(x, values, order, gates):
    """A recursive gated convolution in NumPy, with `gates` for its depthwise part."""
    width = x.shape[-1]
    widths = [width // 2 ** (order - 1 - k) for k in range(order)]
    x = plain_layers.pointwise(x, values, 'proj_in')
    p, q, begin = x[..., : widths[0]], gates(x[..., widths[0] :]) / 3, 0
    for k, channels in enumerate(widths):
        p = plain_layers.pointwise(p, values, f'pws_{k - 1}') if k else p
        p = p * q[..., begin : begin + channels]
        begin += channels
    return plain_layers.pointwise(p, values, 'proj_out')


def filtered(x, values, weight):
    """A global-local filter in NumPy, with `weight` [C / 2, H, W / 2 + 1] in the place of the stored one."""
    x = plain_layers.layer_norm(x, values, 'pre_norm')
    half = x.shape[-1] // 2
    spectrum = np.fft.rfft2(x[..., half:], axes=(1, 2), norm='ortho') * weight.transpose(1, 2, 0)
    out = np.empty(x.shape)
    out[..., 0::2] = plain_layers.depthwise(x[..., :half], values, 'dw')
    out[..., 1::2] = np.fft.irfft2(spectrum, x.shape[1:3], axes=(1, 2), norm='ortho')
    return plain_layers.layer_norm(out, values, 'post_norm')


def as_complex(stored):
    return stored[..., 0] + 1j * stored[..., 1].astype(float)


@pytest.mark.parametrize('order', [1, 2, 3, 4, 5])
def test_recursive_gated_convolution_is_that_of_numpy(order):
    block, x = hornet.GnConv(32, order), RNG.standard_normal((2, 6, 5, 32), np.float32)
    values = plain_layers.values_of(block)
    expected = gated(x, values, order, lambda q: plain_layers.depthwise(q, values, 'dwconv'))
    np.testing.assert_allclose(plain_layers.run(block, values, x), expected, **CLOSE)


@pytest.mark.parametrize('size', [(6, 8), (6, 9), (7, 8)])  # even and odd: the stored filter fits
def test_filter_is_that_of_numpy(size):
    block = hornet.GlobalLocalFilter(12, (size[0], size[1] // 2 + 1))
    values, x = plain_layers.values_of(block), RNG.standard_normal((2, *size, 12), np.float32)
    expected = filtered(x, values, as_complex(values['complex_weight']))
    np.testing.assert_allclose(plain_layers.run(block, values, x), expected, **CLOSE)


@pytest.mark.parametrize('size', [(6, 8), (9, 3), (5, 1), (1, 4), (1, 1)])
def test_filter_of_another_size_is_stretched_between_its_corners(size):
    block = hornet.GlobalLocalFilter(8, (5, 4))
    values, x = plain_layers.values_of(block), RNG.standard_normal((2, *size, 8), np.float32)
    stored, frequencies = as_complex(values['complex_weight']), (size[0], size[1] // 2 + 1)
    rows, columns = (np.linspace(0, old - 1, new) for old, new in zip((5, 4), frequencies, strict=True))
    high = [[np.interp(rows, range(5), column) for column in channel.T] for channel in stored]  # [C / 2, 4, H]
    weight = np.array([[np.interp(columns, range(4), row) for row in np.transpose(each)] for each in high])
    np.testing.assert_allclose(plain_layers.run(block, values, x), filtered(x, values, weight), **CLOSE)


def test_filter_of_bfloat16_transforms_in_float32():
    block = hornet.GlobalLocalFilter(12, (6, 4))
    values, x = plain_layers.values_of(block), RNG.standard_normal((2, 6, 6, 12), np.float32)
    exact = plain_layers.run(block, values, x)
    found = plain_layers.run(block, values, x.astype(jnp.bfloat16), Policy(dtype=jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    assert np.abs(found.astype(np.float32) - exact).max() < 0.05 * np.abs(exact).max()


# ----------------------------------------------------------------------------------------------------------- networks

DEPTHS = (1, 2, 1, 1)
FILTERS = ((4, 2), (3, 2))  # of `small_networks.SIZE`, and of another size
SMALL = {  # ours, the published network whose entry in the table it takes, the reference
    'pt_small_hornet': (
        partial(hornet.HorNet, 16, depths=DEPTHS),
        'pt_hornet_tiny',
        partial(hornet_van_reference.HorNet, 16, depths=DEPTHS),
    ),
    'pt_small_hornet_gf': (
        partial(hornet.HorNet, 32, (None, None, *FILTERS), DEPTHS),
        'pt_hornet_tiny_gf',
        partial(hornet_van_reference.HorNet, 32, filters=FILTERS, depths=DEPTHS),
    ),
}


@pytest.mark.parametrize('name', SMALL)
def test_small_networks_compute_what_the_reference_does(name, tmp_path):
    assert not small_networks.faults(name, *SMALL[name], tmp_path)


def test_authors_file_has_the_feature_maps_of_the_reference(tmp_path):
    name = 'pt_small_hornet_gf_maps'
    variant, like, theirs = SMALL['pt_small_hornet_gf']
    small_networks.register(name, variant, like)
    network, x = torch_reference.randomise(theirs()), parity.images(small_networks.SIZE)
    torch.save({'model': network.state_dict()}, tmp_path / 'hornet.pth')
    model = jeffnet.create_model(name, 'nnx', weights=tmp_path / 'hornet.pth', features_only=True)
    assert [tuple(each.values()) for each in model.feature_info] == [
        (i + 1, 32 * 2**i, 4 * 2**i, f'stages.{i}') for i in range(4)
    ]
    with torch.no_grad():
        maps = [each.permute(0, 2, 3, 1).numpy() for each in network.maps(torch.from_numpy(x).permute(0, 3, 1, 2))]
    for found, expected in zip(jeffnet.predictor(model)(x), maps, strict=True):
        assert np.abs(found - expected).max() < parity.BAR32 * parity.spread(expected)


def test_new_networks_begin_as_the_authors():
    variables = jeffnet.flat_variables(jeffnet.create_model('pt_hornet_tiny_gf', 'linen')[1])
    assert (variables['stages_2_0.gamma1'] == np.float32(1e-6)).all()
    for name in ('stages_2_17.gnconv.dwconv.complex_weight', 'stages_0_0.pwconv2.kernel', 'head.kernel'):
        assert np.std(variables[name]) == pytest.approx(0.02, rel=0.05)
    assert not variables['stages_3_1.gnconv.proj_in.bias'].any()
