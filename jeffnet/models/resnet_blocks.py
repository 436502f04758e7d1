"""The residual blocks of ResNet and its descendants, and how a network is made of them.

Names of attributes are timm's. A subclass of `Residual` declares and runs its branch; shortcut, channel attention and
stochastic depth are the same for all.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import field
from typing import ClassVar

import jax.numpy as jnp

from jeffnet.core import initial
from jeffnet.core.activations import relu
from jeffnet.core.block import Block
from jeffnet.core.channel_attention import EfficientChannelAttention, eca_size, grouped_conv, reduced_width
from jeffnet.core.layers import BatchNorm, Conv, Dropout, GroupNorm, SqueezeExcite
from jeffnet.core.pooling import avg_pool, blur_pool


class Design(Block):
    """What the blocks of one network have in common: fields of the network, which hands them on to its blocks."""

    act: Callable = field(default=relu, kw_only=True)
    conv_bias: bool = field(default=False, kw_only=True)
    group_norm: bool = field(default=False, kw_only=True)  # of 32 groups, in the place of batch norm
    stride_first: bool = field(default=False, kw_only=True)  # of bottlenecks: in their first 1x1 convolution
    cardinality: int = field(default=1, kw_only=True)  # groups of a bottleneck's 3x3 convolution (Xie et al., 2016)
    base_width: int = field(default=64, kw_only=True)  # channels of such a group in the first stage
    reduce_first: int = field(default=1, kw_only=True)  # by this the first 1x1 convolution is narrower
    down_size: int = field(default=1, kw_only=True)  # kernel of the convolution in a shortcut with a stride
    avg_down: bool = field(default=False, kw_only=True)  # an average pool in the shortcut has the stride
    pad_shortcut: bool = field(default=False, kw_only=True)  # shortcuts have no variables (He et al., option A)
    anti_alias: str = field(default='', kw_only=True)  # where a 3x3 convolution had a stride: 'avg', 'blur' (Zhang)
    se_ratio: float = field(default=0.0, kw_only=True)  # width of squeeze-and-excitation, as a share; 0: none
    eca: bool = field(default=False, kw_only=True)  # efficient channel attention
    zero_init_last: bool = field(default=True, kw_only=True)  # so that training begins with the shortcuts alone


class Residual(Design):
    """A branch beside a shortcut (He et al., 2015)."""

    expansion: ClassVar[int] = 1  # width of the output as a multiple of `features`
    in_features: int
    features: int
    stride: int = 1
    first_dilation: int = 1  # of the first 3x3 convolution
    dilation: int = 1  # of those that follow
    drop_rate: float = 0.0
    pruned: tuple[int, ...] = ()  # widths of the branch's convolutions that are not those of the design

    def setup(self):
        self.setup_branch()
        self.se = attention(self)
        self.downsample = projection(self)
        self.drop_path = Dropout(self.drop_rate, per_sample=True)

    def setup_branch(self):
        """Declares the convolutions and norms of the branch."""
        raise NotImplementedError

    def __call__(self, x, training=False):  # [N, H, W, in]
        shortcut = project(self, x, training)
        x = self.branch(x, training)
        x = x if self.se is None else self.se(x)
        return self.act(shortcut + self.drop_path(x, training))  # [N, H / stride, W / stride, out]

    def branch(self, x, training=False):
        """From `[N, H, W, in]` to `[N, H / stride, W / stride, out]`, without the last activation."""
        raise NotImplementedError

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels behind each convolution of the branch."""
        raise NotImplementedError


