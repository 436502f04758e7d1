"""The primitives of the core, convolution and the sums of batch norm, differentiated in every way, against JAX."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jeffnet.core.activations import gelu, silu
from jeffnet.core.convolution import convolve
from jeffnet.core.moments import affine, sums
from jeffnet.core.pooling import _windows, max_pool

ROOT = Path(__file__).parents[1]
# Sums of some hundred float32 products of about 1, taken in another order.
CLOSE = {'rtol': 1e-4, 'atol': 1e-4}


def native(x, kernel, stride, padding, dilation=(1, 1), groups=1):
    return lax.conv_general_dilated(
        x, kernel, stride, padding,
        rhs_dilation=dilation, dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=groups,
    )  # fmt: skip


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


# --------------------------------------------------------------------------------------- one and its two cotangents

NONE, ONE, UNEVEN = ((0, 0), (0, 0)), ((1, 1), (1, 1)), ((2, 3), (0, 1))
GEOMETRIES = [
    (kernel, stride, padding, dilation, groups)
    for groups in (1, 2, 4)
    for kernel, stride, padding, dilation in [
        ((1, 1), (1, 1), NONE, (1, 1)), ((1, 1), (2, 2), NONE, (1, 1)), ((1, 1), (3, 1), UNEVEN, (1, 1)),
        ((3, 3), (1, 1), ONE, (1, 1)), ((3, 3), (2, 2), ONE, (1, 1)), ((3, 3), (1, 1), UNEVEN, (2, 2)),
        ((5, 3), (2, 2), UNEVEN, (2, 2)), ((5, 3), (3, 1), ONE, (1, 2)), ((2, 2), (2, 2), NONE, (1, 1)),
        ((3, 3), (2, 2), UNEVEN, (3, 3)),
    ]
]  # fmt: skip


@pytest.mark.parametrize('width', [8, 30])  # below and above where the cotangent of a depthwise kernel changes its way
def test_output_and_cotangents(width):
    for kernel_size, stride, padding, dilation, groups in GEOMETRIES:
        x, kernel = normal(2, 9, width, 4), normal(*kernel_size, 4 // groups, 4, seed=1)
        settings = {'stride': stride, 'padding': padding, 'dilation': dilation, 'groups': groups}
        expected, pull_native = jax.vjp(partial(native, **settings), x, kernel)
        out, pull = jax.vjp(partial(convolve, **settings), x, kernel)
        cotangent = normal(*expected.shape, seed=2)
        for ours, reference in zip((out, *pull(cotangent)), (expected, *pull_native(cotangent)), strict=True):
            np.testing.assert_allclose(ours, reference, **CLOSE, err_msg=str((kernel_size, settings)))


@pytest.mark.parametrize('groups', [1, 2, 3, 6, 16, 48])  # the last three are merged into three, two and three
@pytest.mark.parametrize('multiplier', [1, 2])
def test_groups(groups, multiplier):
    x, kernel = normal(2, 7, 6, 96), normal(3, 3, 96 // groups, 96 * multiplier, seed=1)
    settings = {'stride': (2, 1), 'padding': UNEVEN, 'groups': groups}
    expected, pull_native = jax.vjp(partial(native, **settings), x, kernel)
    out, pull = jax.vjp(partial(convolve, **settings), x, kernel)
    cotangent = normal(*expected.shape, seed=2)
    for ours, reference in zip((out, *pull(cotangent)), (expected, *pull_native(cotangent)), strict=True):
        # Up to 1,728 products of about 1 each.
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=5e-4)


@pytest.mark.parametrize('channels', [1, 3, 5])  # of the first layer: by a sum of terms, and of too many for that
def test_few_channels(channels):
    x, kernel = normal(2, 11, 10, channels), normal(3, 3, channels, 8, seed=1)
    for stride, padding, dilation in [((2, 2), ONE, (1, 1)), ((1, 2), UNEVEN, (2, 1))]:
        settings = {'stride': stride, 'padding': padding, 'dilation': dilation}
        np.testing.assert_allclose(convolve(x, kernel, **settings), native(x, kernel, **settings), **CLOSE)


@pytest.mark.parametrize('groups', [1, 4, 8])
@pytest.mark.parametrize('batch', [0, 2])
def test_a_kernel_that_fits_nowhere_and_no_images(groups, batch):
    for size, padding in ((3, NONE), (3, ONE), (9, NONE)):  # a kernel of 5 fits the last only
        x, kernel = normal(batch, size, size, 8), normal(5, 5, 8 // groups, 8, seed=1)
        settings = {'stride': (1, 1), 'padding': padding, 'groups': groups}
        out, pull = jax.vjp(jax.jit(partial(convolve, **settings)), x, kernel)
        expected = native(x, kernel, **settings)
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)  # 200 products of about 1 each
        assert [array.shape for array in pull(jnp.zeros_like(out))] == [x.shape, kernel.shape]


def test_products_of_large_images():
    x, kernel, cotangent = normal(2, 60, 51, 3), normal(1, 1, 3, 4, seed=1), normal(2, 60, 51, 4, seed=2)
    pull, pull_native = (jax.vjp(lambda kernel, f=f: f(x, kernel, (1, 1), NONE), kernel)[1] for f in (convolve, native))
    # 6,120 products of about 1 each.
    np.testing.assert_allclose(pull(cotangent)[0], pull_native(cotangent)[0], rtol=1e-4, atol=2e-3)


def test_bfloat16_is_rounded_once():
    x, kernel = normal(2, 12, 12, 8), normal(5, 5, 1, 8, seed=1)
    settings = {'stride': (2, 2), 'padding': ((2, 2), (2, 2)), 'groups': 8}
    cotangent = normal(2, 6, 6, 8, seed=2)
    small = [jnp.asarray(array, jnp.bfloat16) for array in (x, kernel, cotangent)]
    exact = [array.astype(jnp.float32) for array in small]
    out, pull = jax.vjp(partial(convolve, **settings), *small[:2])
    expected, pull_native = jax.vjp(partial(native, **settings), *exact[:2])
    for ours, reference in zip((out, *pull(small[2])), (expected, *pull_native(exact[2])), strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_array_max_ulp(np.float32(ours), np.float32(reference.astype(jnp.bfloat16)), 2**16)


def test_a_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r'float32\[2, 8, 8, 3\].*float32\[3, 3, 4, 5\] in 1 groups'):
        convolve(normal(2, 8, 8, 3), normal(3, 3, 4, 5), (1, 1), NONE)


# ----------------------------------------------------------------------------------------------------- every order


def depthwise(f):
    return lambda x, kernel: jnp.sin(f(x, kernel, (2, 2), ONE, (1, 1), 4))


def norm_by_hand(x, scale, bias):
    mean = x.mean((0, 1, 2))
    return (x - mean) * scale * lax.rsqrt(jnp.square(x - mean).mean((0, 1, 2)) + 1e-3) + bias


def norm_by_primitives(x, scale, bias):
    """As in `BatchNorm.by_batch`."""
    n, centre = x.size // x.shape[-1], lax.stop_gradient(x[0].mean((0, 1)))
    shift, square = (total / n for total in sums(x - centre, x - centre))
    gain = scale * lax.rsqrt(square - shift**2 + 1e-3)
    return affine(bias - (centre + shift) * gain, gain, x)


PAIRS = {
    'depthwise': (depthwise(convolve), depthwise(native), (normal(2, 9, 8, 4), normal(3, 3, 1, 4, seed=1))),
    'norm': (lambda *a: jnp.sin(norm_by_primitives(*a)), lambda *a: jnp.sin(norm_by_hand(*a)),
             (normal(2, 5, 4, 3) + 3, normal(3, seed=1), normal(3, seed=2))),
}  # fmt: skip


def loss(f):
    return lambda *operands: jnp.square(f(*operands)).sum()


def doubled(operands, axes):
    return [jnp.stack([x, x + 1], axis) if axis is not None else x for x, axis in zip(operands, axes, strict=True)]


WAYS = {
    'forward mode': lambda f, args: jax.jvp(f, args, tuple(x * x for x in args)),
    'linearized': lambda f, args: jax.linearize(f, *args)[1](*args),
    'forward over reverse': lambda f, args: jax.jvp(jax.grad(loss(f), (0, 1)), args, tuple(x * x for x in args)),
    'reverse over reverse': lambda f, args: jax.grad(
        lambda *a: sum(jnp.square(g).sum() for g in jax.grad(loss(f), (0, 1))(*a)), (0, 1)
    )(*args),
    'of the last alone': lambda f, args: jax.grad(loss(f), len(args) - 1)(*args),
    'jacobian': lambda f, args: jax.jacfwd(f, 1)(*args),
    'of each example': lambda f, args: jax.vmap(jax.grad(loss(f), (0, 1)), (0, *[None] * (len(args) - 1)))(
        *doubled(args, (0, *[None] * (len(args) - 1)))
    ),
    'of each kernel': lambda f, args: jax.vmap(jax.grad(loss(f), (0, 1)), (None, *[0] * (len(args) - 1)))(
        *doubled(args, (None, *[0] * (len(args) - 1)))
    ),
    'of both': lambda f, args: jax.vmap(jax.grad(loss(f), (0, 1)), (1, *[0] * (len(args) - 1)))(
        *doubled(args, (1, *[0] * (len(args) - 1)))
    ),
    'not compiled': lambda f, args: uncompiled(f, args),
}


def uncompiled(f, args):
    with jax.disable_jit():
        return jax.grad(loss(f))(*args)


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('pair', PAIRS)
def test_every_order_of_differentiation(pair, way):
    ours, reference, args = PAIRS[pair]
    expected = jax.tree.leaves(WAYS[way](reference, args))
    run = WAYS[way] if way == 'not compiled' else jax.jit(lambda args: WAYS[way](ours, args))
    found = run(ours, args) if way == 'not compiled' else run(args)
    for mine, theirs in zip(jax.tree.leaves(found), expected, strict=True):
        # Relative to the largest, since second derivatives cancel.
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_sums_keep_leading_axes_apart():
    u, v = normal(3, 4, 5, 6, 2), normal(3, 4, 5, 6, 2, seed=1)
    one, two = sums(u, v, lead=1)
    np.testing.assert_allclose(one, u.sum((1, 2, 3)), **CLOSE)
    np.testing.assert_allclose(two, (u * v).sum((1, 2, 3)), **CLOSE)
    expected = one[:, None, None, None] + two[:, None, None, None] * u
    np.testing.assert_allclose(affine(one, two, u, lead=1), expected, **CLOSE)


# ------------------------------------------------------------------------------------------------- several devices

SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from functools import partial
from jax.sharding import Mesh, PartitionSpec as P
from tests.test_core_derivatives import convolve, native, normal, norm_by_hand, norm_by_primitives, ONE

mesh = Mesh(np.array(jax.devices()), ('data',))
x, kernel, scale = normal(4, 9, 8, 4), normal(3, 3, 1, 4, seed=1), normal(4, seed=2)

def loss(conv, norm, x, kernel, scale):
    y = conv(x, kernel, (2, 2), ONE, (1, 1), 4)
    return jnp.sin(norm(y, scale, scale)).sum()

# Each device with statistics of its own, the gradients summed over all: what data parallelism by hand does.
def parallel(conv, norm):
    total = lambda *operands: jax.lax.psum(loss(conv, norm, *operands), 'data')
    shards = jax.shard_map(total, mesh=mesh, in_specs=(P('data'), P(), P()), out_specs=P())
    return jax.jit(jax.grad(lambda *operands: shards(*operands), (0, 1, 2)))(x, kernel, scale)

def whole(conv, norm):  # one batch, split by the compiler
    placed = jax.device_put(x, jax.NamedSharding(mesh, P('data')))
    return jax.jit(jax.grad(partial(loss, conv, norm), (0, 1, 2)))(placed, kernel, scale)

for way in (parallel, whole):
    for ours, theirs in zip(way(convolve, norm_by_primitives), way(native, norm_by_hand), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())
# And in a mesh whose axes are part of the types of arrays.
import jeffnet
model, variables = jeffnet.create_model('pt_mobilenetv3_small_100', num_classes=10)
images = normal(2, 32, 32, 3)
mesh = jax.make_mesh((2,), ('data',), axis_types=(jax.sharding.AxisType.Explicit,))
with jax.set_mesh(mesh):
    logits = jax.jit(model.apply)(variables, jax.device_put(images, jax.NamedSharding(mesh, P('data'))))
np.testing.assert_allclose(logits, jax.jit(model.apply)(variables, images), rtol=1e-4, atol=1e-6)
print('equal on', len(jax.devices()))
"""


