"""ConvMixer: small networks against timm's; test_timm_networks.py has all names."""

from functools import partial

import pytest
import torch
from timm.models import convmixer as timm_convmixer

from jeffnet.core.activations import relu
from jeffnet.models import convmixer
from tests import small_networks

SMALL = {  # ours, the published network whose entry in the table it takes, timm's
    'pt_small_convmixer': (
        partial(convmixer.ConvMixer, 24, 3),
        'pt_convmixer_1536_20',
        partial(timm_convmixer.ConvMixer, 24, 3),
    ),
    'pt_small_convmixer_relu': (
        partial(convmixer.ConvMixer, 16, 2, kernel_size=5, patch_size=4, act=relu),
        'pt_convmixer_768_32',
        partial(timm_convmixer.ConvMixer, 16, 2, kernel_size=5, patch_size=4, act_layer=torch.nn.ReLU),
    ),
}


@pytest.mark.parametrize('name', SMALL)
def test_small_networks_compute_what_timms_do(name, tmp_path):
    assert not small_networks.faults(name, *SMALL[name], tmp_path)


def test_feature_maps_are_the_last_blocks(tmp_path):
    assert not small_networks.feature_faults('pt_convmixer_1024_20_ks9_p14', tmp_path)
