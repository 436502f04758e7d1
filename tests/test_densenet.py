"""DenseNet: small networks and feature maps against timm's; test_timm_networks.py has all names."""

from functools import partial

import pytest
from timm.models import densenet as timm_densenet

from jeffnet.models import densenet
from tests import small_networks

THEIRS = partial(timm_densenet.DenseNet, growth_rate=8, block_config=(2, 3))
SMALL = {  # ours, the published network whose entry in the table it takes, timm's
    'pt_small_densenet': (partial(densenet.DenseNet, (2, 3), growth=8), 'pt_densenet121', THEIRS),
    'pt_small_densenet_d': (
        partial(densenet.DenseNet, (2, 3), growth=8, deep_stem=True),
        'pt_densenet264d',
        partial(THEIRS, stem_type='deep'),
    ),
}


@pytest.mark.parametrize('name', SMALL)
def test_small_networks_compute_what_timms_do(name, tmp_path):
    assert not small_networks.faults(name, *SMALL[name], tmp_path)


def test_feature_maps_are_those_of_timm(tmp_path):
    assert not small_networks.feature_faults('pt_densenet121', tmp_path)