def test_on_several_devices():
    environment = os.environ | {'XLA_FLAGS': '--xla_force_host_platform_device_count=2', 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run([sys.executable, '-c', SHARDED], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.split('\n')[-2:-1] == ['equal on 2'], done.stderr


# --------------------------------------------------------------------------------------------- activations, pooling


@pytest.mark.parametrize('order', [1, 2, 3])
@pytest.mark.parametrize(
    ('ours', 'reference'), [(silu, jax.nn.silu), (gelu, partial(jax.nn.gelu, approximate=False))], ids=['silu', 'gelu']
)
def test_derivatives_of_activations(ours, reference, order):
    with jax.enable_x64(True):
        x = jnp.concatenate([jnp.linspace(-25, 25, 2001), jnp.array([-1e4, -100.0, 100, 1e4])])
        for _ in range(order):
            ours, reference = jax.grad(ours), jax.grad(reference)
        exact = jax.vmap(reference)(x)
        np.testing.assert_allclose(jax.vmap(ours)(x)[:2001], exact[:2001], rtol=0, atol=1e-13)
        single = jax.vmap(ours)(x.astype(jnp.float32))
    # Four units in the last place of values around 1; the tails are finite.
    np.testing.assert_allclose(single[:2001], exact[:2001], rtol=0, atol=5e-7)
    np.testing.assert_allclose(single[2001:], [0, 0, float(order == 1), float(order == 1)], rtol=0, atol=1e-8)


@pytest.mark.parametrize('settings', [(3, 2, 1, False), (2, 2, 'VALID', True), ((1, 3), (1, 2), 'SAME', False)])
def test_the_first_of_equal_maxima_gets_the_gradient(settings):
    x = normal(2, 8, 7, 3).round()  # ties
    kernel_size, stride, padding, ceil_mode = settings
    pool = partial(max_pool, kernel_size=kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode)
    window, strides, pads = _windows(x, kernel_size, stride, padding, ceil_mode)
    native = partial(
        lax.reduce_window, init_value=-jnp.inf, computation=lax.max, window_dimensions=window, window_strides=strides,
        padding=pads,
    )  # fmt: skip
    (out, pull), (expected, pull_native) = jax.vjp(pool, x), jax.vjp(native, x)
    np.testing.assert_array_equal(out, expected)
    cotangent = normal(*out.shape, seed=1)
    np.testing.assert_allclose(pull(cotangent)[0], pull_native(cotangent)[0], **CLOSE)
    x[0, 3, 3, 0] = np.nan
    np.testing.assert_array_equal(pool(x), native(x))