class Narrowing(Residual):
    """A branch that is narrow in the middle: 1x1, 3x3 and 1x1 convolution (He et al., 2015)."""

    expansion: ClassVar[int] = 4

    @property
    def widths(self) -> tuple[int, ...]:
        middle = self.features * self.base_width // 64 * self.cardinality
        return self.pruned or (middle // self.reduce_first, middle, self.features * self.expansion)


class BasicBlock(Residual):
    """Two 3x3 convolutions beside a shortcut (He et al., 2015)."""

    def setup_branch(self):
        first, out = self.widths
        stride = 1 if softens(self) else self.stride
        self.conv1, self.bn1 = conv(self, self.in_features, first, 3, stride, self.first_dilation), norm(self, first)
        self.conv2, self.bn2 = conv(self, first, out, 3, dilation=self.dilation), last_norm(self, out)

    def branch(self, x, training=False):
        x = self.act(self.bn1(self.conv1(x), training))  # [N, H / stride, W / stride, features]
        return self.bn2(self.conv2(soften(self, x)), training)

    @property
    def widths(self) -> tuple[int, ...]:
        return self.pruned or (self.features, self.features)


class Bottleneck(Narrowing):
    """1x1, 3x3 and 1x1 convolution, the middle ones narrow or in groups, beside a shortcut (He et al., 2015)."""

    def setup_branch(self):
        first, middle, out = self.widths
        strides = (self.stride, 1) if self.stride_first else (1, 1 if softens(self) else self.stride)
        self.conv1, self.bn1 = conv(self, self.in_features, first, 1, strides[0]), norm(self, first)
        self.conv2 = conv(self, first, middle, 3, strides[1], self.first_dilation, self.cardinality)
        self.bn2 = norm(self, middle)
        self.conv3, self.bn3 = conv(self, middle, out), last_norm(self, out)

    def branch(self, x, training=False):
        x = self.act(self.bn1(self.conv1(x), training))  # [N, H, W, first], or already of the size to come
        x = self.act(self.bn2(self.conv2(x), training))  # [N, H / stride, W / stride, middle]
        return self.bn3(self.conv3(soften(self, x)), training)


# ------------------------------------------------------------------------------------------------- parts of a block


def conv(block, in_features, out_features, size=1, stride=1, dilation=1, groups=1) -> Conv:
    """A convolution of a block."""
    options = {'stride': stride, 'dilation': dilation, 'use_bias': block.conv_bias}
    return grouped_conv(in_features, out_features, size, groups, **options)


def norm(design, features: int, scale_init: Callable = initial.ones) -> BatchNorm | GroupNorm:
    """A norm of the kind that the network has."""
    return (GroupNorm if design.group_norm else BatchNorm)(features, scale_init=scale_init)


def last_norm(block, features: int) -> BatchNorm | GroupNorm:
    """The norm at the end of a branch."""
    return norm(block, features, initial.zeros if block.zero_init_last else initial.ones)


def attention(block) -> Block | None:
    """The channel attention at the end of a branch."""
    out = block.widths[-1]
    if block.se_ratio:
        return SqueezeExcite(out, reduced_width(out * block.se_ratio), zero_bias=False)
    if block.eca:
        return EfficientChannelAttention(eca_size(block.features * block.expansion))  # pruned networks keep their size
    return None


def softens(block) -> bool:
    """Whether a low-pass filter stands behind the 3x3 convolution, and has the stride."""
    return bool(block.anti_alias) and (block.stride > 1 or block.first_dilation != block.dilation)


def soften(block, x):
    """The low-pass filter. timm's average pools leave out what is odd, so that its networks take even sizes only."""
    if not softens(block):
        return x
    if block.anti_alias == 'blur':
        return blur_pool(x, block.stride)
    return avg_pool(x, block.stride, block.stride, ceil_mode=True)


def projection(block) -> list[Block | None] | None:
    """The convolution and norm of a shortcut whose shape must change, else None.

    As in timm's list, an average pool comes first, which has no variables.
    """
    width, out = block.in_features, block.widths[-1]
    if block.pad_shortcut or (block.stride == 1 and width == out):
        return None
    if block.avg_down:
        return [None, conv(block, width, out), norm(block, out)]
    size = 1 if block.stride == 1 and block.dilation == 1 else block.down_size
    dilation = block.first_dilation if size > 1 else 1
    return [conv(block, width, out, size, block.stride, dilation), norm(block, out)]


def project(block, x, training):
    """The shortcut `[N, H / stride, W / stride, out]` of `x` `[N, H, W, in]`."""
    if block.downsample is not None:
        *_, conv, norm = block.downsample
        return norm(conv(pool_shortcut(block, x)), training)
    if block.pad_shortcut:  # as many zeros before the channels as behind them
        extra = block.widths[-1] - block.in_features
        x = x[:, :: block.stride, :: block.stride]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2)))
    return x


def pool_shortcut(block, x):
    """What comes before the convolution of a shortcut."""
    if not block.avg_down or (block.stride == 1 and block.dilation == 1):
        return x
    if block.stride > 1:
        return avg_pool(x, 2, block.stride, ceil_mode=True)
    return avg_pool(x, 2, 1, padding='SAME', count_padding=True)


# ------------------------------------------------------------------------------------------------ blocks of a network

Stages = tuple[tuple[type[Residual], int, int], ...]  # block, repeats, features
Pruned = tuple[tuple[int, tuple[tuple[int, ...], ...]], ...]  # per stage: its output, and each block's other widths


def stages(block: type[Residual], *repeats: int, first: int = 64) -> Stages:
    """The stages of the paper's Table 1, each twice as wide as the one before."""
    return tuple((block, n, first * 2**i) for i, n in enumerate(repeats))


def level_widths(model) -> list[int]:
    """Channels of the stem and behind each stage."""
    if model.pruned:
        return [model.stem, *(out for out, _ in model.pruned)]
    return [model.stem, *(features * block.expansion for block, _, features in model.stages)]


def build_stages(model) -> list[list[Residual]]:
    """The blocks of a network, stage by stage; strides beyond `output_stride` become dilations."""
    found, index = [], 0
    last = sum(repeats for _, repeats, _ in model.stages) - 1
    for i, (block, repeats, features) in enumerate(model.stages):
        shared = {f.name: getattr(model, f.name) for f in dataclasses.fields(block) if f.kw_only}
        reduction = model.stem_stride * 2**i  # of an undilated network
        dilation, before = (max(1, full // model.output_stride) for full in (reduction, reduction // 2))
        width, out = level_widths(model)[i : i + 2]
        found.append([])
        for j in range(repeats):
            stride = 1 if i == 0 or j or dilation > 1 else 2
            options = {'first_dilation': dilation if j else before, 'dilation': dilation, **shared}
            if model.pruned:
                options['pruned'] = (*model.pruned[i][1][j], out)
            rate = model.drop_path_rate * index / last
            found[-1].append(block(out if j else width, features, stride, drop_rate=rate, **options))
            index += 1
    return found
