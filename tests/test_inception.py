"""Inception-V3, V4, ResNet-V2: networks of few blocks and feature maps against timm's, torchvision's files."""

from functools import partial

import numpy as np
import pytest
import torch
import torchvision
from timm.models.inception_resnet_v2 import InceptionResnetV2
from timm.models.inception_v3 import InceptionV3
from timm.models.inception_v4 import InceptionV4

import jeffnet
from benchmarks import parity, torch_reference
from jeffnet.models import inception_resnet_v2, inception_v3, inception_v4
from jeffnet.weights import judges
from tests import small_networks

SIZE = (76, 95)  # an even and an odd side, not much more than the smallest
NAMES = [name for name in jeffnet.list_models('pt_inception_*') if 'small' not in name]


def few_v4(num_classes):
    """timm's Inception-v4 with one block of each kind."""
    network = InceptionV4(num_classes)
    network.features = torch.nn.Sequential(*(network.features[i] for i in (*range(7), 10, 11, 18, 19)))
    network.stage_ends = [2, 3, 6, 8, 10]
    return network


def few_resnet(num_classes):
    """timm's Inception-ResNet-v2 with one or two blocks of each kind, randomised like other residual networks."""
    network = InceptionResnetV2(num_classes)
    for name, count in zip(('repeat', 'repeat_1', 'repeat_2'), (1, 2, 1), strict=True):
        setattr(network, name, getattr(network, name)[:count])
    return network


SMALL = {  # ours, the published network whose entry in the table it takes, timm's
    'pt_small_inception_v3': (inception_v3.InceptionV3, 'pt_inception_v3', InceptionV3),
    'pt_small_inception_v4': (partial(inception_v4.InceptionV4, repeats=(1, 1, 1)), 'pt_inception_v4', few_v4),
    'pt_small_inception_resnet_v2': (
        partial(inception_resnet_v2.InceptionResNetV2, repeats=(1, 2, 1)),
        'pt_inception_resnet_v2',
        few_resnet,
    ),
}


@pytest.mark.parametrize('name', SMALL)
def test_networks_of_few_blocks_compute_what_timms_do(name, tmp_path):
    assert not small_networks.faults(name, *SMALL[name], tmp_path, SIZE)


@pytest.mark.parametrize('name', SMALL)
def test_feature_maps_are_those_of_timm(name, tmp_path):
    assert not small_networks.map_faults(name, *SMALL[name], tmp_path, SIZE)


@pytest.mark.parametrize('name', NAMES)
def test_feature_maps_are_described_as_in_timm(name):
    assert not small_networks.level_faults(name)


def test_torchvision_files_hold_a_second_classifier_which_is_left_out(tmp_path):
    theirs = torchvision.models.inception_v3(num_classes=10, init_weights=False)
    assert not small_networks.torchvision_faults('pt_inception_v3', init_weights=False)
    torch_reference.randomise(theirs, 100)
    path = tmp_path / 'model.pth'
    torch.save(theirs.state_dict(), path)
    assert any(name.startswith('AuxLogits.') for name in theirs.state_dict())
    rows = parity.compare('pt_inception_v3', theirs, path, (SIZE,), num_classes=10)
    assert len(rows) == 3 and all(row['ok'] for row in rows)
    module, variables = jeffnet.create_model('pt_inception_v3', weights=path, num_classes=10)
    judge = judges.judge_of('timm', jeffnet.model_info('pt_inception_v3'), path, module, variables, True)
    np.testing.assert_array_equal(judge.fc.weight.detach(), theirs.fc.weight.detach())
