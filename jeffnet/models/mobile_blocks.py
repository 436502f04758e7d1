"""The blocks of mobile networks, shared by EfficientNet, MobileNets, MNASNet, MixNet, FBNet and their relatives."""

from collections.abc import Callable
from dataclasses import field
from functools import partial

from jeffnet.core.activations import identity, relu
from jeffnet.core.block import Block, Padding
from jeffnet.core.layers import BatchNorm, Conv, Dropout, GroupNorm, LayerNorm, MixedConv
from jeffnet.core.pooling import avg_pool, blur_pool
from jeffnet.models.mobile_squeeze import Squeeze

Kernel = int | tuple[int, ...]  # several sizes: a MixConv


def conv(
    in_features: int,
    out_features: int,
    kernel_size: Kernel = 1,
    stride: int = 1,
    dilation: int = 1,
    group_size: int = 0,
    padding: Padding | None = None,
) -> Block:
    """A convolution, or a MixConv if there are several kernel sizes; `group_size` 0 is dense, 1 depthwise."""
    if isinstance(kernel_size, tuple):
        return MixedConv(in_features, out_features, kernel_size, stride, dilation, depthwise=group_size > 0)
    groups = out_features // group_size if group_size else 1
    return Conv(in_features, out_features, kernel_size, stride, dilation, groups, padding)


# What stands in the place of a stride, against aliasing (`pool` of blocks; `identity` leaves the stride alone).


dark_blur_pool = partial(blur_pool, borders='constant')  # zeros around, as timm here


def mean_pool(x):
    """Means of two by two pixels; a last odd one is left out."""
    return avg_pool(x, 2, 2)


# What stands in the place of batch norm (`norm` of blocks).


