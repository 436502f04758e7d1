"""Layers in plain NumPy, float64, and what runs one of our blocks beside them."""

import numpy as np

import jeffnet
from jeffnet.core.block import PYTORCH, declarations


def values_of(block, seed=0):
    """Random values of all arrays of a block, by flat name, float32."""
    rng = np.random.default_rng(seed)
    shapes = {name: declared.shape for name, declared in declarations(block).items()}
    values = {}
    for name, shape in shapes.items():
        size = np.prod(shape[:-1]) ** -0.5 if name.endswith('kernel') else 0.5
        values[name] = (size * rng.standard_normal(shape)).astype(np.float32)
    return values


def run(block, values, x, policy=PYTORCH):
    """What a block makes of `x`."""
    module = jeffnet.linen.build(block, policy)
    return module.apply(jeffnet.linen.variables_of(block, policy, values), x)


def pointwise(x, values, name):
    """1x1 convolution of `x` [N, H, W, I]."""
    return x @ values[f'{name}.kernel'][0, 0].astype(float) + values[f'{name}.bias']


def depthwise(x, values, name, dilation=1):
    """A convolution of each channel of `x` [N, H, W, C] by itself that keeps the size."""
    kernel, (_, height, width, _) = values[f'{name}.kernel'][:, :, 0].astype(float), x.shape
    pad = dilation * (len(kernel) // 2)
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    out = np.zeros(x.shape) + values.get(f'{name}.bias', 0.0)
    for i, row in enumerate(kernel):
        for j, weights in enumerate(row):
            top, left = dilation * i, dilation * j
            out += padded[:, top : top + height, left : left + width] * weights
    return out


def layer_norm(x, values, name):
    """Layer norm of the channels of `x` [N, H, W, C]."""
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-6) * values[f'{name}.scale'] + values[f'{name}.bias']
