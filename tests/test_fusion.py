"""Fused networks compute the same function without batch norm, in every framework; what cannot be folded stays."""

import dataclasses
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jeffnet
from jeffnet import fusion
from jeffnet.core import layers
from jeffnet.core.activations import relu, silu
from jeffnet.core.attention import Mlp
from jeffnet.core.block import PYTORCH, TENSORFLOW, Block, Policy, declarations
from jeffnet.core.derive import fields
from jeffnet.models.efficientnet import EfficientNet, MobileNetV3
from jeffnet.models.efficientnet_stages import cn, ds, er, ir
from jeffnet.models.mobile_blocks import InvertedResidual
from jeffnet.validate.arguments import parser
from jeffnet.validate.jobs import Job, build
from tests import tiny_model

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 32, 32, 3), np.float32)
STAGES = (
    (ds(1, 3, 1, 1, 8, se=0.25),),  # with a skip
    (er(1, 3, 2, 2, 16), er(1, 3, 1, 2, 16)),
    (ir(1, (3, 5), 2, 2, 18, se=0.5, grouped_expand=True, grouped_project=True),),  # MixConvs of unequal slices
    (ir(2, 3, 1, 3, 24), cn(1, 1, 1, 1, 24)),
)
SMALL = functools.partial(EfficientNet, STAGES, stem=8, features=32, scale_head=False, num_classes=5, act=silu)
SMALLEST = functools.partial(MobileNetV3, ((ds(2, 3, 1, 1, 8, se=0.25),),), stem=8, features=16, num_classes=5)
DROPS = {'drop_rate': 0.5, 'drop_path_rate': 0.5}


def values_of(block, policy=PYTORCH, seed=0):
    """Random values by flat name; scales, statistics and biases too, whose initial values would hide mistakes."""
    rng, values = np.random.default_rng(seed), {}
    for name, declared in declarations(block, policy).items():
        kind, shape = name.rpartition('.')[2], declared.shape
        if kind in ('scale', 'var'):
            values[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            size = np.sqrt(2 / np.prod(shape[:-1])) if kind == 'kernel' else 0.5
            values[name] = (size * rng.standard_normal(shape)).astype(np.float32)
    return values


def made(framework, block, policy=PYTORCH, values=None):
    """(module, variables or None) in one framework, with random values."""
    back_end = getattr(jeffnet, framework)
    found = back_end.assemble(block, policy, values_of(block, policy) if values is None else values)
    return found if framework == 'linen' else (found, None)


def fused(model, variables=None):
    """The same of what `jeffnet.fuse` returns."""
    found = jeffnet.fuse(model, variables)
    return (found, None) if variables is None else found


def flat(model, variables):
    return jeffnet.flat_variables(model if variables is None else variables)


def run(model, variables, x=X):
    """The output, of the one compiled program."""
    return jeffnet.predictor(model, variables, fuse=False)(x)


def close(ours, expected, tolerance=1e-5):
    """Within 1e-5 of the largest number: float32 keeps 6e-8, and a few dozen sums are taken in another order."""
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())


def norms(names):
    return {name.rpartition('.')[0] for name in names if name.endswith('.mean')}


NETWORKS = {
    'pt': (SMALL(**DROPS), PYTORCH),
    'tf': (SMALL(stride_in_projection=True), TENSORFLOW),
    'v3': (SMALLEST(), PYTORCH),  # with a biased convolution that no norm follows
    'resnet': (tiny_model.NETWORKS['pt_tiny_resnet'][1](num_classes=5, **DROPS), PYTORCH),
    'vit': (tiny_model.NETWORKS['pt_tiny_vit'][1](num_classes=5, **DROPS), PYTORCH),
    'features': (dataclasses.replace(SMALL(out_indices=(0, 1)), stages=STAGES[:2]), TENSORFLOW),
    'map': (dataclasses.replace(SMALL(num_classes=0), stages=STAGES[:1]), PYTORCH),
}


@functools.cache
def expected(kind):
    """The output before fusing."""
    return run(*made('linen', *NETWORKS[kind]))


EVERYWHERE = [(kind, framework) for kind in ('pt', 'vit') for framework in ('objax', 'nnx')]


