"""Files of other publishers: the predecessor's archives and torchvision's checkpoints, judged by PyTorch's networks."""

import logging

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

import jeffnet
from benchmarks import torch_reference
from jeffnet.weights import judges

TORCHVISION = {
    'pt_mobilenetv2_100': 'mobilenet_v2',
    'pt_mobilenetv3_large_100': 'mobilenet_v3_large',
    'pt_mobilenetv3_small_100': 'mobilenet_v3_small',
    'pt_mnasnet_100': 'mnasnet1_0',
    'pt_efficientnet_b0': 'efficientnet_b0',
    'pt_efficientnet_b1': 'efficientnet_b1',
    'pt_efficientnet_b5': 'efficientnet_b5',
    'pt_efficientnetv2_s': 'efficientnet_v2_s',
}


def randomised(network):
    """Random statistics, scales and biases, which leave a signal behind: no default zero or one hides a mistake."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, array in network.state_dict().items():
            if name.endswith('running_var') or (array.ndim == 1 and name.endswith('weight')):
                array.copy_(torch.rand(array.shape, generator=generator) + 0.5)
            elif array.ndim == 1:
                array.copy_(0.1 * torch.randn(array.shape, generator=generator))
    return network.eval()


@torch.no_grad()
def differences(one, other, sizes=((64, 64), (97, 97))):
    """The largest difference of the logits of two PyTorch networks, in units of their spread over the batch."""
    found = []
    for size in sizes:
        x = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(1)).double()
        a, b = one.double()(x), other.double()(x)
        found.append(float((a - b).abs().max() / (a - a.mean(0)).std()))
    return max(found)


@pytest.mark.parametrize('name', TORCHVISION)
def test_torchvision_files(name, tmp_path):
    """Our arrays and settings, put into timm's network, are torchvision's function.

    In float64, but PyTorch's hard-swish multiplies by a sixth of float32 even there: 1e-7 for each of some ten layers.
    """
    theirs = randomised(getattr(torchvision.models, TORCHVISION[name])())
    path = tmp_path / 'model.pth'
    torch.save({'model': theirs.state_dict(), 'epoch': 1}, path)
    module, variables = jeffnet.create_model(name, weights=path)
    ours = timm.create_model(jeffnet.model_info(name).timm, bn_eps=module.policy.bn_eps)
    judges.load_into(ours, judges.timm_state(module, variables))
    assert differences(theirs, ours.eval()) < 1e-5
    norm = next(m for m in theirs.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert (module.policy.bn_eps, 1 - module.policy.bn_momentum) == pytest.approx((norm.eps, norm.momentum))


def test_settings_of_torchvision_survive_saving_and_yield_to_the_users(tmp_path):
    path = tmp_path / 'model.safetensors'
    save_file(torchvision.models.mobilenet_v3_small().state_dict(), path)
    name = 'pt_mobilenetv3_small_100'
    model = jeffnet.create_model(name, 'nnx', weights=path)
    assert model.policy.bn_eps == 1e-3
    saved = jeffnet.save_weights(model, tmp_path / 'saved.safetensors')
    assert jeffnet.create_model(name, 'objax', weights=saved).policy.bn_eps == 1e-3
    assert jeffnet.create_model(name, weights=saved, bn_eps=1e-5)[0].policy.bn_eps == 1e-5
    assert jeffnet.create_model(name)[0].policy.bn_eps == 1e-5


def test_padding_of_another_kind_is_refused_although_all_shapes_fit(tmp_path, caplog):
    path = tmp_path / 'model.pth'
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), path)
    with pytest.raises(ValueError, match=r'pads as PyTorch does.*use pt_mobilenetv3_small_100'):
        jeffnet.create_model('tf_mobilenetv3_small_100', weights=path)
    jeffnet.create_model('tf_mobilenetv3_small_100', weights=path, strict=False)
    assert 'pads as PyTorch does' in caplog.text
    # The same of our own files, which say what they are.
    saved = jeffnet.save_weights(jeffnet.create_model('tf_mobilenetv3_small_100', 'nnx'), tmp_path / 'tf.safetensors')
    with pytest.raises(ValueError, match='is a checkpoint of tf_mobilenetv3_small_100, not of pt_mobilenetv3_small'):
        jeffnet.create_model('pt_mobilenetv3_small_100', weights=saved)


def test_a_torchvision_file_of_another_network(tmp_path):
    path = tmp_path / 'model.pth'
    torch.save(torchvision.models.mnasnet0_5().state_dict(), path)
    with pytest.raises(ValueError, match=r'does not fit pt_mnasnet_100: .* of another shape'):
        jeffnet.create_model('pt_mnasnet_100', weights=path)
    with pytest.raises(ValueError, match=r'does not fit pt_mixnet_s: .* missing'):
        jeffnet.create_model('pt_mixnet_s', weights=path)


# --- the predecessor

# Its names by the class of timm's module that holds the array: what its export of November 2020 wrote.
RENAMED = {
    'InvertedResidual': {'conv_pw': 'conv_exp', 'bn1': 'bn_exp', 'bn2': 'bn_dw', 'bn3': 'bn_pwl'},
    'EdgeResidual': {'bn1': 'bn_exp', 'bn2': 'bn_pwl'},
    'DepthwiseSeparableConv': {'bn1': 'bn_dw', 'bn2': 'bn_pw'},
    'ConvBnAct': {'bn1': 'bn'},
    'SqueezeExcite': {'conv_reduce': 'reduce', 'conv_expand': 'expand'},
    'EfficientNet': {
        'conv_stem': 'stem.conv', 'bn1': 'stem.bn', 'conv_head': 'head.conv_pw', 'bn2': 'head.bn',
        'classifier': 'head.classifier',
    },
}  # fmt: skip
RENAMED['MobileNetV3'] = RENAMED['EfficientNet']


def predecessor_name(network, name):
    """What the predecessor called an array of timm's network."""
    parts = name.split('.')
    for i in range(len(parts) - 1):
        parent = type(network.get_submodule('.'.join(parts[:i]))).__name__
        if parent in RENAMED and parts[i] in RENAMED[parent]:
            parts[i] = RENAMED[parent][parts[i]]
            break
    # A renamed squeeze-excite stands below the block, whose own table has no entry for `se`.
    return '.'.join(parts)


