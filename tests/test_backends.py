"""What users of each framework do with a model; and the three are one function, with equal values and gradients."""

import dataclasses
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jeffnet
from jeffnet.core import compiler, layers
from jeffnet.core.block import Block, Param, Policy, declarations
from jeffnet.core.derive import fields
from jeffnet.models.efficientnet import EfficientNet
from jeffnet.models.mobile_blocks import InvertedResidual
from jeffnet.objax_import import objax
from tests.tiny_model import register

NAME = 'pt_mnasnet_small'
OPTIONS = {'num_classes': 5}
X = jnp.asarray(np.random.default_rng(0).standard_normal((4, 32, 32, 3)), jnp.float32)
Y = jnp.asarray([0, 3, 1, 4])


def loss(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()


def all_blocks(cls=Block):
    for sub in cls.__subclasses__():
        if not sub.native:
            yield sub
            yield from all_blocks(sub)


@pytest.mark.parametrize('base', [nn.Module, objax.Module, nnx.Module], ids=['linen', 'objax', 'nnx'])
def test_no_name_of_a_block_shadows_one_of_the_framework(base):
    taken = {*dir(base), 'name', 'parent', 'scope', 'policy'} - {'setup', '__call__', 'tap'}
    for cls in set(all_blocks()):
        ours = {n for n in {*vars(cls), *(f.name for f in dataclasses.fields(cls))} if not n.startswith('__')}
        assert not ours & taken, cls


def made(framework, name=NAME, **options):
    """(module, variables or None) in one framework."""
    result = jeffnet.create_model(name, framework, **options)
    return result if framework == 'linen' else (result, None)


def flat(module, variables):
    return jeffnet.flat_variables(module if variables is None else variables)


@pytest.fixture(scope='module')
def models():
    return {framework: made(framework, **OPTIONS) for framework in jeffnet.FRAMEWORKS}


def test_the_same_seed_gives_the_same_values_and_another_seed_others(models):
    reference = flat(*models['linen'])
    for framework in ('objax', 'nnx'):
        ours = flat(*models[framework])
        assert ours.keys() == reference.keys()
        for name in reference:
            np.testing.assert_array_equal(ours[name], reference[name], err_msg=name)
            assert ours[name].dtype == jnp.float32
    other = flat(*made('nnx', seed=1, **OPTIONS))
    assert (other['conv_stem.kernel'] != reference['conv_stem.kernel']).any()


def gradients_and_statistics(framework, module, variables):
    """Gradients, and all variables after one training step's forward pass, by flat name."""
    if framework == 'linen':

        def run(params):
            logits, updated = module.apply({**variables, 'params': params}, X, training=True, mutable=['batch_stats'])
            return loss(logits), updated

        grads, updated = jax.jit(jax.grad(run, has_aux=True))(variables['params'])
        return jeffnet.flat_variables({'params': grads}), jeffnet.flat_variables({**variables, **updated})
    if framework == 'objax':
        grad = objax.GradValues(lambda x: loss(module(x, training=True)), module.vars())
        grads, _ = objax.Jit(lambda x: grad(x), grad.vars())(X)
        trained = [k for k, v in module.vars().items() if isinstance(v, objax.TrainVar)]
        names = {id(v): n for n, v in zip(jeffnet.flat_variables(module), module.vars().values(), strict=True)}
        found = {names[id(module.vars()[k])]: g for k, g in zip(trained, grads, strict=True)}
        return found, jeffnet.flat_variables(module)
    grads = nnx.jit(nnx.grad(lambda m: loss(m(X, training=True))))(module)
    model = nnx.merge(nnx.graphdef(module), nnx.merge_state(grads, nnx.state(module, nnx.Not(nnx.Param))))
    return jeffnet.flat_variables(model), jeffnet.flat_variables(module)


def test_one_training_step_has_equal_gradients_and_statistics():
    tiny = register()
    found = {f: gradients_and_statistics(f, *made(f, tiny, **OPTIONS)) for f in jeffnet.FRAMEWORKS}
    grads, after = found['linen']
    before = flat(*made('linen', tiny, **OPTIONS))
    assert np.abs(after['bn1.mean'] - before['bn1.mean']).max() > 0
    assert all(np.abs(g).max() > 0 for g in grads.values())
    for framework in ('objax', 'nnx'):
        ours, updated = found[framework]
        assert updated.keys() == after.keys()
        for name, gradient in grads.items():
            # The programs are the same; 1e-5 of the largest entry is left for another order of fused sums.
            np.testing.assert_allclose(ours[name], gradient, atol=1e-5 * np.abs(gradient).max(), err_msg=name)
        for name in after:
            np.testing.assert_allclose(updated[name], after[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_programs_are_the_same_in_all_frameworks(models):
    def primitives(framework):
        module, variables = models[framework]
        run = jeffnet.predictor(module, variables)
        jaxpr = jax.make_jaxpr(run)(X)
        return [str(e.primitive) for e in jaxpr.jaxpr.eqns]

    assert len(primitives('linen')) > 100
    assert primitives('linen') == primitives('objax') == primitives('nnx')


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_intermediates_have_the_same_names_and_values(framework, models):
    ours = jeffnet.intermediates(models[framework][0], X, models[framework][1])
    assert list(ours) == [f'stage_{i}' for i in range(8)]
    reference = jeffnet.intermediates(models['linen'][0], X, models['linen'][1])
    for name in reference:
        np.testing.assert_allclose(ours[name], reference[name], rtol=1e-5, atol=1e-6)


def test_wrong_arguments_of_the_common_functions_name_what_is_expected(models):
    module, variables = models['linen']
    for wrong in (variables['params'], {'a': 1}, models['objax'][0].vars(), 3):
        with pytest.raises(TypeError, match=r"Linen variables \{'params'"):
            jeffnet.flat_variables(wrong)
    with pytest.raises(TypeError, match='give its variables'):
        jeffnet.flat_variables(module)
    with pytest.raises(TypeError, match='pass its variables as well'):
        jeffnet.predictor(module)
    frozen = flax.core.freeze(variables)
    np.testing.assert_array_equal(jeffnet.predictor(module, frozen)(X), jeffnet.predictor(module, variables)(X))


# ---------------------------------------------------------------------------------------------------------- Linen


def test_linen_tree_and_init(models):
    module, variables = models['linen']
    assert isinstance(module, nn.Module) and set(variables) == {'params', 'batch_stats'}
    assert variables['params']['blocks_0_0']['conv_dw']['kernel'].shape == (3, 3, 1, 8)
    fresh = jax.jit(module.init)(jax.random.key(0), X)
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, variables)
    module, _ = made('linen', register(), **OPTIONS)  # init as it is, operation by operation
    trained = module.init(jax.random.key(0), X, training=True)  # as flax's own: init leaves the statistics alone
    assert np.abs(trained['batch_stats']['bn1']['mean']).max() == 0


def test_linen_tabulate_and_capture_intermediates(models):
    module, variables = models['linen']
    text = module.tabulate(jax.random.key(0), X, console_kwargs={'width': 200})
    assert 'blocks_6_0/conv_pwl' in text and 'setup_head' not in text
    _, state = module.apply(variables, X, capture_intermediates=True, mutable=['intermediates'])
    assert '__call__' in state['intermediates']['blocks_3_1']['se']['conv_reduce']


def test_linen_sows_stages(models):
    module, variables = models['linen']
    _, state = module.apply(variables, X, mutable=['intermediates'])
    assert state['intermediates']['stage_0'][0].shape == (4, 16, 16, 8)


def test_linen_pickle_hash_and_equality(models):
    module, variables = models['linen']
    again = pickle.loads(pickle.dumps(module))
    assert again == module and hash(again) == hash(module)
    np.testing.assert_array_equal(again.apply(variables, X), module.apply(variables, X))
    assert made('linen', num_classes=4)[0] != module


class Doubled(jeffnet.linen.native(EfficientNet)):
    """A user's subclass."""

    def forward_head(self, x, training=False):
        return 2 * super().forward_head(x, training)


def test_linen_subclass(models):
    module, variables = models['linen']
    doubled = Doubled(**fields(module), policy=module.policy)
    np.testing.assert_allclose(doubled.apply(variables, X), 2 * module.apply(variables, X), rtol=1e-6)
    assert pickle.loads(pickle.dumps(doubled)) == doubled


class Backboned(nn.Module):
    """A user's module with a network inside."""

    backbone: nn.Module

    @nn.compact
    def __call__(self, x, training=False):
        return nn.Dense(2)(self.backbone(x, training))


def test_linen_child_of_a_users_module():
    backbone, variables = made('linen', num_classes=-1)
    user = Backboned(backbone)
    own = user.init(jax.random.key(0), X)
    assert jax.tree.map(jnp.shape, own['params']['backbone']) == jax.tree.map(jnp.shape, variables['params'])
    own['params']['backbone'], own['batch_stats']['backbone'] = variables['params'], variables['batch_stats']
    expected = nn.Dense(2).apply({'params': own['params']['Dense_0']}, backbone.apply(variables, X))
    np.testing.assert_allclose(user.apply(own, X), expected, rtol=1e-5, atol=1e-6)
    assert jeffnet.intermediates(user, X, own)['backbone.stage_0'].shape == (4, 16, 16, 8)


class Rematerialised(nn.Module):
    """A user's module that recomputes a block in the backward pass."""

    remat: bool

    @nn.compact
    def __call__(self, x):
        cls = jeffnet.linen.native(InvertedResidual)
        return (nn.remat(cls, static_argnums=(2,)) if self.remat else cls)(8, 8, 32, name='block')(x, True)


def test_linen_remat():
    x = X[..., :1] * jnp.ones(8)
    variables = Rematerialised(True).init(jax.random.key(0), x)

    def gradient(remat):
        return jax.grad(
            lambda p: Rematerialised(remat).apply({**variables, 'params': p}, x, mutable=['batch_stats'])[0].std()
        )

    with_remat, without = gradient(True)(variables['params']), gradient(False)(variables['params'])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), with_remat, without)


