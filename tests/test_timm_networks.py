"""Every name against timm's variables, facts and the committed proof; the arithmetic of small networks."""

import csv
import dataclasses
import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.models import densenet as timm_densenet

import jeffnet
from benchmarks import parity
from jeffnet.core.block import declarations
from jeffnet.create import parameter_count, plan
from jeffnet.models import densenet, table
from jeffnet.weights.names import translate
from jeffnet.weights.stored import StoredArray

NAMES = [name for name in jeffnet.list_models() if not name.startswith('keras_')]  # those are in test_keras.py
GENERATED = jeffnet.list_models('pt_*', family='densenet')  # by tools/timm_table.py
RESULTS = Path(__file__).parents[1] / 'results' / 'parity.csv'
PARITY = {
    name: list(rows)
    for name, rows in itertools.groupby(csv.DictReader(RESULTS.read_text().splitlines()), lambda row: row['name'])
}
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


# ------------------------------------------------------------------------------------------------------- all names


@pytest.mark.parametrize('name', NAMES)
def test_variables_are_those_of_timm_by_name_and_shape(name):
    info, chosen = jeffnet.model_info(name), plan(name)
    with torch.device('meta'):
        theirs = timm.create_model(info.timm)
    ours = declarations(chosen.block, chosen.policy)
    arrays = {k: StoredArray(tuple(v.shape), np.dtype('float32'), v.numpy) for k, v in theirs.state_dict().items()}
    found = translate('pytorch', arrays, info, chosen.block, chosen.policy)
    assert {k: v.shape for k, v in found.flat.items()} == {k: v.shape for k, v in ours.items()}
    assert not found.unexpected
    assert parameter_count(chosen.block) == info.parameters == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize('name', sorted(set(NAMES) & set(jeffnet.list_models(pretrained=True))))
def test_the_pinned_weights_exist_in_timm_with_the_same_preprocessing(name):
    info = jeffnet.model_info(name)
    config = timm.get_pretrained_cfg(info.weights)
    assert config.tag == info.tag
    assert (tuple(config.mean), tuple(config.std), config.interpolation) == (info.mean, info.std, info.interpolation)


@pytest.mark.parametrize('name', GENERATED)
def test_facts_are_those_of_timm(name):
    info = jeffnet.model_info(name)
    config = timm.get_pretrained_cfg(info.weights or info.timm)
    assert (info.input_size, info.crop_pct) == ((*config.input_size[1:], 3), config.crop_pct)
    assert info.licence == config.license and (info.top1 or 0) <= (info.top5 or 0)


def test_every_tag_of_timm_is_a_name():
    for name in GENERATED:
        for weights in timm.list_pretrained(f'{jeffnet.model_info(name).timm}.*'):
            assert jeffnet.model_info(f'pt_{weights}').weights == weights


@pytest.mark.parametrize('name', jeffnet.list_models())
def test_the_committed_table_of_results_proves_the_name(name):
    rows = PARITY[name]
    float32 = {(row['framework'], row['size']) for row in rows if row['dtype'] == 'float32'}
    assert float32 == {(f, 'x'.join(map(str, s))) for f in jeffnet.FRAMEWORKS for s in parity.sizes_of(name)}
    assert {row['ok'] for row in rows} == {'True'}


# ---------------------------------------------------------------------------------------------------------- identity


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