def group_norm_8(features: int) -> Block:
    """Group norm over groups of 8 channels."""
    return GroupNorm(features, features // 8)


def group_norm_16(features: int) -> Block:
    """Group norm over groups of 16 channels."""
    return GroupNorm(features, features // 16)


class PixelNorm(LayerNorm):
    """Layer norm of each pixel's channels, where a batch norm is called with `training`."""

    eps: float = 1e-5

    def __call__(self, x, training=False):  # [N, H, W, features]
        return super().__call__(x)


class MobileBlock(Block):
    """What all blocks have in common."""

    in_features: int
    out_features: int
    kernel_size: Kernel = field(default=3, kw_only=True)
    stride: int = field(default=1, kw_only=True)
    dilation: int = field(default=1, kw_only=True)
    act: Callable = field(default=relu, kw_only=True)
    skip: bool = field(default=True, kw_only=True)  # add the input where the shapes allow it
    drop_rate: float = field(default=0.0, kw_only=True)
    norm: Callable = field(default=BatchNorm, kw_only=True)
    pool: Callable = field(default=identity, kw_only=True)

    @property
    def conv_stride(self) -> int:
        """The stride that is left for a convolution."""
        return self.stride if self.pool is identity else 1

    def pooled(self, x):
        """`x` `[N, H, W, C]` in the size of the output, behind a convolution with `conv_stride`."""
        return self.pool(x) if self.stride > 1 else x

    def add(self, shortcut, x, training):
        """`x`, the output of the branch, and the input of the block if that counts."""
        if self.skip and self.stride == 1 and self.in_features == self.out_features:
            return shortcut + self.drop_path(x, training)
        return x


class ConvBnAct(MobileBlock):
    """Convolution, batch norm, activation; EfficientNetV2 adds the input (Tan & Le, 2021)."""

    def setup(self):
        self.conv = conv(self.in_features, self.out_features, self.kernel_size, self.conv_stride, self.dilation)
        self.bn1 = self.norm(self.out_features)
        self.drop_path = Dropout(self.drop_rate, per_sample=True)

    def __call__(self, x, training=False):  # [N, H, W, in]
        shortcut = x
        x = self.pooled(self.act(self.bn1(self.conv(x), training)))  # [N, H / stride, W / stride, out]
        return self.add(shortcut, x, training)


class DepthwiseSeparable(MobileBlock):
    """Depthwise k x k, squeeze-excite, project 1x1 (Howard et al., 2017).

    `space_to_depth` has the stride in a 2x2 convolution before, with four times the channels (Li et al., 2021).
    """

    squeeze: Squeeze | None = None
    act_last: bool = False
    group_size: int = 1
    space_to_depth: bool = False
    padding: Padding | None = None  # of the depthwise convolution; None: the policy's

    def setup(self):
        width, stride, size, padding = self.in_features, self.conv_stride, self.kernel_size, self.padding
        if self.space_to_depth:
            width, stride, size = 4 * width, 1, (self.kernel_size + 1) // 2
            padding = 'SAME' if size == 2 else padding
            self.conv_s2d, self.bn_s2d = conv(self.in_features, width, 2, 2, padding='SAME'), self.norm(width)
        self.conv_dw = conv(width, width, size, stride, self.dilation, self.group_size, padding)
        self.bn1 = self.norm(width)
        self.se = self.squeeze(width) if self.squeeze else None
        self.conv_pw, self.bn2 = conv(width, self.out_features), self.norm(self.out_features)
        self.drop_path = Dropout(self.drop_rate, per_sample=True)

    def __call__(self, x, training=False):  # [N, H, W, in]
        shortcut = x
        if self.space_to_depth:
            x = self.act(self.bn_s2d(self.conv_s2d(x), training))  # [N, H / 2, W / 2, 4 in]
            x = self.act(self.bn1(self.conv_dw(x), training))
        else:
            x = self.pooled(self.act(self.bn1(self.conv_dw(x), training)))  # [N, H / stride, W / stride, in]
        x = x if self.se is None else self.se(x)
        x = self.bn2(self.conv_pw(x), training)  # [N, H / stride, W / stride, out]
        return self.add(shortcut, self.act(x) if self.act_last else x, training)


class InvertedResidual(MobileBlock):
    """Expand 1x1, depthwise k x k, squeeze-excite, project 1x1 (Sandler et al., 2018)."""

    mid_features: int
    expand_kernel: Kernel = 1
    project_kernel: Kernel = 1
    squeeze: Squeeze | None = None
    group_size: int = 1

    def setup(self):
        mid, out = self.mid_features, self.out_features
        self.conv_pw, self.bn1 = conv(self.in_features, mid, self.expand_kernel), self.norm(mid)
        self.conv_dw = conv(mid, mid, self.kernel_size, self.conv_stride, self.dilation, self.group_size)
        self.bn2 = self.norm(mid)
        self.se = self.squeeze(mid) if self.squeeze else None
        self.conv_pwl, self.bn3 = conv(mid, out, self.project_kernel), self.norm(out)
        self.drop_path = Dropout(self.drop_rate, per_sample=True)

    def __call__(self, x, training=False):  # [N, H, W, in]
        shortcut = x
        x = self.act(self.bn1(self.conv_pw(x), training))  # [N, H, W, mid]
        x = self.pooled(self.act(self.bn2(self.conv_dw(x), training)))  # [N, H / stride, W / stride, mid]
        x = x if self.se is None else self.se(x)
        x = self.bn3(self.conv_pwl(x), training)  # [N, H / stride, W / stride, out]
        return self.add(shortcut, x, training)


class EdgeResidual(MobileBlock):
    """Expand k x k, squeeze-excite, project 1x1, where depthwise convolutions are slow (Gupta & Akin, 2020)."""

    mid_features: int
    squeeze: Squeeze | None = None
    group_size: int = 0  # of the first convolution; 0: all channels
    stride_in_projection: bool = False  # the released TensorFlow weights; with SAME padding it moves the sampling grid

    def setup(self):
        first, last = (1, self.stride) if self.stride_in_projection else (self.conv_stride, 1)
        mid, out = self.mid_features, self.out_features
        self.conv_exp = conv(self.in_features, mid, self.kernel_size, first, self.dilation, self.group_size)
        self.bn1 = self.norm(mid)
        self.se = self.squeeze(mid) if self.squeeze else None
        self.conv_pwl, self.bn2 = conv(mid, out, 1, last), self.norm(out)
        self.drop_path = Dropout(self.drop_rate, per_sample=True)

    def __call__(self, x, training=False):  # [N, H, W, in]
        shortcut = x
        x = self.pooled(self.act(self.bn1(self.conv_exp(x), training)))  # [N, H', W', mid]
        x = x if self.se is None else self.se(x)
        x = self.bn2(self.conv_pwl(x), training)  # [N, H / stride, W / stride, out]
        return self.add(shortcut, x, training)


class ConvNorm(MobileBlock):
    """Convolution, batch norm, and an activation unless that is the identity, as a part of a block."""

    group_size: int = 0

    def setup(self):
        width, size = self.out_features, (self.kernel_size, self.conv_stride, self.dilation, self.group_size)
        self.conv, self.bn = conv(self.in_features, width, *size), self.norm(width)

    def __call__(self, x, training=False):  # [N, H, W, in]
        return self.pooled(self.act(self.bn(self.conv(x), training)))  # [N, H / stride, W / stride, out]


class UniversalInvertedResidual(MobileBlock):
    """Depthwise, expand 1x1, depthwise, project 1x1, either depthwise left out if its kernel size is 0.

    So it is an inverted residual, a ConvNeXt block, a perceptron, or none of them (Qin et al., 2024).
    """

    mid_features: int
    start_kernel: int = 0

    def setup(self):
        mid, same = self.mid_features, {'norm': self.norm, 'pool': self.pool}
        self.dw_start = self.depthwise(self.in_features, self.start_kernel, 1 if self.kernel_size else self.stride)
        self.pw_exp = ConvNorm(self.in_features, mid, kernel_size=1, act=self.act, **same)
        self.dw_mid = self.depthwise(mid, self.kernel_size, self.stride, self.act)
        self.pw_proj = ConvNorm(mid, self.out_features, kernel_size=1, act=identity, **same)
        self.drop_path = Dropout(self.drop_rate, per_sample=True)

    def depthwise(self, width: int, kernel_size: int, stride: int, act: Callable = identity) -> Block | None:
        """A depthwise convolution with its norm, or None for a kernel size of 0."""
        if not kernel_size:
            return None
        options = {'dilation': self.dilation, 'norm': self.norm, 'pool': self.pool, 'group_size': 1}
        return ConvNorm(width, width, kernel_size=kernel_size, stride=stride, act=act, **options)

    def __call__(self, x, training=False):  # [N, H, W, in]
        shortcut = x
        x = x if self.dw_start is None else self.dw_start(x, training)
        x = self.pw_exp(x, training)  # [N, H', W', mid]
        x = x if self.dw_mid is None else self.dw_mid(x, training)
        return self.add(shortcut, self.pw_proj(x, training), training)  # [N, H / stride, W / stride, out]