@pytest.mark.parametrize(('kind', 'framework'), [*((kind, 'linen') for kind in NETWORKS), *EVERYWHERE])
def test_a_fused_network_gives_the_same_numbers_without_batch_norm(kind, framework):
    block, policy = NETWORKS[kind]
    before = made(framework, block, policy)
    after = fused(*before)
    assert type(after[0]) is type(before[0]) and after[0].feature_info == before[0].feature_info
    names = flat(*after)
    assert not norms(names) and all(value.dtype == jnp.float32 for value in names.values())
    assert {name.rpartition('.')[0] for name in flat(*before)} == {name.rpartition('.')[0] for name in names} | norms(
        flat(*before)
    )
    close(run(*after), expected(kind))


def test_names_shapes_and_values_are_the_same_in_all_frameworks():
    found = {framework: flat(*fused(*made(framework, *NETWORKS['tf']))) for framework in jeffnet.FRAMEWORKS}
    assert found['linen']['blocks_0_0.conv_dw.kernel'].shape == (3, 3, 1, 8)
    assert found['linen']['blocks_0_0.conv_dw.bias'].shape == (8,)
    assert found['linen']['blocks_2_0.conv_dw.convs_1.bias'].shape == (16,)
    for framework in ('objax', 'nnx'):
        assert found[framework].keys() == found['linen'].keys()
        for name, value in found['linen'].items():
            np.testing.assert_array_equal(found[framework][name], value, err_msg=name)


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_the_given_model_stays_as_it_is_and_fusing_twice_changes_nothing(framework):
    model = made(framework, *NETWORKS['pt'])
    before = {name: np.array(value) for name, value in flat(*model).items()}
    once = fused(*model)
    assert flat(*model).keys() == before.keys()
    for name, value in flat(*model).items():
        np.testing.assert_array_equal(value, before[name])
    if framework != 'linen':
        assert type(model[0].bn1).__name__ == 'BatchNorm' and not model[0].conv_stem.use_bias
    twice = fused(*once)
    assert twice[0].policy == once[0].policy
    for name, value in flat(*once).items():
        np.testing.assert_array_equal(flat(*twice)[name], value)


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
@pytest.mark.parametrize('kind', ['pt', 'vit'])
def test_training_is_refused(kind, framework):
    module, variables = fused(*made(framework, *NETWORKS[kind]))
    with pytest.raises(ValueError, match='fused for inference cannot train'):
        module.apply(variables, X, training=True) if framework == 'linen' else module(X, training=True)


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_taps_have_the_same_names_and_values(framework):
    model = made(framework, *NETWORKS['v3'])
    after = fused(*model)
    ours = jeffnet.intermediates(after[0], X, after[1])
    reference = jeffnet.intermediates(model[0], X, model[1])
    assert list(ours) == list(reference) == ['stage_0', 'stage_1']
    for name in reference:
        close(ours[name], reference[name])


@pytest.mark.parametrize('framework', ['linen', 'nnx'])
def test_pickled(framework):
    after = fused(*made(framework, *NETWORKS['v3']))
    again = pickle.loads(pickle.dumps(after))
    assert again[0].policy == after[0].policy
    for name, value in flat(*after).items():
        np.testing.assert_array_equal(flat(*again)[name], value)
    close(run(*again), expected('v3'))


def test_bfloat16_keeps_float32_variables():
    block, policy = NETWORKS['v3']
    after = fused(*made('linen', block, dataclasses.replace(policy, dtype=jnp.bfloat16)))
    exact = flat(*fused(*made('linen', block, policy)))
    for name, value in flat(*after).items():
        np.testing.assert_array_equal(value, exact[name])
    close(run(*after), expected('v3'), 0.05)  # 8 bits, over some ten layers


def test_float64_is_run_as_it_is():
    with jax.enable_x64(True):
        model = made('linen', NETWORKS['v3'][0], Policy(dtype=jnp.float64))
        assert jeffnet.predictor(*model).variables.keys() == flat(*model).keys()
        names = flat(*fused(*model))  # but folded where asked for, to float32 as everywhere
        assert not norms(names) and {value.dtype for value in names.values()} == {jnp.dtype('float32')}


# ------------------------------------------------------------------------------------------- what must not be folded


