"""The predictor: the same numbers in blocks, on several devices, inside a caller's program and uncompiled."""

import importlib
import json
import math
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze

import jeffnet
from jeffnet import predict
from jeffnet.core.block import PYTORCH, Block
from jeffnet.core.convolution import convolve
from jeffnet.core.layers import Conv
from jeffnet.core.pooling import global_avg_pool
from tests import tiny_model

RNG = np.random.default_rng(0)
ROOT = Path(__file__).parents[1]
# Sums in float32 are taken in another order: products of other sizes are cut into other pieces.
CLOSE = {'rtol': 1e-5, 'atol': 1e-5}


@pytest.fixture(scope='module')
def model():
    return jeffnet.create_model(tiny_model.register(), num_classes=3)


def caching(monkeypatch, images: float, run):
    """A cache in which the widest activations of so many images of 32 x 32 just have their share."""
    widest = predict.widest_activation(run.call, run.variables, (32, 32, 3), np.dtype('float32'))
    monkeypatch.setattr(predict, 'cache_bytes', lambda: images * widest / predict.CACHE_SHARE)


@pytest.mark.parametrize(
    ('count', 'lanes', 'blocks'),
    [(1, 1, (1, 1)), (4, 1, (2, 2)), (5, 1, (3, 2)), (7, 1, (4, 2)), (7, 3, (3, 1)), (2, 3, (1, 1))],
)
def test_lanes_and_blocks_give_the_numbers_of_the_whole(model, monkeypatch, count, lanes, blocks):
    x = RNG.normal(size=(count, 32, 32, 3)).astype(np.float32)
    whole = jeffnet.predictor(*model)
    whole.lanes = 1
    assert whole.blocks(count, 1, x) == (1, count)  # such small images all fit
    run = jeffnet.predictor(*model)
    run.lanes = lanes
    caching(monkeypatch, 2, run)
    parts = min(count, lanes)
    assert run.blocks(-(-count // parts), parts, x) == blocks
    np.testing.assert_allclose(run(x), whole(x), **CLOSE)
    ((devices, block, shape, _),) = run.programs  # one, shared by all lanes
    assert (devices, block, shape[0]) == (1, blocks[1], math.prod(blocks))


def test_float64_within_a_context_reaches_every_lane(model):
    x = RNG.normal(size=(4, 32, 32, 3))
    with jax.enable_x64(True):
        run = jeffnet.predictor(*jeffnet.create_model(tiny_model.register(), num_classes=3, dtype=jnp.float64))
        run.lanes = 2
        exact = run(x)
    assert exact.dtype == np.float64
    np.testing.assert_allclose(exact, jeffnet.predictor(*model)(x.astype(np.float32)), **CLOSE)


def test_a_single_cpu_has_a_lane_for_each_core(model):
    assert jeffnet.predictor(*model).lanes == len(os.sched_getaffinity(0))


@pytest.mark.parametrize('name', ['tf_tiny', 'pt_tiny_vit'])
def test_every_framework_has_the_same_program(name):
    programs = set()
    for framework in jeffnet.FRAMEWORKS:
        made = jeffnet.create_model(tiny_model.register(name), framework, num_classes=3)
        run = jeffnet.predictor(*made) if framework == 'linen' else jeffnet.predictor(made)
        images = jax.ShapeDtypeStruct((2, 32, 32, 3), np.float32)
        programs.add(jax.jit(run.call).lower(run.variables, images).as_text())
    assert len(programs) == 1  # so the compilation cache has it for all of them


@pytest.mark.parametrize('fuse', [True, False])
@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_a_module_without_a_training_mode(framework, fuse):
    made = importlib.import_module(f'jeffnet.{framework}').assemble(Conv(3, 4, 3), PYTORCH, None)
    x = RNG.normal(size=(2, 8, 8, 3)).astype(np.float32)
    made, expected = (made, made[0].apply(made[1], x)) if framework == 'linen' else ((made,), made(x))
    np.testing.assert_allclose(jeffnet.predictor(*made, fuse=fuse)(x), expected, **CLOSE)


def test_a_module_with_collections_of_its_own():
    class Counting(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x.mean((1, 2)) + self.variable('constants', 'shift', lambda: jnp.ones(3)).value

    module = Counting()
    variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    x = RNG.normal(size=(2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(jeffnet.predictor(module, variables)(x), x.mean((1, 2)) + 1, **CLOSE)


def test_lists_of_feature_maps_come_in_lanes_and_blocks_too(monkeypatch):
    module, variables = jeffnet.create_model(tiny_model.register(), features_only=True)
    x = RNG.normal(size=(5, 32, 32, 3)).astype(np.float32)
    expected = module.apply(variables, x)
    run = jeffnet.predictor(module, variables)
    run.lanes = 2
    caching(monkeypatch, 0.1, run)
    assert run.blocks(3, 2, x) == (3, 1)
    for ours, reference in zip(run(x), expected, strict=True):
        np.testing.assert_allclose(ours, reference, **CLOSE)


@pytest.mark.skipif(not Path('/sys/devices/system/cpu/cpu0/cache').exists(), reason='the system does not tell')
def test_the_cache_is_what_the_system_tells():
    caches = Path('/sys/devices/system/cpu/cpu0/cache').glob('index*/size')
    largest = max(int(path.read_text().strip().rstrip('K')) * 1024 for path in caches)
    assert predict.cache_bytes() % largest == 0


def test_the_widest_activation_is_no_weight():
    def call(variables, x):  # [N, 4]: a product of the weights alone, and arrays of 16 and 12 bytes an image
        square = variables @ variables
        return jax.jit(lambda y: jnp.tanh(y)[:, :3])(x @ square)

    assert predict.widest_activation(call, np.ones((4, 4), np.float32), (4,), np.dtype('float32')) == 16


@pytest.mark.parametrize('fuse', [True, False])
def test_it_keeps_the_variables_as_they_were(model, fuse):
    module, variables = model
    x = RNG.normal(size=(2, 32, 32, 3)).astype(np.float32)
    arrays = jax.tree.map(np.array, variables)
    run = jeffnet.predictor(module, arrays, fuse=fuse)
    before = np.asarray(run(x))
    jax.tree.map(lambda array: array.fill(0), arrays)
    np.testing.assert_array_equal(run(x), before)
    given = jax.tree.map(jnp.array, variables)
    run = jeffnet.predictor(module, given, fuse=fuse)
    jax.jit(lambda tree: jax.tree.map(lambda array: array + 1, tree), donate_argnums=0)(given)
    np.testing.assert_array_equal(run(x), before)


@pytest.mark.parametrize('name', [None, 'pt_vit_tiny_patch16_224'])
def test_no_images_give_no_logits(model, name):
    module, variables = jeffnet.create_model(name, num_classes=3) if name else model
    assert jeffnet.predictor(module, variables)(np.zeros((0, 224, 224, 3), np.float32)).shape == (0, 3)


def test_tensors_of_pytorch_are_images_too(model):
    import torch

    x = RNG.normal(size=(2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(jeffnet.predictor(*model)(torch.from_numpy(x)), jeffnet.predictor(*model)(x))


@pytest.mark.parametrize('images', [[[1.0]], None, 1.0, np.float32(1), np.zeros((32, 32, 3))])
def test_what_are_no_images(model, images):
    what = rf'an array \[N, H, W, C\], not {type(images).__name__}'
    if isinstance(images, (np.ndarray, np.generic)):
        what = rf'the shape \[N, H, W, C\], not {re.escape(str(images.shape))}'
    with pytest.raises(ValueError, match=f'images must .*{what}'):
        jeffnet.predictor(*model)(images)


def test_what_are_no_variables(model):
    module, variables = model
    with pytest.raises(TypeError, match=r"not a tree of \[.*'conv_stem'"):
        jeffnet.predictor(module, variables['params'])
    with pytest.raises(TypeError, match='a module of nnx keeps'):
        jeffnet.predictor(jeffnet.create_model(tiny_model.register(), 'nnx'), variables)


def misfits(model):
    """Variables that are not those of the model, and what is said of them."""
    variables = model[1]
    params, stats = variables['params'], variables['batch_stats']
    rest = {name: tree for name, tree in params.items() if name != 'classifier'}
    return {
        r'there is no bn1.mean, which .* \(and \d+ more: bn1.var, .*, \.\.\.\); give all': {'params': params},
        r'classifier.kernel has the shape \(32, 5\), where .* \(32, 3\) \(and 1 more: classifier.bias\); give':
            jeffnet.create_model(tiny_model.register(), num_classes=5)[1],
        r'there is no conv_stem.*, which .*; nothing declares \S+ \(and \d+ more':
            jeffnet.create_model(tiny_model.register('pt_tiny_vit'), num_classes=3)[1],
        r'EfficientNet: nothing declares more.kernel; give':
            {'params': {**params, 'more': {'kernel': np.ones(3)}}, 'batch_stats': stats},
        r'there is no classifier.kernel.*; nothing declares classifier;':
            {'params': {**rest, 'classifier': 1}, 'batch_stats': stats},
        r'conv_stem.kernel has the shape \(\), where':
            {'params': jax.tree.map(lambda _: 1.0, params), 'batch_stats': stats},
        'params of the variables is no tree of arrays but int; give': {'params': 1},
    }  # fmt: skip


def test_variables_of_another_model_are_named_before_anything_is_traced(model):
    for says, variables in misfits(model).items():
        for call in (jeffnet.fuse, jeffnet.predictor, partial(jeffnet.predictor, fuse=False)):
            with pytest.raises(ValueError, match=says):
                call(model[0], variables)


@pytest.mark.parametrize('fuse', [True, False])
def test_frozen_variables_and_further_collections_are_welcome(model, fuse):
    module, variables = model
    x = RNG.normal(size=(2, 32, 32, 3)).astype(np.float32)
    expected = jeffnet.predictor(module, variables, fuse=fuse)(x)
    for given in (freeze(variables), {**variables, 'intermediates': {'stage_0': (np.ones(3),)}}):
        np.testing.assert_allclose(jeffnet.predictor(module, given, fuse=fuse)(x), expected, **CLOSE)


def test_modules_of_the_framework_inside_a_block_of_a_user_keep_their_arrays():
    class Scaled(Block):
        def setup(self):
            self.conv, self.own = Conv(3, 4), nn.Dense(2)

        def __call__(self, x, training=False):
            return self.own(self.conv(x))

    module = jeffnet.linen.build(Scaled())
    x = RNG.normal(size=(2, 8, 8, 3)).astype(np.float32)
    variables = module.init(jax.random.key(0), x)
    for fuse in (True, False):
        np.testing.assert_allclose(
            jeffnet.predictor(module, variables, fuse=fuse)(x), module.apply(variables, x), **CLOSE
        )


@pytest.mark.parametrize('devices', [1, 'cpu', [], ['cpu']])
def test_what_are_no_devices(model, devices):
    with pytest.raises(TypeError, match=r'devices=.*expected a list of devices'):
        jeffnet.predictor(*model, devices=devices)
    with pytest.raises(ValueError, match='names a device twice'):
        jeffnet.predictor(*model, devices=jax.devices()[:1] * 2)


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
print(json.dumps([run.devices, run.lanes, found, used]))
"""


def test_devices_share_a_batch(model):
    environment = os.environ | {'XLA_FLAGS': '--xla_force_host_platform_device_count=3', 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run(
        [sys.executable, '-c', DEVICES], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    devices, lanes, found, used = json.loads(done.stdout.splitlines()[-1])
    x = np.random.default_rng(1).normal(size=(7, 32, 32, 3)).astype(np.float32)
    assert devices == 3 and lanes == 1 and used == {'1': 1, '2': 2, '3': 3}  # a device without an image is left out
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
