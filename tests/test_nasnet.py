"""NASNet and PNASNet: narrow networks and feature maps against timm's; test_timm_networks.py has all names."""

from functools import partial
from unittest import mock

import pytest
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


def narrow_pnasnet(num_classes):
    """timm's PNASNet of a sixth of the width."""
    names = ('ConvNormAct', 'CellStem0', 'Cell', 'create_classifier')
    with mock.patch.multiple(timm_pnasnet, **{name: narrow(getattr(timm_pnasnet, name)) for name in names}):
        return timm_pnasnet.PNASNet5Large(num_classes, pad_type='same')


SMALL = {  # ours, the published network whose entry in the table it takes, timm's
    'pt_small_nasnet': (
        partial(nasnet.NASNet, 384, 6, 8, skip_reduction=True),
        'pt_nasnetalarge',
        partial(timm_nasnet.NASNetALarge, num_features=384, stem_size=8),
    ),
    'pt_small_pnasnet': (partial(pnasnet.PNASNet, 4320 // SHARE, 4, 96 // SHARE), 'pt_pnasnet5large', narrow_pnasnet),
}


@pytest.mark.parametrize('name', SMALL)
def test_narrow_networks_compute_what_timms_do(name, tmp_path):
    assert not small_networks.faults(name, *SMALL[name], tmp_path)


@pytest.mark.parametrize('name', SMALL)
def test_feature_maps_are_those_of_timm(name, tmp_path):
    assert not small_networks.map_faults(name, *SMALL[name], tmp_path)


@pytest.mark.parametrize('name', ['pt_nasnetalarge', 'pt_pnasnet5large'])
def test_feature_maps_are_described_as_in_timm(name):
    assert not small_networks.level_faults(name)
