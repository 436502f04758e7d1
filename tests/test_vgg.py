"""VGG: small networks and feature maps against timm's, torchvision's files; test_timm_networks.py has all names."""

from functools import partial

import pytest
import torch
import torchvision
from timm.models import vgg as timm_vgg

import jeffnet
from benchmarks import parity, torch_reference
from jeffnet.models import vgg
from tests import small_networks

WIDTHS, CONFIG = ((8,), (12, 16)), [8, 'M', 12, 16, 'M']  # of a quarter of the size, the last map can exceed 7 x 7
NORM = {'norm_layer': torch.nn.BatchNorm2d}
SMALL = {  # ours, the published network whose entry in the table it takes, timm's
    'pt_small_vgg': (partial(vgg.VGG, WIDTHS), 'pt_vgg11', partial(timm_vgg.VGG, CONFIG)),
    'pt_small_vgg_bn': (partial(vgg.VGG, WIDTHS, norm=True), 'pt_vgg11_bn', partial(timm_vgg.VGG, CONFIG, **NORM)),
}
NAMES = [name for name in jeffnet.list_models('pt_vgg*') if 'small' not in name]


@pytest.mark.parametrize(
    ('name', 'size'), [('pt_small_vgg', (37, 24)), ('pt_small_vgg_bn', (66, 47))], ids=['map too low', 'map large']
)
def test_small_networks_compute_what_timms_do(name, size, tmp_path):
    assert not small_networks.faults(name, *SMALL[name], tmp_path, size)


@pytest.mark.parametrize('name', SMALL)
def test_feature_maps_are_those_of_timm(name, tmp_path):
    assert not small_networks.map_faults(name, *SMALL[name], tmp_path)


@pytest.mark.parametrize('name', NAMES)
def test_feature_maps_are_described_as_in_timm(name):
    assert not small_networks.level_faults(name)


@pytest.mark.parametrize('norm', [False, True])
def test_torchvision_files(norm, tmp_path):
    """Whose dense layers are linear ones of the flattened map; narrow features keep the file small."""
    theirs = torchvision.models.vgg.VGG(torchvision.models.vgg.make_layers(CONFIG, norm), num_classes=10)
    theirs.classifier[0] = torch.nn.Linear(16 * 7 * 7, 4096)
    theirs = torch_reference.randomise(theirs, 64)
    path = tmp_path / 'model.pth'
    torch.save(theirs.state_dict(), path)
    name = 'pt_small_vgg_bn' if norm else 'pt_small_vgg'
    small_networks.register(name, *SMALL[name][:2])
    rows = parity.compare(name, theirs, path, ((28, 28), (17, 22)), num_classes=10)
    assert len(rows) == 6 and all(row['ok'] for row in rows)


@pytest.mark.parametrize('name', NAMES)
def test_all_of_torchvisions_arrays_find_their_places(name):
    assert not small_networks.torchvision_faults(name)
