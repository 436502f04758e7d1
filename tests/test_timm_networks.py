"""timm's networks beyond the first families: the variables of every name, the arithmetic of small networks."""

import dataclasses
from functools import cache, partial

import numpy as np
import pytest
import timm
import torch
from timm.models import densenet as timm_densenet

import jeffnet
from benchmarks import parity
from jeffnet.core.block import declarations
from jeffnet.create import plan
from jeffnet.models import densenet, table
from jeffnet.weights.names import TO_TORCH, timm_names

FAMILIES = ('densenet',)
NAMES = [name for family in FAMILIES for name in jeffnet.list_models('pt_*', family=family)]
SIZE = (66, 47)  # an even and an odd side
# Our network, the published one whose entry in the table it takes, and timm's: structures as they are, small.
SMALL = {
    'pt_small_densenet': (
        partial(densenet.DenseNet, (2, 3), growth=8),
        'pt_densenet121',
        partial(timm_densenet.DenseNet, growth_rate=8, block_config=(2, 3)),
    ),
    'pt_small_densenet_d': (
        partial(densenet.DenseNet, (2, 3), growth=8, deep_stem=True),
        'pt_densenet264d',
        partial(timm_densenet.DenseNet, growth_rate=8, block_config=(2, 3), stem_type='deep'),
    ),
}


def register(name: str) -> table.ModelInfo:
    """Puts a small network into this process's table of models; returns its entry."""
    variant, like, _ = SMALL[name]
    info = dataclasses.replace(table.model_info(like), name=name, arch=name)
    table.definition(info).VARIANTS[name] = variant
    table.table()[name] = info
    return info


@cache
def shapes_of_timm(architecture: str) -> dict[str, tuple[int, ...]]:
    """The arrays of timm's network, which takes no memory."""
    with torch.device('meta'):
        state = timm.create_model(architecture).state_dict()
    return {name: tuple(array.shape) for name, array in state.items() if 'num_batches_tracked' not in name}


@pytest.mark.parametrize('name', NAMES)
def test_variables_and_facts_are_those_of_timm(name):
    info, chosen = jeffnet.model_info(name), plan(name)
    names = timm_names(chosen.block, chosen.policy, table.definition(info).WEIGHT_NAMES)
    shapes = {}
    for flat, declared in declarations(chosen.block, chosen.policy).items():
        order = TO_TORCH.get(len(declared.shape)) if flat.endswith('kernel') else None
        shapes[names[flat]] = tuple(declared.shape[i] for i in order) if order else declared.shape
    assert shapes == shapes_of_timm(info.timm)
    config = timm.get_pretrained_cfg(info.weights or info.timm)
    assert (info.input_size, info.crop_pct) == ((*config.input_size[1:], 3), config.crop_pct)
    assert (info.mean, info.std, info.interpolation) == (config.mean, config.std, config.interpolation)
    assert info.tag == (config.tag if info.weights else None)
    assert info.licence == config.license and (info.top1 or 0) <= (info.top5 or 0)


def test_every_tag_of_timm_is_a_name():
    for name in NAMES:
        arch = jeffnet.model_info(name).timm
        for weights in timm.list_pretrained(f'{arch}.*'):
            assert jeffnet.model_info(f'pt_{weights}').weights == weights


@pytest.mark.parametrize('name', SMALL)
def test_small_networks_compute_what_timms_do(name, tmp_path):
    register(name)
    network = parity.randomise(SMALL[name][2](num_classes=10))
    weights = parity.save_weights(network, tmp_path / 'model.safetensors')
    rows = parity.compare(name, network, weights, (SIZE,), num_classes=10)
    assert len(rows) == 3 and not [row for row in rows if not row['ok']]


@pytest.mark.parametrize('name', ['pt_densenet121'])
def test_feature_maps_are_those_of_timm(name, tmp_path):
    network = parity.reference(name)
    weights = parity.save_weights(network, tmp_path / 'model.safetensors')
    theirs = timm.create_model(jeffnet.model_info(name).timm, features_only=True).eval()
    arrays = zip(theirs.state_dict(), network.state_dict().values(), strict=False)  # the same order, other names
    theirs.load_state_dict(dict(arrays))
    x = parity.images(SIZE)
    with torch.no_grad():
        expected = [level.permute(0, 2, 3, 1).numpy() for level in theirs(torch.from_numpy(x).permute(0, 3, 1, 2))]
    model = jeffnet.create_model(name, 'nnx', weights=weights, features_only=True)
    for level, wanted in zip(jeffnet.predictor(model)(x), expected, strict=True):
        assert np.abs(np.asarray(level) - wanted).max() < parity.BAR32 * parity.spread(wanted)
    kept = ('num_chs', 'reduction', 'module')
    described = [[info[k] for k in kept] for info in model.feature_info]
    assert described == [[info[k] for k in kept] for info in theirs.feature_info.get_dicts()]