@pytest.mark.parametrize(
    'name', ['pt_mnasnet_small', 'tf_mixnet_s', 'tf_efficientnet_es', 'pt_fbnetc_100', 'tf_mobilenetv3_small_075']
)
def test_the_archives_of_the_predecessor(name, tmp_path):
    """Block by block, every kind: depthwise separable, inverted, edge, plain, MixConv, squeeze-excite, both heads."""
    network = torch_reference.reference(name)
    arrays = {k: v.numpy() for k, v in network.state_dict().items() if 'num_batches' not in k}
    names = [predecessor_name(network, k) for k in arrays]
    assert len(set(names)) == len(names) and 'stem.bn.running_var' in names
    path = tmp_path / 'model.npz'
    numbered = {str(i): array for i, array in enumerate(arrays.values())}
    np.savez(path, names=np.array(names), types=np.array(['Conv2d'] * len(names)), **numbered)
    module, variables = jeffnet.create_model(name, weights=path)
    state = judges.timm_state(module, variables)
    for key, array in arrays.items():
        np.testing.assert_array_equal(state[key], array)


def test_reading_is_reported_at_the_right_level(tmp_path, caplog):
    """What changes nothing is no warning: other tools treat warnings as incomplete weights."""
    path = tmp_path / 'model.pth'
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), path)
    with caplog.at_level(logging.DEBUG, 'jeffnet'):
        jeffnet.create_model('pt_mobilenetv3_small_100', weights=path)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
