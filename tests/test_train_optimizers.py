"""Optimizers against torch.optim and timm.optim, with rates that change; clipping, masks, groups, frozen arrays."""

import ast
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import timm
import timm.optim as timm_optim
import torch
from timm.utils.agc import adaptive_clip_grad

from jeffnet.train.groups import decay_mask, layer_ids, multipliers
from jeffnet.train.optimizers import OPTIMIZERS, make_optimizer, set_learning_rate

SHAPES = {'conv.kernel': (3, 3, 4, 6), 'bn.scale': (6,), 'bn.bias': (6,), 'head.kernel': (6, 5), 'head.bias': (5,)}
DECAY = 0.1


def draw(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) for name, shape in SHAPES.items()}


PARAMS, GRADIENTS = draw(0), [draw(seed) for seed in range(1, 11)]
RATES = [0.02 * (1 + step % 3) for step in range(len(GRADIENTS))]
KERNELS = [name for name in SHAPES if name.endswith('.kernel')]


def as_jax(arrays):
    return {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}


def train(name, rates=RATES, gradients=GRADIENTS, **keywords):
    """The parameters after a step with each of the gradients."""
    step, state = steps(name, repr(keywords))
    params = as_jax(PARAMS)
    for gradient, rate in zip(gradients, rates, strict=True):
        params, state = step(params, state, as_jax(gradient), jnp.float32(rate))
    return params


@functools.cache
def steps(name, keywords):
    """A compiled step and the state before the first."""
    optimizer = make_optimizer(name, **ast.literal_eval(keywords))

    @jax.jit
    def step(params, state, gradients, rate):
        updates, state = optimizer.update(gradients, set_learning_rate(state, rate), params)
        return optax.apply_updates(params, updates), state

    return step, optimizer.init(as_jax(PARAMS))


def to_torch(name, array):
    """In float64 with the axes of torch: outputs first."""
    return torch.tensor(np.moveaxis(array, (-1, -2), (0, 1)).copy() if name in KERNELS else array)


def judge(make, rates=RATES, decay=DECAY):
    """The parameters after the same steps of a torch optimizer with decay on the kernels only, in our axes."""
    params = {name: torch.nn.Parameter(to_torch(name, array)) for name, array in PARAMS.items()}
    groups = [
        {'params': [params[name] for name in KERNELS], 'weight_decay': decay},
        {'params': [params[name] for name in SHAPES if name not in KERNELS], 'weight_decay': 0.0},
    ]
    optimizer = make(groups)
    for gradient, rate in zip(GRADIENTS, rates, strict=True):
        for group in optimizer.param_groups:
            group['lr'] = rate
        for name, param in params.items():
            param.grad = to_torch(name, gradient[name])
        optimizer.step()
    found = {name: param.detach().numpy() for name, param in params.items()}
    return {name: np.moveaxis(array, (0, 1), (-1, -2)) if name in KERNELS else array for name, array in found.items()}


def assert_close(params, expected, tolerance=2e-6):
    for name in SHAPES:
        np.testing.assert_allclose(params[name], expected[name], rtol=0, atol=tolerance, err_msg=name)


# The judge of each name; all in float64 against our float32.
ADAM = {'lr': 1.0, 'betas': (0.9, 0.999), 'eps': 1e-8}
JUDGES = {
    'sgd': lambda p: torch.optim.SGD(p, 1.0),
    'momentum': lambda p: torch.optim.SGD(p, 1.0, 0.9),
    'nesterov': lambda p: torch.optim.SGD(p, 1.0, 0.9, nesterov=True),
    'adam': lambda p: torch.optim.Adam(p, **ADAM),
    'adamw': lambda p: torch.optim.AdamW(p, **ADAM),
    # torch's momentum grows by a schedule of its own; with this decay it is at its end at once.
    'nadam': lambda p: torch.optim.NAdam(p, **ADAM, momentum_decay=1e6),
    'nadamw': lambda p: torch.optim.NAdam(p, **ADAM, momentum_decay=1e6, decoupled_weight_decay=True),
    'adabelief': lambda p: timm_optim.AdaBelief(p, lr=1.0, eps=1e-16, rectify=False),
    'lamb': lambda p: timm_optim.Lamb(p, lr=1.0, eps=1e-6, max_grad_norm=None),
    'lion': lambda p: timm_optim.Lion(p, lr=1.0, betas=(0.9, 0.99)),
    'adan': lambda p: timm_optim.Adan(p, lr=1.0, eps=1e-8, no_prox=True),
    'novograd': lambda p: timm_optim.NvNovoGrad(p, lr=1.0, betas=(0.9, 0.25), eps=1e-6),
    'rmsprop': lambda p: torch.optim.RMSprop(p, 1.0, alpha=0.9, eps=1e-8, momentum=0.9),
    'rmsprop_tf': lambda p: timm_optim.RMSpropTF(p, lr=1.0, alpha=0.9, eps=1e-3, momentum=0.9),
}


