"""The predictor: the same numbers in blocks, on several devices, inside a caller's program and uncompiled."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jeffnet
from jeffnet import predict
from jeffnet.core.convolution import convolve
from jeffnet.core.pooling import global_avg_pool
from tests import tiny_model

RNG = np.random.default_rng(0)
ROOT = Path(__file__).parents[1]
# Sums in float32 are taken in another order: products of other sizes are cut into other pieces.
CLOSE = {'rtol': 1e-5, 'atol': 1e-5}


@pytest.fixture(scope='module')
def model():
    return jeffnet.create_model(tiny_model.register(), num_classes=3)


@pytest.mark.parametrize(('count', 'blocks'), [(1, (1, 1)), (4, (2, 2)), (5, (3, 2)), (7, (4, 2))])
def test_blocks_give_the_numbers_of_the_whole(model, monkeypatch, count, blocks):
    x = RNG.normal(size=(count, 32, 32, 3)).astype(np.float32)
    whole = jeffnet.predictor(*model)
    assert whole.blocks(count, 1, x) == (1, count)  # such small images all fit
    run = jeffnet.predictor(*model)
    monkeypatch.setattr(
        predict, 'BLOCK_BYTES', 2 * predict.widest_activation(run.call, run.variables, (32, 32, 3), x.dtype)
    )
    assert run.blocks(count, 1, x) == blocks
    np.testing.assert_allclose(run(x), whole(x), **CLOSE)


def test_lists_of_feature_maps_come_in_blocks_too(monkeypatch):
    module, variables = jeffnet.create_model(tiny_model.register(), features_only=True)
    x = RNG.normal(size=(3, 32, 32, 3)).astype(np.float32)
    expected = module.apply(variables, x)
    monkeypatch.setattr(predict, 'BLOCK_BYTES', 1)
    run = jeffnet.predictor(module, variables)
    assert run.blocks(3, 1, x) == (3, 1)
    for ours, reference in zip(run(x), expected, strict=True):
        np.testing.assert_allclose(ours, reference, **CLOSE)


def test_the_widest_activation_is_no_weight():
    def call(variables, x):  # [N, 4]: a product of the weights alone, and arrays of 16 and 12 bytes an image
        square = variables @ variables
        return jax.jit(lambda y: jnp.tanh(y)[:, :3])(x @ square)

    assert predict.widest_activation(call, np.ones((4, 4), np.float32), (4,), np.dtype('float32')) == 16


def test_uncompiled_and_inside_a_program(model):
    x = RNG.normal(size=(3, 32, 32, 3)).astype(np.float32)
    run = jeffnet.predictor(*model)
    expected = run(x)
    np.testing.assert_allclose(jeffnet.predictor(*model, compiled=False)(x), expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda x: run(x) + 1)(x), expected + 1, **CLOSE)
    assert run.outputs(x).shape == (3, 3)


DEVICES = """
import json, numpy as np, jax, jeffnet
from tests import tiny_model
run = jeffnet.predictor(*jeffnet.create_model(tiny_model.register(), num_classes=3))
x = np.random.default_rng(1).normal(size=(7, 32, 32, 3)).astype(np.float32)
found = {n: np.asarray(run(x[:n])).tolist() for n in (1, 2, 7)}
used = {n: len(run(x[:n]).sharding.device_set) for n in (1, 2, 3)}
print(json.dumps([run.devices, found, used]))
"""


def test_devices_share_a_batch(model):
    environment = os.environ | {'XLA_FLAGS': '--xla_force_host_platform_device_count=3', 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run(
        [sys.executable, '-c', DEVICES], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    devices, found, used = json.loads(done.stdout.splitlines()[-1])
    x = np.random.default_rng(1).normal(size=(7, 32, 32, 3)).astype(np.float32)
    assert devices == 3 and used == {'1': 1, '2': 2, '3': 3}  # a device without an image is left out
    for count, logits in found.items():
        np.testing.assert_allclose(logits, jeffnet.predictor(*model)(x[: int(count)]), **CLOSE)


@pytest.mark.parametrize('platform', ['tpu', 'cuda', 'cpu'])
def test_lowering_is_that_of_the_platform_compiled_for(platform):
    def network(x, depthwise, pointwise):
        x = convolve(x, depthwise, (1, 1), ((1, 1), (1, 1)), groups=8)
        return global_avg_pool(convolve(x, pointwise, (2, 2), ((0, 0), (0, 0))))

    arrays = (jnp.zeros((2, 6, 6, 8)), jnp.zeros((3, 3, 1, 8)), jnp.zeros((1, 1, 8, 4)))
    program = jax.jit(network).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
    counts = {
        name: program.count(f'stablehlo.{name} ') + program.count(f'stablehlo.{name}(')
        for name in ('convolution', 'dot_general', 'reduce')
    }
    expected = (
        {'convolution': 0, 'dot_general': 2, 'reduce': 0}
        if platform == 'cpu'
        else {'convolution': 2, 'dot_general': 0, 'reduce': 1}
    )
    assert counts == expected


def test_gradients_are_those_of_the_native_convolution():
    x, g = RNG.normal(size=(2, 7, 7, 8)).astype(np.float32), RNG.normal(size=(2, 4, 4, 8)).astype(np.float32)
    kernel = RNG.normal(size=(3, 3, 1, 8)).astype(np.float32)

    def native(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=8
        )

    out, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, (2, 2), ((1, 1), (1, 1)), groups=8), x, kernel)
    expected, pull_native = jax.vjp(native, x, kernel)
    np.testing.assert_allclose(out, expected, **CLOSE)
    for ours, reference in zip(pull(g), pull_native(g), strict=True):
        np.testing.assert_allclose(ours, reference, **CLOSE)
