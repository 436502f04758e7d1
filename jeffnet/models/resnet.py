"""ResNet: residual networks of basic or bottleneck blocks, in the forms of PyTorch and of Keras.

A bottleneck has its stride in the 3x3 convolution, as timm and torchvision (v1.5), or in the first 1x1, as the paper
and Keras (v1), where every convolution has a bias too. Papers: ResNet (He et al., arXiv 1512.03385); ResNet strikes
back, on the a1, a2 and a3 weights (Wightman et al., 2110.00476).
"""

import math
from collections.abc import Callable
from dataclasses import field
from functools import partial
from typing import ClassVar

from jax.ad_checkpoint import checkpoint_name

from jeffnet.core import initial
from jeffnet.core.activations import relu
from jeffnet.core.block import Block
from jeffnet.core.inputs import check_images
from jeffnet.core.layers import BatchNorm, Conv, Dropout, Linear, at_least_float32
from jeffnet.core.pooling import global_avg_pool, max_pool


class BasicBlock(Block):
    """Two 3x3 convolutions beside a shortcut (He et al., 2015)."""

    expansion: ClassVar[int] = 1  # width of the output as a multiple of `features`
    in_features: int
    features: int
    stride: int = 1
    first_dilation: int = 1  # of the first 3x3 convolution
    dilation: int = 1  # of the second
    act: Callable = relu
    drop_rate: float = 0.0
    conv_bias: bool = False

    def setup(self):
        width, bias = self.features, {'use_bias': self.conv_bias}
        self.conv1 = Conv(self.in_features, width, 3, self.stride, self.first_dilation, **bias)
        self.bn1 = BatchNorm(width)
        self.conv2 = Conv(width, width, 3, dilation=self.dilation, **bias)
        self.bn2 = BatchNorm(width, scale_init=initial.zeros)  # so that training begins with the shortcuts alone
        self.downsample = projection(self)
        self.drop_path = Dropout(self.drop_rate, per_sample=True)

    def __call__(self, x, training=False):  # [N, H, W, in]
        shortcut = project(self.downsample, x, training)
        x = self.act(self.bn1(self.conv1(x), training))  # [N, H / stride, W / stride, features]
        x = self.bn2(self.conv2(x), training)
        return self.act(shortcut + self.drop_path(x, training))


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolution, the middle ones narrow, beside a shortcut (He et al., 2015)."""

    expansion: ClassVar[int] = 4  # width of the output as a multiple of `features`
    in_features: int
    features: int
    stride: int = 1
    first_dilation: int = 1  # of the 3x3 convolution
    dilation: int = 1  # unused, there is but one; so that all blocks are built alike
    act: Callable = relu
    drop_rate: float = 0.0
    conv_bias: bool = False
    stride_first: bool = False  # in the first 1x1 convolution, not in the 3x3

    def setup(self):
        width, out, bias = self.features, self.features * self.expansion, {'use_bias': self.conv_bias}
        first, middle = (self.stride, 1) if self.stride_first else (1, self.stride)
        self.conv1, self.bn1 = Conv(self.in_features, width, 1, first, **bias), BatchNorm(width)
        self.conv2, self.bn2 = Conv(width, width, 3, middle, self.first_dilation, **bias), BatchNorm(width)
        self.conv3 = Conv(width, out, **bias)
        self.bn3 = BatchNorm(out, scale_init=initial.zeros)  # so that training begins with the shortcuts alone
        self.downsample = projection(self)
        self.drop_path = Dropout(self.drop_rate, per_sample=True)

    def __call__(self, x, training=False):  # [N, H, W, in]
        shortcut = project(self.downsample, x, training)
        x = self.act(self.bn1(self.conv1(x), training))  # [N, H, W, features], or already of the size to come
        x = self.act(self.bn2(self.conv2(x), training))  # [N, H / stride, W / stride, features]
        x = self.bn3(self.conv3(x), training)  # [N, H / stride, W / stride, 4 features]
        return self.act(shortcut + self.drop_path(x, training))


def projection(block) -> list[Block] | None:
    """The 1x1 convolution and batch norm of a shortcut whose shape must change, else None."""
    out = block.features * block.expansion
    if block.stride == 1 and block.in_features == out:
        return None
    return [Conv(block.in_features, out, 1, block.stride, use_bias=block.conv_bias), BatchNorm(out)]


def project(downsample, x, training):
    """The shortcut `[N, H / stride, W / stride, out]` of `x` `[N, H, W, in]`."""
    if downsample is None:
        return x
    conv, norm = downsample
    return norm(conv(x), training)


Stages = tuple[tuple[type[Block], int, int], ...]  # four of them: block, repeats, features


class ResNet(Block):
    """7x7 convolution, max pooling, four stages of residual blocks, average pooling, classifier (He et al., 2015)."""

    stages: Stages = field(repr=False)
    stem: int = 64
    act: Callable = relu
    conv_bias: bool = False
    stride_first: bool = False  # of bottlenecks: in their first 1x1 convolution
    num_classes: int = 1000  # 0: the final feature map; -1: everything but the classifier
    in_chans: int = 3
    out_indices: tuple[int, ...] | None = None  # return these levels of `feature_info` instead
    output_stride: int = 32
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    variant: str | None = field(default=None, repr=False, compare=False)  # its name in the table, for saved files

    def setup(self):
        self.conv1 = Conv(self.in_chans, self.stem, 7, 2, use_bias=self.conv_bias)
        self.bn1 = BatchNorm(self.stem)
        self.layer1, self.layer2, self.layer3, self.layer4 = build_stages(self)
        if self.out_indices is None and self.num_classes > 0:
            width = level_widths(self)[-1]
            init = initial.Uniform(1 / math.sqrt(width))  # PyTorch's own, of kernel and bias
            self.dropout = Dropout(self.drop_rate)
            self.fc = Linear(width, self.num_classes, kernel_init=init, bias_init=init)

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        x = check_images(x, self.in_chans, smallest=self.output_stride)
        x = self.tap('stage_0', self.act(self.bn1(self.conv1(x), training)))  # [N, H / 2, W / 2, stem]
        levels = [x]
        x = max_pool(x, 3, 2, padding=1)  # [N, H / 4, W / 4, stem]
        for i, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4)):
            for block in stage:
                x = checkpoint_name(block(x, training), 'block')  # what `remat` keeps
            levels.append(self.tap(f'stage_{i + 1}', x))
        if self.out_indices is not None:
            return [levels[i] for i in self.out_indices]
        return x if self.num_classes == 0 else self.classify(global_avg_pool(x), training)

    def classify(self, x, training=False):
        """From pooled features `[N, features]` to logits of at least float32."""
        if self.num_classes > 0:
            x = self.fc(self.dropout(x, training))
        return x.astype(at_least_float32(x.dtype))

    @property
    def feature_info(self) -> tuple[dict, ...]:
        """For each returned feature map: stage (0 is the stem), channels, total stride, and timm's module name."""
        levels = [
            {'stage': i, 'num_chs': width, 'reduction': min(2 ** (i + 1), self.output_stride), 'module': f'layer{i}'}
            for i, width in enumerate(level_widths(self))
        ]
        levels[0]['module'] = 'act1'
        return tuple(levels if self.out_indices is None else (levels[i] for i in self.out_indices))