@pytest.mark.parametrize('name', JUDGES)
def test_like_torch_with_changing_rate_and_decay_on_the_weights(name):
    # Ten steps of float32 on numbers of about 1.
    assert_close(train(name, weight_decay=DECAY), judge(JUDGES[name]), 1e-5)


def test_lars_like_timm():
    # timm keeps the rate out of the momentum and divides by |g| + decay |w|, not by |g + decay w|: neither shows here.
    def make(groups):
        groups[0]['always_adapt'] = True
        return timm_optim.Lars(groups, lr=1.0, momentum=0.9, trust_coeff=0.01, eps=0.0)

    rates = [0.5] * len(GRADIENTS)
    assert_close(train('lars', rates, options={'trust_coefficient': 0.01}), judge(make, rates, decay=0.0), 1e-5)


def test_lars_momentum_holds_the_rate_and_the_decay():
    params, buffer = PARAMS['conv.kernel'], 0.0
    for gradient, rate in zip(GRADIENTS, RATES, strict=True):
        whole = gradient['conv.kernel'] + DECAY * params
        buffer = 0.9 * buffer + rate * 0.01 * np.linalg.norm(params) / np.linalg.norm(whole) * whole
        params = params - buffer
    found = train('lars', weight_decay=DECAY, options={'trust_coefficient': 0.01})
    np.testing.assert_allclose(found['conv.kernel'], params, rtol=0, atol=1e-6)


@pytest.mark.parametrize('longest', [4, 100])
def test_adafactor_like_timm(longest):
    # timm factors axes above this length and ours from it on: [6, 5] or nothing. timm scales by the size of parameters
    # only where it makes the rate itself.
    def make(groups):
        return timm_optim.Adafactor(groups, lr=1.0, min_dim_size_to_factor=longest)

    options = {'min_dim_size_to_factor': longest + 1, 'multiply_by_parameter_scale': False}
    assert_close(train('adafactor', weight_decay=DECAY, options=options), judge(make), 1e-5)


def test_adafactor_first_step_has_the_size_of_the_parameters():
    found, weights = train('adafactor', [0.1], GRADIENTS[:1])['head.kernel'], PARAMS['head.kernel']
    size = np.sqrt(np.mean(weights**2))
    expected = weights - 0.1 * size * np.sign(GRADIENTS[0]['head.kernel'])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_adafactor_decay_is_times_the_rate():
    zero = [{name: np.zeros(shape) for name, shape in SHAPES.items()}]
    found = train('adafactor', [0.5], zero, weight_decay=DECAY)
    np.testing.assert_allclose(found['head.kernel'], PARAMS['head.kernel'] * (1 - 0.5 * DECAY), rtol=1e-6)


def test_muon_like_timm(monkeypatch):
    import timm.optim.muon as timm_muon

    exact = timm_muon.zeropower_via_newtonschulz
    monkeypatch.setattr(  # timm's default is bfloat16
        timm_muon, 'zeropower_via_newtonschulz', lambda *args, **keywords: exact(*args, **keywords, dtype=torch.float64)
    )

    def make(groups):
        return timm_optim.Muon(
            groups, lr=1.0, momentum=0.95, nesterov=False, ns_coefficients='original', betas=(0.9, 0.999), eps=1e-8
        )

    # Newton-Schulz multiplies rounding errors by up to 3.4 in each of its five steps.
    found = train('muon', weight_decay=DECAY, options={'nesterov': False})
    assert_close(found, judge(make), 1e-4)


