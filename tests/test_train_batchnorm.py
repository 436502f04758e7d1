"""What `batch_norm` means: over the batch, over groups of it, or not at all; the judge is PyTorch on each group."""

import dataclasses
import importlib

import jax
import numpy as np
import pytest
import torch

import jeffnet
from jeffnet.core.block import PYTORCH
from jeffnet.core.layers import BatchNorm
from tests.tiny_model import register

N, H, W, C = 12, 3, 5, 4
RNG = np.random.default_rng(0)
IMAGES = (RNG.normal(size=(N, H, W, C)) * 3 + 1).astype(np.float32)
START = {
    'scale': RNG.uniform(0.5, 2, C).astype(np.float32),
    'bias': RNG.normal(size=C).astype(np.float32),
    'mean': RNG.normal(size=C).astype(np.float32),
    'var': RNG.uniform(0.5, 2, C).astype(np.float32),
}


def ours(framework, **policy):
    """Output and new statistics of one training call."""
    back_end = importlib.import_module(f'jeffnet.{framework}')
    settings = dataclasses.replace(PYTORCH, **policy)
    if framework == 'linen':
        module, variables = back_end.build(BatchNorm(C), settings), back_end.variables_of(BatchNorm(C), settings, START)
        out, changed = module.apply(variables, IMAGES, training=True, mutable=['batch_stats'])
        return np.asarray(out), {k: np.asarray(v) for k, v in changed['batch_stats'].items()}
    module = back_end.build(BatchNorm(C), settings, back_end.Source(0, START))
    out = module(IMAGES, training=True)
    return np.asarray(out), {
        k: np.asarray(v) for k, v in back_end.flat_variables(module).items() if k in ('mean', 'var')
    }


def torchs(images):
    """The same of torch.nn.BatchNorm2d."""
    norm = torch.nn.BatchNorm2d(C)
    with torch.no_grad():
        for theirs, name in ((norm.weight, 'scale'), (norm.bias, 'bias'), (norm.running_mean, 'mean'),
                             (norm.running_var, 'var')):  # fmt: skip
            theirs.copy_(torch.from_numpy(START[name]))
        out = norm(torch.from_numpy(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    return out, {'mean': norm.running_mean.numpy(), 'var': norm.running_var.numpy()}


@pytest.mark.parametrize('framework', ['linen', 'nnx', 'objax'])
@pytest.mark.parametrize('size', [3, 4, 12])
def test_groups_are_torch_on_each_part(framework, size):
    """The running statistics become the mean of those that torch would have after each group."""
    out, stats = ours(framework, bn_group_size=size)
    parts = [torchs(IMAGES[at : at + size]) for at in range(0, N, size)]
    np.testing.assert_allclose(out, np.concatenate([part[0] for part in parts]), atol=2e-6)  # float32 sums
    for name in ('mean', 'var'):
        np.testing.assert_allclose(stats[name], np.mean([part[1][name] for part in parts], axis=0), rtol=1e-5)


def test_groups_differ_from_the_whole_batch():
    whole, _ = ours('linen')
    assert np.abs(ours('linen', bn_group_size=3)[0] - whole).max() > 0.1
    np.testing.assert_array_equal(ours('linen', bn_group_size=N)[0], whole)


def test_frozen_uses_and_keeps_the_running_statistics():
    out, stats = ours('linen', bn_frozen=True)
    expected = (IMAGES - START['mean']) / np.sqrt(START['var'] + 1e-5) * START['scale'] + START['bias']
    np.testing.assert_allclose(out, expected, atol=2e-6)
    for name in ('mean', 'var'):
        np.testing.assert_array_equal(stats[name], START[name])


def test_group_that_does_not_divide():
    with pytest.raises(ValueError, match='bn_group_size=5 does not divide a batch of 12'):
        ours('linen', bn_group_size=5)


@pytest.mark.parametrize(('key', 'value'), [('bn_group_size', 0), ('bn_group_size', True), ('bn_frozen', 'yes')])
def test_bad_values(key, value):
    with pytest.raises(ValueError, match=f'{key}={value!r}'):
        jeffnet.create_model('pt_mnasnet_small', **{key: value})


@pytest.mark.parametrize('framework', ['linen', 'nnx', 'objax'])
def test_functional_is_the_model(framework):
    """Evaluation equals the model's own; in training, the key decides, and statistics move as they do in the model."""
    made = jeffnet.create_model(register(), framework=framework, num_classes=3, drop_rate=0.5)
    model, variables = made if isinstance(made, tuple) else (made, None)
    call, params, stats = importlib.import_module(f'jeffnet.{framework}').functional(model, variables)
    images = RNG.normal(size=(4, 32, 32, 3)).astype(np.float32)
    call = jax.jit(call)
    logits, same = call(params, stats, images)
    own = model.apply(variables, images) if variables else model(images)
    np.testing.assert_allclose(logits, own, atol=1e-5 * np.abs(own).max())  # compiled and not
    assert all(np.array_equal(same[name], stats[name]) for name in stats)
    assert set(params) | set(stats) == set(jeffnet.flat_variables(variables if variables else model))
    outs = [call(params, stats, images, jax.random.key(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(outs[0][0], outs[1][0])
    assert np.abs(outs[0][0] - outs[2][0]).max() > 1e-3
    moved = [name for name in stats if not np.array_equal(outs[0][1][name], stats[name])]
    assert len(moved) == len(stats)
    assert all(np.array_equal(outs[0][1][name], outs[2][1][name]) for name in stats)  # dropout comes after all of them