class Awkward(Block):
    """Batch norms that follow no convolution, or one whose output or kernel has other users."""

    way: str
    in_features: int = 3

    def setup(self):
        self.bn0, self.bn1 = layers.BatchNorm(3), layers.BatchNorm(6)
        self.conv = layers.Conv(3, 6, 3)
        self.proj, self.bn2 = layers.Linear(6, 6, use_bias=False), layers.BatchNorm(6)  # a pair, but for 'calls'

    def __call__(self, x, training=False):
        x = relu(self.bn0(x, training))  # pre-activation
        y = self.conv(x)
        if self.way == 'twice':
            y = y + self.bn1(y, training)
        elif self.way == 'relu':
            y = self.bn1(relu(y), training)
        elif self.way == 'tap':
            y = self.bn1(self.tap('raw', y), training)
        elif self.way == 'calls':
            y = self.bn1(y, training) + self.conv(2 * x)
        elif self.way == 'jit':
            y = jax.jit(self.bn1.__call__)(y)
        return self.bn2(self.proj(y), training)


@pytest.mark.parametrize('way', ['twice', 'relu', 'tap', 'calls', 'jit'])
def test_a_batch_norm_without_a_convolution_of_its_own_stays(way):
    model = made('linen', Awkward(way))
    after = fused(*model)
    assert norms(flat(*after)) == {'bn0', 'bn1'}  # and not bn2
    assert 'proj.bias' in flat(*after) and 'conv.bias' not in flat(*after)
    close(run(*after), run(*model))
    if way == 'tap':
        raw = [jeffnet.intermediates(module, X, variables)['raw'] for module, variables in (model, after)]
        close(*raw)


class Biased(Block):
    """Pairs with a bias already, an eps of their own, and a linear layer."""

    in_features: int = 3

    def setup(self):
        self.pairs = [
            layers.Conv(3, 6, 3, use_bias=True), layers.BatchNorm(6, eps=0.1),
            layers.Conv(6, 6, 3, groups=3), layers.BatchNorm(6),
            layers.Linear(6, 4), layers.BatchNorm(4),
        ]  # fmt: skip

    def __call__(self, x, training=False):
        for first, norm in zip(self.pairs[::2], self.pairs[1::2], strict=True):
            x = relu(norm(first(x), training))
        return x


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_biases_eps_groups_and_linear_layers_count(framework):
    model = made(framework, Biased())
    after = fused(*model)
    assert set(flat(*after)) == {f'pairs_{i}.{name}' for i in (0, 2, 4) for name in ('kernel', 'bias')}
    close(run(*after), run(*model))


def to_group_norm(block):
    return layers.GroupNorm(block.features, groups=1) if isinstance(block, layers.BatchNorm) else block


class Standardised(layers.Conv):
    """A user's convolution, which folding knows nothing of."""

    def __call__(self, x):
        return super().__call__(2 * x)


def to_standardised(block):
    return Standardised(**fields(block)) if type(block) is layers.Conv else block


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
@pytest.mark.parametrize('rewrite', [to_group_norm, to_standardised])
def test_layers_that_a_rewrite_put_there_stay(rewrite, framework):
    model = made(framework, InvertedResidual(3, 3, 8), Policy(rewrite=rewrite))
    after = fused(*model)
    assert flat(*after).keys() == flat(*model).keys()
    close(run(*after), run(*model))


class Reader(Block):
    """Reads the kernel of its convolution."""

    in_features: int = 3

    def setup(self):
        self.conv, self.bn = layers.Conv(3, 4), layers.BatchNorm(4)

    def __call__(self, x, training=False):
        return self.bn(self.conv(x), training) + jnp.asarray(self.conv.kernel)[0, 0, 0]


class Doubled(jeffnet.linen.native(MobileNetV3)):
    """A user's subclass."""

    def head(self, x, training=False):
        return 2 * super().head(x, training)


def test_what_is_not_known_is_refused_and_the_predictor_runs_it_as_it_is():
    module, variables = made('linen', SMALLEST())
    doubled = Doubled(**fields(module)), variables
    for model, says in (
        (doubled, 'Doubled is a subclass of MobileNetV3'),
        (made('linen', Reader()), r'conv.kernel is read by another part'),
        ((nnx.Linear(3, 2, rngs=nnx.Rngs(0)), None), 'Linear is no module of jeffnet'),
        (made('linen', Mlp(4, 8)), 'Mlp cannot be run on'),  # it takes no images
    ):
        with pytest.raises(TypeError, match=says):
            jeffnet.fuse(*model)
        if 'cannot' not in says:
            close(jeffnet.predictor(*model)(X), run(*model))
    with pytest.raises(TypeError, match=r'there is no conv_stem.kernel, which the Block'):
        jeffnet.fuse(module, {'params': {}})
    with pytest.raises(TypeError, match='expected an Objax or NNX module'):
        jeffnet.fuse(3)


