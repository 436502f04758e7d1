"""The EfficientNet family: every name against timm's names and shapes, and each keyword of the contract."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch

import jeffnet
from benchmarks import parity, torch_reference
from jeffnet.core.block import State, declarations
from jeffnet.create import plan
from tools import efficientnet_table, timm_table

NAMES = [name for name in jeffnet.list_models('[pt]*') if jeffnet.model_info(name).file == 'efficientnet']


def made(name, framework='linen', **options):
    """The predictor and the module of a model."""
    result = jeffnet.create_model(name, framework, **options)
    module, variables = result if framework == 'linen' else (result, None)
    return jeffnet.predictor(module, variables), module


# ------------------------------------------------------------------------------------------------------- all names


def test_the_table_has_the_names_of_the_predecessor_and_of_timm():
    assert len(NAMES) == 165 and 'pt_mnasnet_small' in NAMES
    assert len(set(NAMES) & set(jeffnet.list_models(pretrained=True))) == 131
    assert len([name for name in NAMES if timm_table.is_kept('efficientnet', name)]) == 18
    assert jeffnet.list_models('tf_efficientnet_b?_ns') == [f'tf_efficientnet_b{i}_ns' for i in range(8)]
    assert jeffnet.list_models(family='fbnetc') == ['pt_fbnetc_100']


def test_tags_and_prefixes_name_the_same_weights():
    assert jeffnet.model_info('tf_efficientnet_b0.ns_jft_in1k').name == 'tf_efficientnet_b0_ns'
    assert jeffnet.model_info('pt_efficientnet_b0.ra_in1k').name == 'pt_efficientnet_b0'
    info = jeffnet.model_info('tf_efficientnet_b4_ap')
    assert (info.input_size, info.crop_pct, info.mean) == ((380, 380, 3), 0.922, (0.5, 0.5, 0.5))
    assert info.multiply_adds == pytest.approx(4.4e9, rel=0.02)  # 4.39 G by timm's own tables


@pytest.mark.parametrize('name', ['pt_mnasnet_small', 'tf_mixnet_s', 'pt_fbnetc_100'])
def test_multiply_adds_are_those_that_the_table_is_made_of(name):
    assert efficientnet_table.multiply_adds(name) == jeffnet.model_info(name).multiply_adds


# -------------------------------------------------------------------------------------------------------- identity

# One of each block type, and the cheapest of each family; results/parity.csv has all names (make parity).
CHEAPEST = (
    'tf_efficientnet_b0_ns', 'pt_mnasnet_small', 'pt_semnasnet_100', 'tf_efficientnet_lite0', 'tf_efficientnet_es',
    'pt_fbnetc_100', 'tf_mixnet_s', 'pt_mobilenetv2_100', 'tf_mobilenetv3_small_100', 'pt_spnasnet_100',
)  # fmt: skip


@pytest.mark.parametrize('name', CHEAPEST)
def test_logits_are_those_of_timm(name):
    for row in parity.prove(name, sizes=((76, 50),)):  # sides that are even and odd, from one stage to the next
        assert row['ok'], row


def test_the_proof_notices_a_wrong_network(tmp_path):
    model = torch_reference.reference('pt_mnasnet_small')
    weights = torch_reference.save_weights(model, tmp_path / 'model.safetensors')
    model.blocks[3][1].se.gate = torch.nn.Hardsigmoid()  # one gate function in one block
    rows = parity.compare('pt_mnasnet_small', model, weights, sizes=((64, 64),))
    assert not any(row['ok'] for row in rows)


def test_edge_models_put_the_stride_where_the_weights_were_trained(tmp_path):
    model = torch_reference.reference('tf_efficientnet_es')
    weights = torch_reference.save_weights(model, tmp_path / 'model.safetensors')
    x = parity.images((64, 64))
    theirs = torch_reference.torch_logits(model, x)
    scale = parity.spread(theirs)
    released, _ = made('tf_efficientnet_es', weights=weights)
    as_timm, _ = made('tf_efficientnet_es', weights=weights, stride_in_projection=False)
    assert np.abs(as_timm(x) - theirs).max() / scale < 2e-4
    assert np.abs(released(x) - theirs).max() / scale > 0.1


def test_fbnet_keeps_its_expansion_at_ratio_one():
    ours = declarations(plan('pt_fbnetc_100').block)
    assert ours['blocks_0_0.conv_pw.kernel'].shape == (1, 1, 16, 16)


def test_edge_first_block_expands_24_channels():
    assert declarations(plan('tf_efficientnet_es').block)['blocks_0_0.conv_exp.kernel'].shape == (3, 3, 32, 96)


# -------------------------------------------------------------------------------------------------------- keywords

SMALL = 'tf_mobilenetv3_small_minimal_100'


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
@pytest.mark.parametrize(
    ('name', 'options'),
    [('tf_efficientnet_b0', {}), ('pt_mnasnet_small', {'output_stride': 8, 'out_indices': (1, -1)}),
     ('tf_efficientnet_lite0', {'output_stride': 16, 'out_indices': (0, 2, 4)}), ('pt_mobilenetv3_small_075', {}),
     ('pt_mobilenetv4_conv_small_035', {'output_stride': 16})],
)  # fmt: skip
def test_feature_maps_are_those_of_timm(framework, name, options, tmp_path):
    info = jeffnet.model_info(name)
    theirs = timm.create_model(info.timm, features_only=True, **{**options, 'out_indices': _positive(options)})
    torch.manual_seed(0)
    torch_reference.randomise(theirs)
    whole = timm.create_model(info.timm)
    whole.load_state_dict({**whole.state_dict(), **theirs.state_dict()})
    weights = torch_reference.save_weights(whole, tmp_path / 'model.safetensors')
    run, module = made(name, framework, weights=weights, features_only=True, **options)
    x = parity.images((72, 65))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x).permute(0, 3, 1, 2))
    maps = run(x)
    assert len(maps) == len(expected) == len(module.feature_info)
    for ours, reference in zip(maps, expected, strict=True):
        reference = reference.permute(0, 2, 3, 1).numpy()
        assert np.abs(ours - reference).max() / parity.spread(reference) < 2e-4
    kept = ('num_chs', 'reduction', 'module')
    assert [{k: i[k] for k in kept} for i in module.feature_info] == [
        {k: i[k] for k in kept} for i in theirs.feature_info.get_dicts()
    ]


def _positive(options):
    return tuple(i % 5 for i in options.get('out_indices', range(5)))


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
@pytest.mark.parametrize(('name', 'final', 'pooled'), [(SMALL, 576, 1024), ('pt_mnasnet_small', 1280, 1280)])
def test_num_classes(framework, name, final, pooled):
    x = jnp.asarray(parity.images((64, 96)))
    for classes, shape in ((7, (4, 7)), (0, (4, 2, 3, final)), (-1, (4, pooled))):
        run, _ = made(name, framework, num_classes=classes)
        y = run(x)
        assert y.shape == shape and y.dtype == jnp.float32


@pytest.mark.parametrize('channels', [1, 3, 5])
def test_in_chans_adapts_loaded_weights_so_that_equal_channels_give_the_same_output(channels, tmp_path):
    model = torch_reference.reference('pt_mnasnet_small')
    weights = torch_reference.save_weights(model, tmp_path / 'model.safetensors')
    grey = parity.images((48, 48), channels=1)
    expected = torch_reference.torch_logits(model, np.repeat(grey, 3, -1))
    run, _ = made('pt_mnasnet_small', weights=weights, in_chans=channels)
    # One channel takes the sum of the three. Otherwise the copies are uneven (5 of 3), so only scale is kept.
    ours = run(np.repeat(grey, channels, -1))
    if channels != 5:
        assert np.abs(ours - expected).max() / parity.spread(expected) < 2e-4
    theirs = timm.create_model('mnasnet_small', in_chans=channels)
    adapted = timm.models.adapt_input_conv(channels, model.conv_stem.weight.detach())
    theirs.load_state_dict({**model.state_dict(), 'conv_stem.weight': adapted})
    reference = torch_reference.torch_logits(theirs.eval(), np.repeat(grey, channels, -1))
    assert np.abs(ours - reference).max() / parity.spread(reference) < 2e-4


def test_drop_path_rates_grow_with_depth_and_reach_only_blocks_with_a_shortcut():
    block = copy.copy(plan('tf_efficientnet_b0', drop_rate=0.4, drop_path_rate=0.2).block)
    module = jeffnet.linen.build(block)
    bound = module.bind(jeffnet.linen.variables_of(block))
    rates = [b.drop_rate for stage in bound.blocks for b in stage]
    np.testing.assert_allclose(rates, 0.2 * np.arange(16) / 16)
    assert bound.dropout.rate == 0.4


def test_drop_path_keeps_the_mean_in_training():
    block = plan('pt_mnasnet_small', drop_path_rate=0.5).block
    inner = [b for stage in jeffnet.models.efficientnet.build_stages(block) for b in stage][3]
    assert inner.drop_rate > 0 and inner.in_features == inner.out_features
    module, variables = jeffnet.linen.build(inner), jeffnet.linen.variables_of(inner)
    x = jnp.tile(jnp.asarray(parity.images((6, 6), channels=inner.in_features))[:1], (2000, 1, 1, 1))

    def run(key):
        return module.apply(variables, x, training=True, mutable=['batch_stats'], rngs={'dropout': key})[0]

    y = run(jax.random.key(0))
    dropped = np.isclose(y, x).all((1, 2, 3))
    assert abs(dropped.mean() - inner.drop_rate) < 5 * (inner.drop_rate * (1 - inner.drop_rate) / 2000) ** 0.5
    kept = y[int(np.argmin(dropped))] - x[0]  # the residual, scaled by 1 / keep
    np.testing.assert_allclose((y - x).mean(0), kept * (1 - dropped.mean()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ('framework', 'name'), [('linen', 'tf_mixnet_s'), ('nnx', 'tf_efficientnet_es'), ('objax', 'tf_efficientnet_es')]
)
def test_trains_under_jit(framework, name):
    if framework == 'linen':
        module, variables = jeffnet.create_model(name, num_classes=3, drop_rate=0.2, drop_path_rate=0.2)
        run = jax.jit(
            lambda v, x: module.apply(v, x, True, mutable=['batch_stats'], rngs={'dropout': jax.random.key(0)})[0]
        )
        logits = run(variables, parity.images((32, 32)))
    else:
        model = jeffnet.create_model(name, framework, num_classes=3, drop_rate=0.2, drop_path_rate=0.2)
        if framework == 'objax':
            logits = jeffnet.objax_import.objax.Jit(lambda x: model(x, True), model.vars())(parity.images((32, 32)))
        else:
            from flax import nnx

            logits = nnx.jit(lambda m, x: m(x, True))(model, parity.images((32, 32)))
    assert logits.shape == (4, 3) and np.isfinite(logits).all()


def test_batch_mates_do_not_matter_in_evaluation():
    run, _ = made(SMALL)
    x = parity.images((48, 48))
    np.testing.assert_allclose(run(x)[:2], run(x[:2]), rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ('options', 'error', 'says'),
    [({'width': 'a'}, ValueError, "width='a'"), ({'stem': 0}, ValueError, 'stem=0'),
     ({'act': 'rellu'}, ValueError, "act='rellu'.*relu"), ({'stages': ()}, TypeError, "'stages'"),
     ({'out_indices': '01', 'features_only': True}, ValueError, "out_indices='01'"),
     ({'image_size': 3.5}, ValueError, 'image_size=3.5'), ({'weights': 5}, ValueError, 'weights=5'),
     ({'strict': 'a'}, ValueError, "strict='a'"), ({'dtype': None}, ValueError, 'dtype=None'),
     ({'output_stride': 5}, ValueError, 'output_stride=5.*8, 16, 32'),
     ({'num_classes': -2}, ValueError, 'num_classes=-2'),
     ({'num_classes': 2.5}, ValueError, 'num_classes=2.5'), ({'in_chans': 0}, ValueError, 'in_chans=0'),
     ({'drop_rate': 1.0}, ValueError, 'drop_rate=1.0'), ({'drop_path_rate': -0.1}, ValueError, 'drop_path_rate=-0.1'),
     ({'num_clases': 3}, TypeError, "'num_clases'; did you mean num_classes"),
     ({'dtype': jnp.int32}, ValueError, 'dtype='),
     ({'dtype': 'fast'}, ValueError, "dtype='fast'"), ({'dtype': jnp.float64}, ValueError, 'jax_enable_x64'),
     ({'seed': -1}, ValueError, 'seed=-1'),
     ({'features_only': True, 'out_indices': (5,)}, ValueError, 'out_indices=.5,.'),
     ({'out_indices': (1,)}, ValueError, 'needs features_only=True'), ({'image_size': 3}, ValueError, 'image_size=3'),
     ({'features_only': True, 'num_classes': 3}, ValueError, 'no logits'),
     ({'weights': 'nowhere.safetensors'}, FileNotFoundError, 'nowhere.safetensors'),
     ({'pretrained': True, 'weights': 'a'}, ValueError, 'one of the two')],
)  # fmt: skip
@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_bad_keywords_name_the_fault(framework, options, error, says):
    with pytest.raises(error, match=says):
        jeffnet.create_model('pt_efficientnet_b0', framework, **options)


def test_unknown_names_and_frameworks_name_the_closest():
    with pytest.raises(ValueError, match=r"'tf_eficientnet_b0'.*tf_efficientnet_b0"):
        jeffnet.create_model('tf_eficientnet_b0')
    with pytest.raises(ValueError, match=r"framework='haiku'.*linen, objax, nnx"):
        jeffnet.create_model('tf_efficientnet_b0', 'haiku')
    with pytest.raises(ValueError, match='pt_efficientnet_b7 has no published weights'):
        jeffnet.create_model('pt_efficientnet_b7', pretrained=True)


@pytest.mark.parametrize(
    ('shape', 'dtype', 'error', 'says'),
    [((1, 3, 64, 64), np.float32, ValueError, r'looks like \[N, C, H, W\]'),
     ((64, 64, 3), np.float32, ValueError, r'x\[None\]'), ((1, 64, 64, 4), np.float32, ValueError, 'in_chans'),
     ((1, 31, 64, 3), np.float32, ValueError, '31 x 64 pixels.*at least 32 x 32'),
     ((1, 64, 64, 3), np.uint8, TypeError, 'floating-point and normalised, not uint8')],
)  # fmt: skip
@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_bad_images_name_the_fault(framework, shape, dtype, error, says):
    run, _ = made('pt_mnasnet_small', framework)
    with pytest.raises(error, match=says):
        run(np.zeros(shape, dtype))


def test_statistics_are_no_parameters():
    chosen = plan('tf_efficientnet_b0')
    assert sum(np.prod(d.shape) for d in declarations(chosen.block).values() if isinstance(d, State)) == 42_016


def test_numpy_numbers_and_names_of_activations_are_taken():
    options = {'num_classes': np.int64(5), 'in_chans': np.int32(1), 'drop_rate': np.float32(0.5), 'act': 'gelu'}
    block = plan('pt_mnasnet_small', **options).block
    assert (block.num_classes, block.in_chans, block.drop_rate) == (5, 1, 0.5)
    assert block.act is jeffnet.core.activations.gelu


def test_other_arrays_than_those_of_jax_and_numpy_are_refused():
    _, module = made('pt_mnasnet_small', 'nnx')
    with pytest.raises(TypeError, match=r'not torch\.Tensor'):
        module(torch.zeros(1, 64, 64, 3))
