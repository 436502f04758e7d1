"""Xception, as published and aligned: networks and feature maps against timm's; test_timm_networks.py has all names."""

from functools import partial

import pytest
from timm.models import xception_aligned as timm_aligned
from timm.models.xception import Xception

import jeffnet
from jeffnet.models import xception, xception_aligned
from jeffnet.models.xception_aligned import Shape
from tests import small_networks

SHAPES = (
    Shape((8,) * 3, 2),
    Shape((12,) * 3),
    Shape((12,) * 3, 2),
    Shape((12, 16, 16), 2),
    Shape((16, 20, 24), last=True),
)
NAMES = [name for name in jeffnet.list_models('pt_*xception*') if 'small' not in name]


def small(preact: bool, **options):
    """timm's aligned network of these shapes."""
    blocks, width = [], 64
    for shape in SHAPES:
        blocks.append({'in_chs': width, 'out_chs': shape.widths, 'stride': shape.stride})
        width = shape.widths[-1]
    blocks[-1] |= {'no_skip': True} if preact else {'no_skip': True, 'start_with_relu': False}
    eps = {'norm_layer': partial(timm_aligned.nn.BatchNorm2d, eps=1e-5 if preact else 1e-3)}
    return partial(timm_aligned.XceptionAligned, blocks, preact=preact, **eps, **options)


OURS = partial(xception_aligned.XceptionAligned, SHAPES)
SMALL = {  # ours, the published network whose entry in the table it takes, timm's
    'pt_small_xception': (OURS, 'pt_xception41', small(False)),
    'pt_small_xception_p': (partial(OURS, preact=True), 'pt_xception41p', small(True)),
}


@pytest.mark.parametrize('name', SMALL)
def test_small_networks_compute_what_timms_do(name, tmp_path):
    assert not small_networks.faults(name, *SMALL[name], tmp_path)


def test_the_network_as_published_computes_what_timms_does(tmp_path):
    name, like = 'pt_small_legacy_xception', 'pt_legacy_xception'
    assert not small_networks.faults(name, xception.Xception, like, Xception, tmp_path)


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('output_stride', [32, 8])
def test_feature_maps_are_those_of_timm(name, output_stride, tmp_path):
    ours, like, theirs = SMALL[name]
    theirs = small(name.endswith('_p'), output_stride=output_stride)
    assert not small_networks.map_faults(name, ours, like, theirs, tmp_path, output_stride=output_stride)


def test_feature_maps_of_the_network_as_published_are_those_of_timm(tmp_path):
    assert not small_networks.feature_faults('pt_legacy_xception', tmp_path)


@pytest.mark.parametrize('name', NAMES)
def test_feature_maps_are_described_as_in_timm(name):
    assert not small_networks.level_faults(name)
    if 'legacy' not in name:
        assert not small_networks.level_faults(name, output_stride=16)
