"""PyTorch networks as the judges, timm's or where it has none our own: random arrays, their file, logits."""

import zlib
from pathlib import Path
from unittest import mock

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from timm import layers

import jeffnet
from benchmarks import hornet_van_reference, torch_networks
from jeffnet.models.table import network_of

# One thread: beside JAX's own threads and other processes, PyTorch's spin for each other and take many times as long.
torch.set_num_threads(1)

LINEAR = (torch.nn.Conv2d, torch.nn.Linear)
NORMS = (
    torch.nn.BatchNorm2d, torch.nn.LayerNorm, torch.nn.GroupNorm, layers.EvoNorm2dS0, layers.FilterResponseNormTlu2d
)  # fmt: skip


def reference(name: str, **options) -> torch.nn.Module:
    """The network of a name, randomised, in evaluation mode."""
    torch.manual_seed(zlib.crc32(name.encode()))
    return randomise(network(name, **options))


def network(name: str, **options) -> torch.nn.Module:
    """timm's network of a name with the head of its weights, or, where timm has none, that of our own modules."""
    info = jeffnet.model_info(name)
    classes = network_of(info).num_classes  # -1: pooled features, which timm calls 0
    options = {'num_classes': max(classes, 0), **options}
    if info.file in ('hornet', 'van'):
        return hornet_van_reference.create(info.arch, **options)
    if not info.in_timm:
        return torch_networks.create(name, **options)
    model = timm.create_model(info.timm, **options)
    if classes == 0:  # the final feature map
        model.head = torch.nn.Identity()
        model.forward = lambda x: model.forward_features(x).permute(0, 2, 3, 1)
    return model


def randomise(model: torch.nn.Module, size: int = 128) -> torch.nn.Module:
    """Draws every array so that no default zero or one hides a mistake, and the output depends on the input.

    Fan-in-scaled kernels; random scales and biases; batch-norm statistics measured on random images, layer by layer,
    each perturbed before the next is measured. Two things keep deep networks from being chaotic, as training does: the
    scales (or kernels) at the end of residual branches are small, and no channel's variance is far below the others'.
    """
    hooks = []
    for module in model.modules():
        if isinstance(module, LINEAR):
            torch.nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                torch.nn.init.normal_(module.bias, 0, 0.5)
        elif isinstance(module, NORMS):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
            if isinstance(module, torch.nn.BatchNorm2d):
                hooks.append(module.register_forward_pre_hook(_calibrate))
        for kind, parameter in module.named_parameters(recurse=False):
            _draw_other(module, kind, parameter)
    for block in model.modules():
        if getattr(block, 'has_skip', False) or hasattr(block, 'zero_init_last'):
            _shrink_branch(block)
    model.eval()
    if hooks:
        first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
        with torch.no_grad():
            model(torch.randn(8, first.in_channels, size, size))
    for hook in hooks:
        hook.remove()
    return model


def _draw_other(module: torch.nn.Module, kind: str, parameter: torch.nn.Parameter):
    """Draws what is neither a kernel nor a usual norm's: tokens, positions, filters, gains, slopes, small scales."""
    if parameter.ndim == 3 or (parameter.ndim > 3 and kind != 'weight'):
        torch.nn.init.normal_(parameter, 0, 0.5)
    elif parameter.ndim == 1 and not isinstance(module, LINEAR):
        if isinstance(module, NORMS) and kind in ('weight', 'bias'):
            return
        if kind.endswith('bias'):
            torch.nn.init.normal_(parameter, 0, 0.3)
        elif kind.endswith('weight'):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        elif parameter.abs().max() < 0.1:  # the scale of a residual branch
            torch.nn.init.uniform_(parameter, 0.2, 0.6)
        else:  # slopes, thresholds
            parameter.data += 0.3 * torch.randn_like(parameter)


@torch.no_grad()
def _shrink_branch(block: torch.nn.Module):
    """Makes the end of a residual branch small: what timm can begin with zeros, or else the last layer of its kind."""
    ends = []
    if hasattr(block, 'zero_init_last'):
        block.zero_init_last()  # of what has just been drawn, only this is zero
        ends = [parameter for parameter in block.parameters() if parameter.numel() and not parameter.any()]
    if not ends:
        own = [(name, m) for name, m in block.named_modules() if not name.startswith('downsample')]
        norms, convs = ([m for _, m in own if isinstance(m, kind)] for kind in (NORMS, torch.nn.Conv2d))
        ends = [(norms or convs)[-1].weight]
    for end in ends:
        if end.ndim == 1:
            torch.nn.init.uniform_(end, 0.2, 0.6)
        else:
            torch.nn.init.kaiming_normal_(end).mul_(0.4)


def _calibrate(norm: torch.nn.BatchNorm2d, inputs):
    """Sets the statistics of a batch norm to those of its input, perturbed."""
    var, mean = torch.var_mean(inputs[0], (0, 2, 3))
    norm.running_mean.copy_(mean + 0.2 * var.sqrt() * torch.randn_like(mean))
    norm.running_var.copy_((var + 0.5 * var.mean()) * torch.exp(0.3 * torch.randn_like(var)))


def save_weights(model: torch.nn.Module, path: Path) -> Path:
    """Writes the model's state dict as a .safetensors file."""
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return path


@torch.no_grad()
def torch_logits(model: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    """The logits of NHWC images, in the type of `x`, which some of timm's norms would leave for float32."""
    images = torch.from_numpy(x).permute(0, 3, 1, 2)
    own = torch.Tensor.double if x.dtype == np.float64 else torch.Tensor.float
    with mock.patch.object(torch.Tensor, 'float', own):
        return model.to(images.dtype)(images).numpy()