# ---------------------------------------------------------------------------------------------------------- Objax


def test_objax_trains_saves_and_loads(tmp_path, monkeypatch):
    model, _ = made('objax', register(), drop_rate=0.2, drop_path_rate=0.2, **OPTIONS)
    assert isinstance(model, objax.Module) and isinstance(model.blocks[1][0].conv_dw.kernel, objax.TrainVar)
    grad = objax.GradValues(lambda x: loss(model(x, training=True)), model.vars())
    optimizer = objax.optimizer.Adam(model.vars())

    def step(x):
        grads, values = grad(x)
        optimizer(0.01, grads)
        return values[0]

    objax.random.DEFAULT_GENERATOR.seed(0)  # of dropout; tests before this one have drawn from it
    train = objax.Jit(step, grad.vars() + optimizer.vars())
    losses = [float(train(X)) for _ in range(8)]
    assert min(losses) < losses[0] / 2 and np.isfinite(losses).all()
    path = str(tmp_path / 'model.npz')
    objax.io.save_var_collection(path, model.vars())
    other, _ = made('objax', register(), seed=3, drop_rate=0.2, drop_path_rate=0.2, **OPTIONS)
    objax.io.load_var_collection(path, other.vars())
    np.testing.assert_array_equal(jeffnet.predictor(other)(X), jeffnet.predictor(model)(X))
    monkeypatch.setattr(compiler, 'options', lambda *_: {})  # objax.Jit has none
    logits = jeffnet.predictor(model, fuse=False)(X)
    # The predictor computes two images at a time, and products of other sizes add up in another order.
    np.testing.assert_allclose(objax.Jit(lambda x: model(x), model.vars())(X), logits, rtol=1e-6, atol=2e-6)


