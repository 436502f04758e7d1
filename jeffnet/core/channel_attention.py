"""Attention over channels: gates that are read from globally pooled features; `core/layers.py` has the first of them.

Papers: ECA-Net (Wang et al., arXiv 1910.03151); Selective Kernel Networks (Li et al., 1903.06586); ResNeSt, split
attention (Zhang et al., 2004.08955).
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jeffnet.core import initial
from jeffnet.core.activations import relu, sigmoid
from jeffnet.core.block import Block, Param
from jeffnet.core.layers import BatchNorm, Conv
from jeffnet.core.pooling import global_avg_pool


def reduced_width(value: float, divisor: int = 8, limit: float = 0.0) -> int:
    """The multiple of `divisor` nearest to `value`, one at least, and never less than the share `limit` of it."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < limit * value else rounded


def grouped_conv(in_features: int, out_features: int, kernel_size: int = 1, groups: int = 1, **options) -> Conv:
    """A convolution whose initial values have the fan-out of all groups together, as PyTorch counts."""
    init = initial.fan_out((kernel_size, kernel_size), out_features)
    return Conv(in_features, out_features, kernel_size, groups=groups, kernel_init=init, **options)


class EfficientChannelAttention(Block):
    """Gates from each channel's pooled value and those of its neighbours (Wang et al., 2019)."""

    size: int  # channels that a gate reads, an odd number
    gate: Callable = sigmoid

    def setup(self):
        self.conv = ChannelConv(self.size)

    def __call__(self, x):  # [N, H, W, C]
        gates = self.gate(self.conv(global_avg_pool(x).astype(x.dtype)))  # [N, C]
        return x * gates[:, None, None]


def eca_size(features: int) -> int:
    """How many channels a gate reads in a map of so many (Wang et al., 2019, equation 12), in timm's rounding."""
    size = int((math.log2(features) + 1) / 2)
    return max(size + (size + 1) % 2, 3)


class ChannelConv(Block):
    """One-dimensional convolution along the channels, zeros beyond them."""

    size: int

    def setup(self):
        self.kernel = Param((self.size, 1, 1), initial.Uniform(1 / math.sqrt(self.size)))  # PyTorch's own

    def __call__(self, x):  # [N, C]
        kernel = jnp.asarray(self.kernel, x.dtype)
        channels, side = x.shape[1], self.size // 2
        x = jnp.pad(x, ((0, 0), (side, side)))
        return sum(kernel[i, 0, 0] * x[:, i : i + channels] for i in range(self.size))


class ConvNorm(Block):
    """Convolution and batch norm."""

    in_features: int
    out_features: int
    kernel_size: int = 1
    stride: int = 1
    dilation: int = 1
    groups: int = 1

    def setup(self):
        options = {'stride': self.stride, 'dilation': self.dilation}
        self.conv = grouped_conv(self.in_features, self.out_features, self.kernel_size, self.groups, **options)
        self.bn = BatchNorm(self.out_features)

    def __call__(self, x, training=False):  # [N, H, W, in]
        return self.bn(self.conv(x), training)  # [N, H / stride, W / stride, out]


class SelectiveKernel(Block):
    """Convolutions of several dilations, of which each channel of each image takes its own mixture (Li et al., 2019).

    timm's form gives each of them an equal part of the input.
    """

    in_features: int
    out_features: int
    reduced: int  # width of the attention
    stride: int = 1
    dilations: tuple[int, ...] = (1, 2)  # of 3x3 convolutions
    groups: int = 1
    split_input: bool = True
    act: Callable = relu

    def setup(self):
        paths = len(self.dilations)
        width = self.in_features // paths if self.split_input else self.in_features
        self.paths = [ConvNorm(width, self.out_features, 3, self.stride, d, self.groups) for d in self.dilations]
        self.attn = SelectiveAttention(self.out_features, self.reduced, paths, self.act)

    def __call__(self, x, training=False):  # [N, H, W, in]
        inputs = jnp.split(x, len(self.paths), -1) if self.split_input else [x] * len(self.paths)
        maps = [self.act(path(each, training)) for path, each in zip(self.paths, inputs, strict=True)]
        shares = self.attn(sum(maps), training)  # [N, 1, 1, paths, out]
        return sum(each * shares[..., i, :] for i, each in enumerate(maps))  # [N, H / stride, W / stride, out]


class SelectiveAttention(Block):
    """Each channel's shares in several maps, from the pooled sum of these (Li et al., 2019)."""

    features: int
    reduced: int
    paths: int = 2
    act: Callable = relu

    def setup(self):
        self.fc_reduce, self.bn = Conv(self.features, self.reduced), BatchNorm(self.reduced)
        self.fc_select = Conv(self.reduced, self.paths * self.features)

    def __call__(self, x, training=False):  # [N, H, W, features]
        x = global_avg_pool(x, keepdims=True).astype(x.dtype)
        x = self.fc_select(self.act(self.bn(self.fc_reduce(x), training)))
        return jax.nn.softmax(x.reshape(*x.shape[:3], self.paths, self.features), axis=-2)


class SplitAttention(Block):
    """A 3x3 convolution into `radix` maps, and their sum, weighted by attention (Zhang et al., 2020)."""

    features: int
    reduced: int  # width of the attention
    radix: int = 2
    stride: int = 1
    dilation: int = 1
    groups: int = 1  # cardinality: groups of the input and of the attention
    act: Callable = relu

    def setup(self):
        maps, groups = self.features * self.radix, self.groups
        options = {'stride': self.stride, 'dilation': self.dilation}
        self.conv = grouped_conv(self.features, maps, 3, groups * self.radix, **options)
        self.bn0 = BatchNorm(maps)
        self.fc1, self.bn1 = biased_conv(self.features, self.reduced, groups), BatchNorm(self.reduced)
        self.fc2 = biased_conv(self.reduced, maps, groups)

    def __call__(self, x, training=False):  # [N, H, W, features]
        x = self.act(self.bn0(self.conv(x), training))
        x = x.reshape(*x.shape[:3], self.radix, self.features)  # [N, H / stride, W / stride, radix, features]
        pooled = global_avg_pool(x.sum(-2), keepdims=True).astype(x.dtype)
        gates = self.fc2(self.act(self.bn1(self.fc1(pooled), training)))
        return (x * self.shares(gates)).sum(-2)

    def shares(self, gates):
        """Each map's share `[N, 1, 1, radix, features]`, from gates that lie group by group, and in these by map."""
        if self.radix == 1:
            return sigmoid(gates)[..., None, :]
        by_group = gates.reshape(-1, 1, 1, self.groups, self.radix, self.features // self.groups)
        shares = jnp.swapaxes(jax.nn.softmax(by_group, axis=4), 3, 4)
        return shares.reshape(-1, 1, 1, self.radix, self.features)


def biased_conv(in_features: int, out_features: int, groups: int) -> Conv:
    """A 1x1 convolution with a bias that begins as PyTorch's own."""
    init = initial.Uniform(1 / math.sqrt(in_features / groups))
    return grouped_conv(in_features, out_features, groups=groups, use_bias=True, bias_init=init)
