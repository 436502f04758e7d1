"""Layers and array functions against PyTorch, in all three frameworks where variables are involved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax import lax
from torch.nn import functional as F

import jeffnet
from jeffnet.core import activations, initial, layers, pooling
from jeffnet.core.block import PYTORCH, TENSORFLOW, Policy, declarations
from jeffnet.core.convolution import convolve
from jeffnet.core.padding import resolve

RNG = np.random.default_rng(0)
CLOSE = {'rtol': 1e-5, 'atol': 1e-5}  # float32, sums of at most a few hundred terms of size 1


def images(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def nchw(x):
    return torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy())


def nhwc(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize('backend', ['cpu', 'gpu'])  # 'gpu' takes the general lowering, which runs anywhere
@pytest.mark.parametrize(
    ('kernel', 'stride', 'dilation', 'groups', 'out'),
    [(1, 1, 1, 1, 8), (1, 2, 1, 1, 8), (3, 2, 1, 1, 8), (5, 1, 2, 1, 4), (3, 2, 1, 6, 6), (5, 1, 2, 6, 6),
     (3, 1, 1, 2, 8), (3, 1, 1, 6, 12)],
)  # fmt: skip
def test_convolution_equals_torch(monkeypatch, backend, kernel, stride, dilation, groups, out):
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    x, w = images(2, 13, 10, 6), images(kernel, kernel, 6 // groups, out)
    pads = resolve('LIKE', (13, 10), (kernel, kernel), (stride, stride), (dilation, dilation))
    ours = convolve(jnp.asarray(x), jnp.asarray(w), (stride, stride), pads, (dilation, dilation), groups)
    weight = torch.from_numpy(w.transpose(3, 2, 0, 1).copy())
    theirs = F.conv2d(nchw(x), weight, stride=stride, padding=pads[0][0], dilation=dilation, groups=groups)
    np.testing.assert_allclose(ours, nhwc(theirs), **CLOSE)


def test_depthwise_lowering_has_the_gradients_of_a_convolution(monkeypatch):
    x, w = images(2, 9, 8, 4), images(3, 3, 1, 4)

    def gradients(backend):
        monkeypatch.setattr(jax, 'default_backend', lambda: backend)
        return jax.grad(lambda x, w: (convolve(x, w, (2, 2), ((0, 1), (1, 1)), (1, 1), 4) ** 2).sum(), (0, 1))(x, w)

    for ours, reference in zip(gradients('cpu'), gradients('gpu'), strict=True):
        np.testing.assert_allclose(ours, reference, **CLOSE)


@pytest.mark.parametrize('size', [(8, 8), (7, 7), (9, 6)])
@pytest.mark.parametrize('kernel', [1, 2, 3, 5])
@pytest.mark.parametrize('stride', [1, 2])
def test_same_padding_is_that_of_lax(size, kernel, stride):
    x, w = jnp.asarray(images(1, *size, 2)), jnp.asarray(images(kernel, kernel, 2, 3))
    ours = convolve(x, w, (stride, stride), resolve('SAME', size, (kernel, kernel), (stride, stride)))
    reference = lax.conv_general_dilated(x, w, (stride,) * 2, 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    np.testing.assert_allclose(ours, reference, **CLOSE)


def test_padding_rules():
    assert resolve('LIKE', (9, 9), (5, 3), (2, 1), (1, 2)) == ((2, 2), (2, 2))
    assert resolve('VALID', (9, 9), (3, 3), (1, 1)) == ((0, 0), (0, 0))
    assert resolve(2, (9, 9), (3, 3), (1, 1)) == ((2, 2), (2, 2))
    assert resolve(((0, 1), (2, 3)), (9, 9), (3, 3), (1, 1)) == ((0, 1), (2, 3))
    with pytest.raises(ValueError, match=r"'SAMEE'.*'SAME', 'LIKE', 'VALID'"):
        resolve('SAMEE', (9, 9), (3, 3), (1, 1))


@pytest.mark.parametrize('ceil_mode', [False, True])
@pytest.mark.parametrize(('kernel', 'stride', 'padding'), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 3, 1)])
@pytest.mark.parametrize('size', [(8, 7), (9, 12)])
def test_pooling_equals_torch(size, kernel, stride, padding, ceil_mode):
    x = images(2, *size, 3)
    theirs = F.max_pool2d(nchw(x), kernel, stride, padding, ceil_mode=ceil_mode)
    np.testing.assert_array_equal(pooling.max_pool(x, kernel, stride, padding, ceil_mode), nhwc(theirs))
    for count in (False, True):
        theirs = F.avg_pool2d(nchw(x), kernel, stride, padding, ceil_mode=ceil_mode, count_include_pad=count)
        ours = pooling.avg_pool(x, kernel, stride, padding, ceil_mode, count)
        np.testing.assert_allclose(ours, nhwc(theirs), **CLOSE)


def test_global_pooling():
    x = images(2, 5, 4, 3)
    np.testing.assert_allclose(pooling.global_avg_pool(x), x.mean((1, 2)), **CLOSE)
    np.testing.assert_array_equal(pooling.global_max_pool(x, keepdims=True), x.max((1, 2), keepdims=True))
    assert pooling.global_avg_pool(jnp.ones((1, 2, 2, 3), jnp.bfloat16)).dtype == jnp.float32


TORCH_ACTIVATIONS = {
    'identity': lambda x: x, 'relu': F.relu, 'relu6': F.relu6, 'leaky_relu': F.leaky_relu, 'sigmoid': torch.sigmoid,
    'tanh': torch.tanh, 'silu': F.silu, 'swish': F.silu, 'mish': F.mish, 'gelu': F.gelu,
    'gelu_tanh': lambda x: F.gelu(x, approximate='tanh'), 'quick_gelu': lambda x: x * torch.sigmoid(1.702 * x),
    'hard_sigmoid': F.hardsigmoid, 'hard_swish': F.hardswish,
}  # fmt: skip


@pytest.mark.parametrize('name', activations.ACTIVATIONS)
def test_activation_equals_torch(name):
    x = np.linspace(-8, 8, 257, dtype=np.float32)
    theirs = TORCH_ACTIVATIONS[name](torch.from_numpy(x)).numpy()
    # 1e-6 of the argument: XLA and PyTorch approximate exp and erf differently in the last bits.
    np.testing.assert_allclose(activations.ACTIVATIONS[name](jnp.asarray(x)), theirs, rtol=1e-5, atol=8e-6)


def run(framework, block, values, x, policy=PYTORCH, training=False):
    """Output and updated flat variables of one layer in one framework."""
    if framework == 'linen':
        module = jeffnet.linen.build(block, policy)
        variables = jeffnet.linen.variables_of(block, policy, values)
        if not training:
            return module.apply(variables, x), jeffnet.flat_variables(variables)
        y, updated = module.apply(variables, x, training=True, mutable=['batch_stats'])
        return y, jeffnet.flat_variables({**variables, **updated})
    back_end = getattr(jeffnet, framework)
    module = back_end.build(block, policy, initial.Source(0, values))
    y = module(x, training=True) if training else module(x)
    return y, jeffnet.flat_variables(module)


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_batch_norm_equals_torch(framework):
    x = 3 + 2 * images(4, 5, 3, 6)
    values = {'scale': images(6), 'bias': images(6), 'mean': images(6), 'var': np.exp(images(6))}
    theirs = torch.nn.BatchNorm2d(6)
    theirs.load_state_dict(
        {'weight': torch.from_numpy(values['scale']), 'bias': torch.from_numpy(values['bias']),
         'running_mean': torch.from_numpy(values['mean']), 'running_var': torch.from_numpy(values['var']),
         'num_batches_tracked': torch.tensor(0)}
    )  # fmt: skip
    ours, _ = run(framework, layers.BatchNorm(6), values, x)
    np.testing.assert_allclose(ours, nhwc(theirs.eval()(nchw(x))), **CLOSE)
    ours, updated = run(framework, layers.BatchNorm(6), values, x, training=True)
    np.testing.assert_allclose(ours, nhwc(theirs.train()(nchw(x))), **CLOSE)
    np.testing.assert_allclose(updated['mean'], theirs.running_mean, **CLOSE)
    np.testing.assert_allclose(updated['var'], theirs.running_var, **CLOSE)


def test_batch_norm_of_the_tensorflow_policy_keeps_the_biased_variance():
    x = images(2, 3, 1, 1)
    _, updated = run('linen', layers.BatchNorm(1), {'var': np.ones(1)}, x, TENSORFLOW, training=True)
    np.testing.assert_allclose(updated['var'], 0.99 + 0.01 * x.var(), **CLOSE)
    np.testing.assert_allclose(updated['mean'], 0.01 * x.mean(), **CLOSE)
    ours, _ = run('linen', layers.BatchNorm(1), {'var': np.full(1, 1e-3)}, x, TENSORFLOW)
    np.testing.assert_allclose(ours, x / np.sqrt(2e-3), **CLOSE)


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_layer_and_group_norm_equal_torch(framework):
    x, scale, bias = 1 + 2 * images(3, 4, 5, 8), images(8), images(8)
    values = {'scale': scale, 'bias': bias}
    ours, _ = run(framework, layers.LayerNorm(8), values, x)
    weights = torch.from_numpy(scale), torch.from_numpy(bias)
    np.testing.assert_allclose(ours, F.layer_norm(torch.from_numpy(x), (8,), *weights, eps=1e-6), **CLOSE)
    ours, _ = run(framework, layers.GroupNorm(8, groups=2), values, x)
    np.testing.assert_allclose(ours, nhwc(F.group_norm(nchw(x), 2, *weights)), **CLOSE)


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_linear_conv_bias_and_squeeze_excite_equal_torch(framework):
    x = images(2, 6, 5, 4)
    values = {'kernel': images(4, 3), 'bias': images(3)}
    ours, _ = run(framework, layers.Linear(4, 3), values, x)
    np.testing.assert_allclose(ours, x @ values['kernel'] + values['bias'], **CLOSE)
    block = layers.SqueezeExcite(4, 2, activations.silu, activations.hard_sigmoid)
    values = {k: images(*d.shape) for k, d in declarations(block).items()}
    ours, _ = run(framework, block, values, x)
    pooled = x.mean((1, 2))
    hidden = torch.from_numpy(pooled @ values['conv_reduce.kernel'][0, 0] + values['conv_reduce.bias'])
    expanded = F.silu(hidden).numpy() @ values['conv_expand.kernel'][0, 0] + values['conv_expand.bias']
    gates = F.hardsigmoid(torch.from_numpy(expanded)).numpy()
    np.testing.assert_allclose(ours, x * gates[:, None, None], **CLOSE)


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
@pytest.mark.parametrize('padding', ['SAME', 'LIKE'])
def test_mixed_convolution_equals_timm(framework, padding):
    from timm.layers import MixedConv2d

    block = layers.MixedConv(10, 10, (3, 5, 7), stride=2, depthwise=True)
    x = images(2, 8, 8, 10)
    values = {k: images(*d.shape) for k, d in declarations(block).items()}
    theirs = MixedConv2d(10, 10, [3, 5, 7], stride=2, padding='same' if padding == 'SAME' else '', depthwise=True)
    state = {
        f'{i}.weight': torch.from_numpy(values[f'convs_{i}.kernel'].transpose(3, 2, 0, 1).copy()) for i in range(3)
    }
    theirs.load_state_dict(state)
    ours, _ = run(framework, block, values, x, Policy(padding=padding))
    np.testing.assert_allclose(ours, nhwc(theirs(nchw(x))), **CLOSE)


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
@pytest.mark.parametrize('per_sample', [False, True])
def test_dropout_drops_its_rate_and_keeps_the_mean(framework, per_sample):
    block, x = layers.Dropout(0.3, per_sample), jnp.ones((4000, 3, 1, 2))
    if framework == 'linen':
        module = jeffnet.linen.build(block)
        first, second = (module.apply({}, x, training=True, rngs={'dropout': jax.random.key(i)}) for i in range(2))
    else:
        module = getattr(jeffnet, framework).build(block)
        first, second = module(x, training=True), module(x, training=True)
    samples = np.asarray(first).reshape(4000, -1)
    assert set(np.unique(samples)) == {0.0, np.float32(1 / 0.7)}
    # The mean of 4000 (per sample) or 24000 independent draws: 5 standard errors of 0.0104 or 0.0042.
    assert abs(samples.mean() - 1) < (0.052 if per_sample else 0.021)
    assert (samples == samples[:, :1]).all() == per_sample
    assert (np.asarray(first) != np.asarray(second)).any()
    still = module.apply({}, x) if framework == 'linen' else module(x)
    np.testing.assert_array_equal(still, x)


def test_initial_values_have_the_variance_of_the_tensorflow_code():
    depthwise = declarations(layers.Conv(96, 96, 3, groups=96))['kernel']
    assert depthwise.init.std == pytest.approx(np.sqrt(2 / 9))
    dense = declarations(layers.Conv(8, 32, 5))['kernel']
    assert dense.init.std == pytest.approx(np.sqrt(2 / (25 * 32)))
    drawn = initial.initial_value('a', declarations(layers.Conv(64, 64, 3))['kernel'], seed=1)
    assert drawn.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
    other = initial.initial_value('b', declarations(layers.Conv(64, 64, 3))['kernel'], seed=1)
    assert abs(np.corrcoef(drawn.ravel(), other.ravel())[0, 1]) < 0.03  # 5 / sqrt(36864)
    classifier = jeffnet.create.plan('pt_mnasnet_small').block
    kernel = initial.initial_value('k', declarations(classifier)['classifier.kernel'], 0)
    assert np.abs(kernel).max() <= 1000**-0.5 and kernel.std() == pytest.approx(1000**-0.5 / np.sqrt(3), rel=0.02)


@pytest.mark.parametrize('init', [initial.Normal(0.5), initial.Normal(0.5, truncated=True), initial.Uniform(0.3)])
def test_numpy_and_jax_draw_from_the_same_distribution(init):
    ours = init.sample(np.random.default_rng(0), (200, 200))
    theirs = np.asarray(init(jax.random.key(0), (200, 200)))
    assert ours.dtype == np.float32
    assert ours.std() == pytest.approx(theirs.std(), rel=0.02)
    assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.15)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_variables():
    policy = Policy(dtype=jnp.bfloat16)
    for block in (layers.Conv(4, 4, 3), layers.Conv(4, 4, 3, groups=4), layers.Linear(4, 4)):
        y, variables = run('linen', block, None, images(1, 5, 5, 4), policy)
        assert y.dtype == jnp.bfloat16
        assert {v.dtype for v in variables.values()} == {jnp.dtype('float32')}


def test_bad_layers_are_refused():
    with pytest.raises(ValueError, match='groups=3 does not divide 4'):
        declarations(layers.Conv(4, 4, groups=3))
    with pytest.raises(ValueError, match='groups=3 does not divide 4'):
        declarations(layers.GroupNorm(4, groups=3))
