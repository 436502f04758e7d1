"""NASNet and PNASNet: narrow networks of few cells, and feature maps, against timm's."""

from functools import partial
from unittest import mock

import pytest
import torch
from timm.models import nasnet as timm_nasnet
from timm.models import pnasnet as timm_pnasnet

from jeffnet.models import nasnet, pnasnet
from tests import small_networks

SHARE = 6  # of PNASNet's widths, which are fixed in timm


def narrow(make):
    """timm's constructor with all widths that it is given divided."""

    def made(*args, **options):
        channels = {key: value // SHARE for key, value in options.items() if '_chs' in key}
        return make(*(a // SHARE if a > 50 else a for a in args), **{**options, **channels})

    return made


def few_cells(network: torch.nn.Module, each: int):
    """timm's network with two of `each` cells in a stage; it runs the list that gives its feature maps."""
    kept = [network.get_submodule(f'cell_{stage * each + i}') for stage in range(3) for i in range(2)]
    for i in range(3 * each):
        delattr(network, f'cell_{i}')
    for i, cell in enumerate(kept):
        setattr(network, f'cell_{i}', cell)
    gone = {f'cell_{i}' for i in range(3 * each) if i % each > 1}
    order, count = [], 0
    for name in network.layer_names:
        if name.startswith(('cell_stem', 'conv', 'reduction')):
            order.append(name)
        elif name not in gone:
            order.append(f'cell_{count}')
            count += 1
    network.layer_names = order
    ends = (network.layer_names[0], 'cell_stem_0', 'cell_1', 'cell_3', 'cell_5')
    network.feature_ends = [network.layer_names.index(name) for name in ends]
    network.forward_features = lambda x: network.forward_intermediates(x)[0]
    return network


def few_nasnet(num_classes):
    """timm's NASNet, narrow and of few cells."""
    return few_cells(timm_nasnet.NASNetALarge(num_classes, stem_size=8, num_features=384), 6)


def few_pnasnet(num_classes):
    """timm's PNASNet of a sixth of the width and of few cells."""
    names = ('ConvNormAct', 'CellStem0', 'Cell', 'create_classifier')
    with mock.patch.multiple(timm_pnasnet, **{name: narrow(getattr(timm_pnasnet, name)) for name in names}):
        return few_cells(timm_pnasnet.PNASNet5Large(num_classes, pad_type='same'), 4)


SMALL = {  # ours, the published network whose entry in the table it takes, timm's
    'pt_small_nasnet': (partial(nasnet.NASNet, 384, 2, 8, skip_reduction=True), 'pt_nasnetalarge', few_nasnet),
    'pt_small_pnasnet': (partial(pnasnet.PNASNet, 4320 // SHARE, 2, 96 // SHARE), 'pt_pnasnet5large', few_pnasnet),
}


@pytest.mark.parametrize('name', SMALL)
def test_small_networks_compute_what_timms_do(name, tmp_path):
    assert not small_networks.faults(name, *SMALL[name], tmp_path)


@pytest.mark.parametrize('name', SMALL)
def test_feature_maps_are_those_of_timm(name, tmp_path):
    assert not small_networks.map_faults(name, *SMALL[name], tmp_path)


@pytest.mark.parametrize('name', ['pt_nasnetalarge', 'pt_pnasnet5large'])
def test_feature_maps_are_described_as_in_timm(name):
    assert not small_networks.level_faults(name)
