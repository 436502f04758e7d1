"""The blocks of mobile networks, shared by EfficientNet, MobileNets, MNASNet, MixNet, FBNet and their relatives."""

from collections.abc import Callable
from dataclasses import dataclass

from jeffnet.core.activations import relu
from jeffnet.core.block import Block, Padding
from jeffnet.core.layers import BatchNorm, Conv, Dropout, MixedConv, SqueezeExcite

Kernel = int | tuple[int, ...]  # several sizes: a MixConv


def conv(
    in_features: int,
    out_features: int,
    kernel_size: Kernel = 1,
    stride: int = 1,
    dilation: int = 1,
    depthwise: bool = False,
    padding: Padding | None = None,
) -> Block:
    """A convolution, or a MixConv if there are several kernel sizes."""
    if isinstance(kernel_size, tuple):
        return MixedConv(in_features, out_features, kernel_size, stride, dilation, depthwise)
    groups = in_features if depthwise else 1
    return Conv(in_features, out_features, kernel_size, stride, dilation, groups, padding)


@dataclass(frozen=True)
class Squeeze:
    """Settings of a squeeze-and-excitation, apart from the width it is applied to."""

    reduced: int
    act: Callable
    gate: Callable


class DepthwiseSeparable(Block):
    """Depthwise k x k, squeeze-excite, project 1x1 (Howard et al., 2017)."""

    in_features: int
    out_features: int
    kernel_size: Kernel = 3
    stride: int = 1
    dilation: int = 1
    squeeze: Squeeze | None = None
    act: Callable = relu
    skip: bool = True
    drop_rate: float = 0.0
    act_last: bool = False
    padding: Padding | None = None  # of the depthwise convolution; None: the policy's

    def setup(self):
        width = self.in_features
        self.conv_dw = conv(width, width, self.kernel_size, self.stride, self.dilation, True, self.padding)
        self.bn1 = BatchNorm(width)
        self.se = SqueezeExcite(width, **vars(self.squeeze)) if self.squeeze else None
        self.conv_pw, self.bn2 = conv(width, self.out_features), BatchNorm(self.out_features)
        self.drop_path = Dropout(self.drop_rate, per_sample=True)

    def __call__(self, x, training=False):  # [N, H, W, in]
        shortcut = x
        x = self.act(self.bn1(self.conv_dw(x), training))  # [N, H / stride, W / stride, in]
        if self.se is not None:
            x = self.se(x)
        x = self.bn2(self.conv_pw(x), training)  # [N, H / stride, W / stride, out]
        x = self.act(x) if self.act_last else x
        return shortcut + self.drop_path(x, training) if has_skip(self) else x


class InvertedResidual(Block):
    """Expand 1x1, depthwise k x k, squeeze-excite, project 1x1 (Sandler et al., 2018)."""

    in_features: int
    out_features: int
    mid_features: int
    kernel_size: Kernel = 3
    expand_kernel: Kernel = 1
    project_kernel: Kernel = 1
    stride: int = 1
    dilation: int = 1
    squeeze: Squeeze | None = None
    act: Callable = relu
    skip: bool = True
    drop_rate: float = 0.0

    def setup(self):
        mid = self.mid_features
        self.conv_pw, self.bn1 = conv(self.in_features, mid, self.expand_kernel), BatchNorm(mid)
        self.conv_dw = conv(mid, mid, self.kernel_size, self.stride, self.dilation, depthwise=True)
        self.bn2 = BatchNorm(mid)
        self.se = SqueezeExcite(mid, **vars(self.squeeze)) if self.squeeze else None
        self.conv_pwl, self.bn3 = conv(mid, self.out_features, self.project_kernel), BatchNorm(self.out_features)
        self.drop_path = Dropout(self.drop_rate, per_sample=True)

    def __call__(self, x, training=False):  # [N, H, W, in]
        shortcut = x
        x = self.act(self.bn1(self.conv_pw(x), training))  # [N, H, W, mid]
        x = self.act(self.bn2(self.conv_dw(x), training))  # [N, H / stride, W / stride, mid]
        if self.se is not None:
            x = self.se(x)
        x = self.bn3(self.conv_pwl(x), training)  # [N, H / stride, W / stride, out]
        return shortcut + self.drop_path(x, training) if has_skip(self) else x


class EdgeResidual(Block):
    """Expand k x k, project 1x1, for accelerators that dislike depthwise convolutions (Gupta & Akin, 2020)."""

    in_features: int
    out_features: int
    mid_features: int
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    act: Callable = relu
    skip: bool = True
    drop_rate: float = 0.0
    stride_in_projection: bool = False  # the released TensorFlow weights; with SAME padding it moves the sampling grid

    def setup(self):
        first, last = (1, self.stride) if self.stride_in_projection else (self.stride, 1)
        mid = self.mid_features
        self.conv_exp = conv(self.in_features, mid, self.kernel_size, first, self.dilation)
        self.bn1 = BatchNorm(mid)
        self.conv_pwl, self.bn2 = conv(mid, self.out_features, 1, last), BatchNorm(self.out_features)
        self.drop_path = Dropout(self.drop_rate, per_sample=True)

    def __call__(self, x, training=False):  # [N, H, W, in]
        shortcut = x
        x = self.act(self.bn1(self.conv_exp(x), training))  # [N, H', W', mid]
        x = self.bn2(self.conv_pwl(x), training)  # [N, H / stride, W / stride, out]
        return shortcut + self.drop_path(x, training) if has_skip(self) else x


class ConvBnAct(Block):
    """Convolution, batch norm, activation; EfficientNetV2 adds the input (Tan & Le, 2021)."""

    in_features: int
    out_features: int
    kernel_size: int = 1
    stride: int = 1
    dilation: int = 1
    act: Callable = relu
    skip: bool = False
    drop_rate: float = 0.0

    def setup(self):
        self.conv = conv(self.in_features, self.out_features, self.kernel_size, self.stride, self.dilation)
        self.bn1 = BatchNorm(self.out_features)
        self.drop_path = Dropout(self.drop_rate, per_sample=True)

    def __call__(self, x, training=False):  # [N, H, W, in]
        shortcut = x
        x = self.act(self.bn1(self.conv(x), training))  # [N, H / stride, W / stride, out]
        return shortcut + self.drop_path(x, training) if has_skip(self) else x


def has_skip(block) -> bool:
    """Whether a block adds its input to its output."""
    return block.skip and block.stride == 1 and block.in_features == block.out_features