def test_objax_predictor_is_safe_in_threads():
    model, _ = made('objax', **OPTIONS)
    run = jeffnet.predictor(model)
    with ThreadPoolExecutor(4) as pool:  # each with a shape of its own, so that each traces the model
        shapes = [y.shape for y in pool.map(run, [X[:n] for n in (1, 2, 3, 4)])]
    assert shapes == [(n, 5) for n in (1, 2, 3, 4)]
    assert not any(isinstance(v.value, jax.core.Tracer) for v in model.vars().values())


# ------------------------------------------------------------------------------------------------------------ NNX


def test_nnx_trains_splits_and_pickles():
    model, _ = made('nnx', register(), drop_rate=0.2, drop_path_rate=0.2, **OPTIONS)
    assert isinstance(model, nnx.Module) and isinstance(model.blocks[1][0].conv_dw.kernel, nnx.Param)
    optimizer = nnx.Optimizer(model, optax.adam(0.01), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        value, grads = nnx.value_and_grad(lambda m: loss(m(X, training=True)))(model)
        optimizer.update(model, grads)
        return value

    losses = [float(step(model, optimizer)) for _ in range(8)]
    assert losses[-1] < losses[0] and np.isfinite(losses).all()
    expected = jeffnet.predictor(model)(X)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    for other in (nnx.merge(graph, params, rest), nnx.clone(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(jeffnet.predictor(other)(X), expected)
    abstract = nnx.eval_shape(lambda: made('nnx', **OPTIONS)[0])
    assert isinstance(abstract.conv_stem.kernel.get_value(), jax.ShapeDtypeStruct)


def test_nnx_mode_is_an_argument_of_the_call():
    model, _ = made('nnx', **OPTIONS)
    for mode in (model.train, model.eval):
        with pytest.raises(TypeError, match=r'call model\(x, training=True\)'):
            mode()


# ----------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize('framework', ['objax', 'nnx'])
def test_a_sub_block_can_be_replaced_after_construction(framework):
    model, _ = made(framework, drop_rate=0.5, **OPTIONS)
    model.classifier, model.dropout = layers.Linear(1280, 2), layers.Dropout(0.2)
    assert model(X, training=True).shape == (4, 2)


def to_group_norm(block):
    return layers.GroupNorm(block.features, groups=1) if isinstance(block, layers.BatchNorm) else block


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_policy_rewrite_replaces_layers(framework):
    block, policy = InvertedResidual(8, 8, 16), Policy(rewrite=to_group_norm)
    assert not any(name.endswith('.mean') for name in declarations(block, policy))
    module = getattr(jeffnet, framework).build(block, policy)
    if framework == 'linen':
        module = module.bind(jeffnet.linen.variables_of(block, policy))
    assert type(module.bn1).__name__ == 'GroupNorm'
    assert module(X[..., :1] * jnp.ones(8)).shape == (4, 32, 32, 8)


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_bfloat16_model_has_float32_variables_and_logits(framework):
    module, variables = made(framework, dtype=jnp.bfloat16, **OPTIONS)
    logits = jeffnet.predictor(module, variables)(X)
    assert logits.dtype == jnp.float32
    assert {v.dtype for v in flat(module, variables).values()} == {jnp.dtype('float32')}
    exact = jeffnet.predictor(*made(framework, **OPTIONS))(X)
    assert 0 < np.abs(logits - exact).max() < 0.1 * np.abs(exact).max()  # 8 bits of mantissa over some 20 layers


def test_declarations_are_of_every_kind():
    found = declarations(InvertedResidual(8, 8, 16))
    assert isinstance(found['bn1.mean'], Param) and found['conv_pw.kernel'].shape == (1, 1, 8, 16)


FRESH_PROCESS = """
import sys, warnings
warnings.simplefilter('error')
import {module}
loaded = {{name.partition('.')[0] for name in sys.modules}}
print(*sorted(loaded & {{'tensorflow', 'torch', 'objax', 'flax', 'jax'}}))
"""


@pytest.mark.parametrize(
    ('module', 'brings'), [('jeffnet', ''), ('jeffnet.core.layers', 'jax'), ('jeffnet.objax', 'jax objax')]
)
def test_imports_bring_no_other_framework(module, brings):
    program = FRESH_PROCESS.format(module=module)
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == brings


def test_objax_import_leaves_scipy_and_tensorflow_to_the_user():
    program = (
        'import sys, jeffnet.objax, objax\n'
        "assert 'tensorflow' not in sys.modules and 'scipy.stats' not in sys.modules\n"
        'assert objax.nn.init.truncated_normal((2, 2)).shape == (2, 2)\n'
        'import scipy.stats; print(scipy.stats.norm.cdf(0))'
    )
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '0.5'


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_building_a_model_compiles_no_program_per_shape(framework):
    program = (
        'import jax, logging, jeffnet\n'
        "jax.config.update('jax_log_compiles', True)\n"
        f"jeffnet.create_model('tf_efficientnet_b0', '{framework}')"
    )
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    # NNX seeds its dropout stream with a few; B0 has 81 shapes of kernels alone.
    assert done.stderr.count('Compiling') <= (8 if framework == 'nnx' else 0)
