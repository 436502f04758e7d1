"""DenseNet: small networks, feature maps, torchvision's files; test_timm_networks.py has all names."""

import re
from functools import partial

import pytest
import torch
import torchvision
from timm.layers import BlurPool2d
from timm.models import densenet as timm_densenet

import jeffnet
from benchmarks import parity, torch_reference
from jeffnet.models import densenet
from tests import small_networks

OURS = partial(densenet.DenseNet, (2, 3), growth=8)
THEIRS = partial(timm_densenet.DenseNet, growth_rate=8, block_config=(2, 3))
SMALL = {  # ours, the published network whose entry in the table it takes, timm's
    'pt_small_densenet': (OURS, 'pt_densenet121', THEIRS),
    'pt_small_densenet_d': (partial(OURS, deep_stem=True), 'pt_densenet264d', partial(THEIRS, stem_type='deep')),
    'pt_small_densenet_blur': (
        partial(OURS, deep_stem=True, blur=True),
        'pt_densenetblur121d',
        partial(THEIRS, stem_type='deep', aa_layer=BlurPool2d),
    ),
}
NAMES = [name for name in jeffnet.list_models('pt_densenet*') if 'small' not in name]


@pytest.mark.parametrize('name', SMALL)
def test_small_networks_compute_what_timms_do(name, tmp_path):
    assert not small_networks.faults(name, *SMALL[name], tmp_path)


def test_feature_maps_are_those_of_timm(tmp_path):
    assert not small_networks.feature_faults('pt_densenet121', tmp_path)


@pytest.mark.parametrize('name', NAMES)
def test_feature_maps_are_described_as_in_timm(name):
    assert not small_networks.level_faults(name)


@pytest.mark.parametrize('old', [False, True], ids=['of today', 'as first published'])
def test_torchvision_files(old, tmp_path):
    theirs = torchvision.models.DenseNet(8, (2, 3), 16, num_classes=10)
    theirs = torch_reference.randomise(theirs, 64)
    state = theirs.state_dict()
    if old:
        state = {re.sub(r'(denselayer\d+\.(?:norm|conv))', r'\1.', name): array for name, array in state.items()}
        assert 'features.denseblock2.denselayer3.conv.2.weight' in state
    path = tmp_path / 'model.pth'
    torch.save(state, path)
    small_networks.register('pt_small_densenet', *SMALL['pt_small_densenet'][:2])
    rows = parity.compare('pt_small_densenet', theirs, path, (small_networks.SIZE,), num_classes=10)
    assert len(rows) == 3 and all(row['ok'] for row in rows)


@pytest.mark.parametrize('name', ['pt_densenet121', 'pt_densenet161', 'pt_densenet169', 'pt_densenet201'])
def test_all_of_torchvisions_arrays_find_their_places(name):
    assert not small_networks.torchvision_faults(name)
