"""flaim's names and interface, and what it got wrong (facts of its version 0.0.5)."""

import jax
import numpy as np
import pytest

import jeffnet
from jeffnet import flaim
from jeffnet.models.table import table

COMING = ('vit_', 'deit3_', 'beit', 'dino', 'xcit_', 'maxvit_', 'swin_', 'cait_', 'pvtv2_', 'gcvit_', 'nest_')


def convolutional() -> list[str]:
    """flaim's names of convolutional networks."""
    return [name for name in flaim.names() if not name.startswith(COMING)]


def test_its_names_stand_for_ours():
    assert len(flaim.names()) == 341 and len(convolutional()) == 180
    found = {name: flaim.resolve(name) for name in convolutional()}
    assert found['resnet50_swsl'].name == 'pt_resnet50.fb_swsl_ig1b_ft_in1k'
    assert found['efficientnetv2_small_in22ft1k'].name == 'tf_efficientnetv2_s'
    assert found['van_b0'].name == 'pt_van_b0'
    assert flaim.resolve('pt_resnet18').name == 'pt_resnet18'
    with pytest.raises(ValueError, match='unknown model'):
        jeffnet.get_model('resnet51')


@pytest.mark.parametrize('n_classes, shape', [(0, (2, 3, 2, 512)), (-1, (2, 512)), (5, (2, 5))])
def test_its_three_kinds_of_output(n_classes, shape):
    module, variables, stats = jeffnet.get_model('resnet18d', False, n_classes, norm_stats=True)
    x = np.zeros((2, 72, 56, 3), np.float32)  # its own average-pool shortcuts fail at sizes that 32 does not divide
    assert jax.eval_shape(module.apply, variables, x).shape == shape
    info = jeffnet.model_info('pt_resnet18d')
    assert stats == {'mean': info.mean, 'std': info.std}


def test_intermediates_under_its_names():
    module, variables = jeffnet.get_model('resnet18', False, jit=False)
    taps = jax.eval_shape(
        lambda v, x: module.apply(v, x, mutable=['intermediates']), variables, np.zeros((1, 64, 64, 3), np.float32)
    )[1]['intermediates']
    assert sorted(taps) == [f'stage_{i}' for i in range(5)]


def test_keys_give_initial_values_and_no_call_changes_another():
    before = dict(table())
    _, one = jeffnet.get_model('van_b0', False, prng=jax.random.key(1))
    _, same = jeffnet.get_model('van_b0', False, prng=jax.random.key(1))
    _, other = jeffnet.get_model('van_b0', False, prng=2)
    flat = [jeffnet.flat_variables(v)['patch_embed1.proj.kernel'] for v in (one, same, other)]
    assert np.array_equal(flat[0], flat[1]) and not np.array_equal(flat[0], flat[2])
    with pytest.raises(ValueError):
        jeffnet.get_model('van_b0', False, n_classes=-3)
    assert dict(table()) == before


def test_patterns_are_globs_or_regular_expressions():
    assert jeffnet.list_models('pt_resnet1?') == ['pt_resnet18']
    assert 'pt_regnetx_002' in jeffnet.list_models('regnet') and 'pt_resnet50' in jeffnet.list_models(r'resnet\d+$')
    assert jeffnet.list_models('nothing') == []
    with pytest.raises(ValueError, match='no regular expression'):
        jeffnet.list_models('(')