def level_widths(model) -> list[int]:
    """Channels of the stem and behind each stage."""
    return [model.stem, *(features * block.expansion for block, _, features in model.stages)]


def build_stages(model) -> list[list[Block]]:
    """The blocks of a network, stage by stage; strides beyond `output_stride` become dilations."""
    stages, width, index = [], model.stem, 0
    last = sum(repeats for _, repeats, _ in model.stages) - 1
    for i, (block, repeats, features) in enumerate(model.stages):
        reduction = 4 * 2**i  # of an undilated network
        dilation, before = (max(1, full // model.output_stride) for full in (reduction, reduction // 2))
        stages.append([])
        for j in range(repeats):
            options = {'stride': 1 if i == 0 or j or dilation > 1 else 2, 'first_dilation': dilation if j else before}
            options |= {'conv_bias': model.conv_bias}
            options |= {'stride_first': model.stride_first} if block is Bottleneck else {}
            rate = model.drop_path_rate * index / last
            stages[-1].append(block(width, features, dilation=dilation, act=model.act, drop_rate=rate, **options))
            width, index = features * block.expansion, index + 1
    return stages


def stages(block: type[Block], *repeats: int) -> Stages:
    """The stages of the paper's Table 1, each twice as wide as the one before."""
    return tuple((block, n, 64 * 2**i) for i, n in enumerate(repeats))


VARIANTS = {
    'resnet18': partial(ResNet, stages(BasicBlock, 2, 2, 2, 2)),
    'resnet26': partial(ResNet, stages(Bottleneck, 2, 2, 2, 2)),
    'resnet34': partial(ResNet, stages(BasicBlock, 3, 4, 6, 3)),
    'resnet50': partial(ResNet, stages(Bottleneck, 3, 4, 6, 3)),
    'resnet101': partial(ResNet, stages(Bottleneck, 3, 4, 23, 3)),
    'resnet152': partial(ResNet, stages(Bottleneck, 3, 8, 36, 3)),
}

WEIGHT_NAMES = ()  # timm's names are those of the general rule, and torchvision's are timm's
FIRST_CONV, CLASSIFIER = 'conv1', 'fc'
