"""Every name against its judge's variables, timm's facts and the committed proof; the files of families have the rest.

The judge is timm or, where it lacks a network, one of our own in the benchmarks.
"""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import jeffnet
from benchmarks import parity, torch_reference
from jeffnet.core.block import declarations
from jeffnet.create import parameter_count, plan
from jeffnet.weights.names import translate
from jeffnet.weights.stored import StoredArray
from tools import timm_table

ALL = jeffnet.list_models()  # before tests add names of their own
NAMES = [name for name in ALL if not name.startswith('keras_')]  # those are in test_keras.py
IN_TIMM = [name for name in NAMES if timm.is_model(jeffnet.model_info(name).timm)]
GENERATED = [n for n in IN_TIMM if (file := jeffnet.model_info(n).file) in timm_table.FAMILIES
             and not timm_table.is_kept(file, n)]  # fmt: skip
UNMEASURED = 490  # names that `make parity` has not run yet; fewer with each run
RESULTS = Path(__file__).parents[1] / 'results' / 'parity.csv'
PARITY = {
    name: list(rows)
    for name, rows in itertools.groupby(csv.DictReader(RESULTS.read_text().splitlines()), lambda row: row['name'])
}


# ------------------------------------------------------------------------------------------------------- all names


@pytest.mark.parametrize('name', NAMES)
def test_variables_are_those_of_the_judge_by_name_and_shape(name):
    info, chosen = jeffnet.model_info(name), plan(name)
    with torch.device('meta'):
        theirs = torch_reference.network(name)
    ours = declarations(chosen.block, chosen.policy)
    arrays = {k: StoredArray(tuple(v.shape), np.dtype('float32'), v.numpy) for k, v in theirs.state_dict().items()}
    found = translate('pytorch', arrays, info, chosen.block, chosen.policy)
    assert {k: v.shape for k, v in found.flat.items()} == {k: v.shape for k, v in ours.items()}
    assert not found.unexpected
    assert parameter_count(chosen.block) == info.parameters == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize('name', sorted(set(IN_TIMM) & set(jeffnet.list_models(pretrained=True))))
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
    squashes = config.crop_mode == 'squash' and not (info.flavour == 'tf' and info.input_size[0] < 320)
    assert info.crop_mode == ('squash' if squashes else 'center')
    assert info.licence == config.license and (info.top1 or 0) <= (info.top5 or 0)


def test_every_tag_of_timm_is_a_name():
    for name in GENERATED:
        for weights in timm.list_pretrained(f'{jeffnet.model_info(name).timm}.*'):
            prefix = '' if weights.startswith('tf_') else 'pt_'
            assert jeffnet.model_info(prefix + weights).weights == weights


@pytest.mark.parametrize('name', sorted(set(ALL) & set(PARITY)))
def test_the_committed_table_of_results_proves_the_name(name):
    sizes = {}
    for row in PARITY[name]:
        if row['dtype'] == 'float32':
            sizes.setdefault(row['framework'], set()).add(row['size'])
    assert set(sizes) >= set(parity.frameworks_of(name)) and len(sizes['linen']) >= len(parity.sizes_of(name))
    assert all(of == sizes['linen'] for of in sizes.values())
    assert {row['ok'] for row in PARITY[name]} == {'True'}


def test_no_name_is_left_out_of_the_table_of_results_but_the_latest():
    assert len(set(ALL) - set(PARITY)) <= UNMEASURED