def test_rmsprop_tf_by_hand():
    params, squares, momentum = PARAMS['conv.kernel'], 1.0, 0.0
    for gradient, rate in zip(GRADIENTS, RATES, strict=True):
        gradient = gradient['conv.kernel']
        squares = 0.9 * squares + 0.1 * gradient**2
        momentum = 0.9 * momentum + rate * gradient / np.sqrt(squares + 1e-3)
        params = params - momentum
    np.testing.assert_allclose(train('rmsprop_tf')['conv.kernel'], params, rtol=0, atol=2e-6)


# ------------------------------------------------------------------------------------------ what all of them have


ON_BIAS = {'weight_decay': DECAY, 'decay_mask': '^head.bias'}
FACTORS = {'conv.kernel': 0.5, 'head.bias': 0.5, 'bn.scale': 0.0}


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_decay_mask_and_multipliers(name):
    plain, decayed = train(name, weight_decay=0.0, decay_mask='^head.bias'), train(name, **ON_BIAS)
    for leaf in set(SHAPES) - {'head.bias'}:
        np.testing.assert_allclose(plain[leaf], decayed[leaf], rtol=0, atol=1e-6, err_msg=leaf)
    assert not np.allclose(plain['head.bias'], decayed['head.bias'], rtol=0, atol=1e-5)

    # A factor on the update is a factor on the rate.
    halves, slow = train(name, multipliers=FACTORS, **ON_BIAS), train(name, [rate / 2 for rate in RATES], **ON_BIAS)
    for leaf in ('conv.kernel', 'head.bias'):
        np.testing.assert_allclose(halves[leaf], slow[leaf], rtol=0, atol=1e-5, err_msg=leaf)
    for leaf in ('bn.bias', 'head.kernel'):
        np.testing.assert_allclose(halves[leaf], decayed[leaf], rtol=0, atol=1e-6, err_msg=leaf)
    np.testing.assert_array_equal(halves['bn.scale'], as_jax(PARAMS)['bn.scale'])


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_state_is_a_tree_of_arrays(name):
    step, state = steps(name, repr({'multipliers': FACTORS, **ON_BIAS}))
    _, after = step(as_jax(PARAMS), state, as_jax(GRADIENTS[0]), jnp.float32(0.1))
    leaves = jax.tree.leaves(state)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert {str(leaf.dtype) for leaf in leaves} <= {'float32', 'int32'}
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)  # or it cannot be donated
    assert jax.eval_shape(lambda: after) == jax.eval_shape(lambda: state)
    assert float(after.hyperparams['learning_rate']) == np.float32(0.1)


@pytest.mark.parametrize('name', ['adafactor', 'muon'])
def test_orbax_keeps_the_state(name, tmp_path):
    step, state = steps(name, repr({'multipliers': FACTORS, **ON_BIAS}))
    _, state = step(as_jax(PARAMS), state, as_jax(GRADIENTS[0]), jnp.float32(0.1))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / 'state', state)
        checkpointer.wait_until_finished()
        back = checkpointer.restore(tmp_path / 'state', jax.tree.map(jnp.zeros_like, state))
    jax.tree.map(np.testing.assert_array_equal, state, back)


def test_frozen_arrays_are_not_in_the_norm():
    gradients = {name: array * (100 if name == 'head.kernel' else 1) for name, array in GRADIENTS[0].items()}
    found = train('sgd', [1.0], [gradients], clip_norm=1.0, multipliers={'head.kernel': 0.0})
    others = {name: array for name, array in gradients.items() if name != 'head.kernel'}
    norm = np.sqrt(sum((array**2).sum() for array in others.values()))
    for name, gradient in others.items():
        np.testing.assert_allclose(found[name], PARAMS[name] - gradient / norm, rtol=0, atol=1e-6)