def replaced_layer(model):
    model.classifier = layers.Linear(16, 2)


def replaced_norm(model):
    model.blocks[0][0].bn1 = layers.GroupNorm(8, 2)


def fewer_blocks(model):
    model.blocks[0] = type(model.blocks[0])(list(model.blocks[0])[:1])


def other_activation(model):
    model.blocks[0][1].act = jnp.tanh


def own_method(model):
    model.classify = lambda x, training=False: x[:, :2]


@pytest.mark.parametrize('framework', ['objax', 'nnx'])
@pytest.mark.parametrize('change', [replaced_layer, replaced_norm, fewer_blocks, other_activation, own_method])
def test_a_module_changed_after_construction_is_run_as_it_is(change, framework):
    model = made(framework, *NETWORKS['v3'])[0]
    change(model)
    with pytest.raises(TypeError, match=r'where |which the Block of the model declares|assigned after construction'):
        jeffnet.fuse(model)
    found = jeffnet.predictor(model)(X)
    np.testing.assert_array_equal(found, run(model, None))
    assert found.shape != expected('v3').shape or np.abs(found - expected('v3')).max() > 1e-3


@pytest.mark.parametrize('framework', ['objax', 'nnx'])
def test_a_layer_put_into_a_fused_model_is_the_given_one(framework):
    model = fused(*made(framework, *NETWORKS['pt']))[0]
    model.conv_stem = layers.Conv(1, 8, 3, 2)
    model.bn1 = layers.GroupNorm(8, 2)
    model.conv_head = layers.MixedConv(24, 32, (1, 1))
    assert 'conv_head.convs_1.kernel' in jeffnet.flat_variables(model)
    assert type(model.bn1).__name__ == 'GroupNorm' and jeffnet.flat_variables(model)['conv_stem.bias'].shape == (8,)
    assert jeffnet.flat_variables(model)['conv_stem.kernel'].shape == (3, 3, 1, 8)


def test_inside_a_program_the_variables_are_no_arrays():
    module, variables = made('linen', Biased())
    with pytest.raises(TypeError, match='fuse a model with values, outside jit'):
        jax.jit(lambda variables: jeffnet.fuse(module, variables)[1])(variables)


# ----------------------------------------------------------------------------------------------- the predictor, scripts


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_the_predictor_fuses_unless_told_not_to(framework):
    model = made(framework, *NETWORKS['v3'])
    runs = [jeffnet.predictor(*model, fuse=fuse) for fuse in (True, False)]
    counts = [sum('rsqrt' in str(e.primitive) for e in jax.make_jaxpr(run)(X).jaxpr.eqns) for run in runs]
    assert counts == [0, 5]  # one in each batch norm
    close(runs[0](X), runs[1](X))


def test_the_flag_of_the_validate_scripts_reaches_the_predictor():
    assert parser().parse_args(['data']).fuse is True
    assert parser().parse_args(['data', '--no-fuse']).fuse is False
    job = Job(tiny_model.register(), {'num_classes': 3}, None, 'random')  # type: ignore  no image is read
    for fuse in (True, False):
        predict, names = build(job, 'linen', compiled=True, fuse=fuse)
        assert any(name.endswith('.var') for name in predict.variables) is not fuse
        assert norms(names)  # counted and hashed are the weights that were loaded


def test_edits_reach_the_declarations_in_both_spellings():
    policy = Policy(edits=(('blocks_0_0.bn1', fusion.folded_norm), ('blocks_0_0.conv_dw', fusion.with_bias)))
    whole, edited = declarations(SMALL()), declarations(SMALL(), policy)
    assert edited.keys() - whole.keys() == {'blocks_0_0.conv_dw.bias'}
    assert whole.keys() - edited.keys() == {f'blocks_0_0.bn1.{k}' for k in ('scale', 'bias', 'mean', 'var')}
    dotted = declarations(SMALL(), policy, index='.')
    assert 'blocks.0.0.conv_dw.bias' in dotted and 'blocks.0.0.bn1.mean' not in dotted


def test_a_fused_model_is_not_saved(tmp_path):
    model = jeffnet.fuse(jeffnet.create_model(tiny_model.register(), 'nnx', num_classes=5))
    with pytest.raises(ValueError, match=r'fused for inference.*save the one'):
        jeffnet.save_weights(model, tmp_path / 'model.safetensors')