def test_clipping_by_value():
    found = train('sgd', [1.0], GRADIENTS[:1], clip_value=0.1)
    expected = PARAMS['head.bias'] - np.clip(GRADIENTS[0]['head.bias'], -0.1, 0.1)
    np.testing.assert_allclose(found['head.bias'], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize('limit', [0.01, 0.9])
def test_adaptive_clipping_like_timm(limit):
    params = {name: torch.nn.Parameter(to_torch(name, array)) for name, array in PARAMS.items()}
    for name, param in params.items():
        param.grad = to_torch(name, GRADIENTS[0][name])
    adaptive_clip_grad([param for name, param in params.items() if not name.startswith('head')], clip_factor=limit)
    found = train('sgd', [1.0], GRADIENTS[:1], clip_adaptive=limit)
    for name, param in params.items():
        expected = (param - param.grad).detach().numpy()
        expected = np.moveaxis(expected, (0, 1), (-1, -2)) if name in KERNELS else expected
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-6, err_msg=name)


# ------------------------------------------------------------------------------------------------------------ groups


def test_decay_masks():
    params = as_jax(PARAMS)
    assert [n for n, decays in decay_mask(params).items() if decays] == KERNELS
    assert [n for n, decays in decay_mask(params, 'no_norm').items() if decays] == [*KERNELS, 'head.bias']
    assert all(decay_mask(params, 'all').values())
    assert [n for n, decays in decay_mask(params, 'bias$').items() if decays] == ['bn.bias', 'head.bias']
    with pytest.raises(ValueError, match=r"decay_mask is 'kernl'; allowed: weights, no_norm, all, .*conv\.kernel"):
        decay_mask(params, 'kernl')


@pytest.mark.parametrize('name', ['efficientnet_b0', 'resnet50', 'vit_small_patch16_224', 'convnext_atto'])
def test_layers_like_timm(name):
    with torch.device('meta'):
        model = timm.create_model(name)
    parts = timm.models.group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    flat = {key: re.sub(r'\.(?=\d)', '_', key).replace('.weight', '.kernel') for key in parts}
    if name == 'convnext_atto':
        flat = {key: re.sub(r'(stages_\d+)\.', r'\1_', value) for key, value in flat.items()}
    ours = layer_ids(flat.values())
    assert {key: ours[value] for key, value in flat.items()} == parts
    factors = multipliers(flat.values(), layer_decay=0.5)
    assert max(factors.values()) == 1 and min(factors.values()) == 0.5 ** max(parts.values())


def test_multipliers():
    found = multipliers(
        SHAPES, lr_multipliers=(('^head', 10.0), ('bias', 0.5)), freeze=['^conv']
    )  # the factors of all patterns that match are multiplied
    assert list(found.values()) == [0.0, 1.0, 0.5, 10.0, 5.0]
    with pytest.raises(ValueError, match=r"freeze is '\^stem'.*such as conv\.kernel"):
        multipliers(SHAPES, freeze=['^stem'])
    with pytest.raises(ValueError, match=r"lr_multipliers is '\('.*allowed: a regular expression"):
        multipliers(SHAPES, lr_multipliers=[('(', 1.0)])
    with pytest.raises(ValueError, match=r"'head' in lr_multipliers is -1"):
        multipliers(SHAPES, lr_multipliers=[('head', -1)])
    with pytest.raises(ValueError, match=r'layer_decay is 1\.5; allowed'):
        multipliers(SHAPES, layer_decay=1.5)
    with pytest.raises(ValueError, match=r"layer_decay: 'bn\.scale' is in no layer"):
        multipliers({'bn.scale': 1}, layer_decay=0.5)


@pytest.mark.parametrize(
    ('name', 'keywords', 'message'),
    [
        ('rmsprp', {}, r"unknown optimizer 'rmsprp' \(closest: rmsprop, .*\): expected one of sgd, .*rmsprop_tf"),
        ('adam', {'options': {'beta': 1}}, r"adam has no option 'beta'; allowed: b1, b2, eps, eps_root"),
        ('sgd', {'momentum': 1.0}, r'momentum is 1\.0; allowed: 0 or more, below 1'),
        ('sgd', {'weight_decay': -1}, r'weight_decay is -1; allowed: 0 or more'),
        ('sgd', {'clip_norm': 0.0}, r'clip_norm is 0\.0; allowed: above 0, or None'),
    ],
)
def test_errors(name, keywords, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(name, **keywords)
