"""ResNet: residual networks of basic or bottleneck blocks, in the forms of PyTorch and of Keras.

A bottleneck has its stride in the 3x3 convolution, as timm and torchvision (v1.5), or in the first 1x1, as the paper
and Keras (v1), where every convolution has a bias too. ResNet-RS has a stem of 3x3 convolutions, one in the place of
the pool, too, average pools in its shortcuts, and squeeze-and-excitation. Papers: ResNet (He et al., arXiv 1512.03385);
ResNet strikes back, on the a1, a2 and a3 weights (Wightman et al., 2110.00476); ResNet-RS (Bello et al., 2103.07579).
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
from jeffnet.core.layers import BatchNorm, Conv, Dropout, SqueezeExcite
from jeffnet.core.pooling import avg_pool, max_pool
from jeffnet.models.network import Network, level


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
        shortcut = project(self, x, training)
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
    dilation: int = 1  # of the blocks that follow
    act: Callable = relu
    drop_rate: float = 0.0
    conv_bias: bool = False
    stride_first: bool = False  # in the first 1x1 convolution, not in the 3x3
    avg_down: bool = False  # an average pool in the shortcut has the stride
    se_ratio: float = 0.0  # width of squeeze-and-excitation as a share of the output's; 0: none

    def setup(self):
        width, out, bias = self.features, self.features * self.expansion, {'use_bias': self.conv_bias}
        first, middle = (self.stride, 1) if self.stride_first else (1, self.stride)
        self.conv1, self.bn1 = Conv(self.in_features, width, 1, first, **bias), BatchNorm(width)
        self.conv2, self.bn2 = Conv(width, width, 3, middle, self.first_dilation, **bias), BatchNorm(width)
        self.conv3 = Conv(width, out, **bias)
        self.bn3 = BatchNorm(out, scale_init=initial.zeros)  # so that training begins with the shortcuts alone
        self.se = SqueezeExcite(out, int(out * self.se_ratio)) if self.se_ratio else None
        self.downsample = projection(self)
        self.drop_path = Dropout(self.drop_rate, per_sample=True)

    def __call__(self, x, training=False):  # [N, H, W, in]
        shortcut = project(self, x, training)
        x = self.act(self.bn1(self.conv1(x), training))  # [N, H, W, features], or already of the size to come
        x = self.act(self.bn2(self.conv2(x), training))  # [N, H / stride, W / stride, features]
        x = self.bn3(self.conv3(x), training)  # [N, H / stride, W / stride, 4 features]
        x = x if self.se is None else self.se(x)
        return self.act(shortcut + self.drop_path(x, training))


def projection(block) -> list[Block | None] | None:
    """The 1x1 convolution and batch norm of a shortcut whose shape must change, else None.

    As in timm's list, an average pool comes first, which has no variables.
    """
    out = block.features * block.expansion
    if block.stride == 1 and block.in_features == out:
        return None
    if getattr(block, 'avg_down', False):
        return [None, Conv(block.in_features, out, use_bias=block.conv_bias), BatchNorm(out)]
    return [Conv(block.in_features, out, 1, block.stride, use_bias=block.conv_bias), BatchNorm(out)]


def project(block, x, training):
    """The shortcut `[N, H / stride, W / stride, out]` of `x` `[N, H, W, in]`."""
    if block.downsample is None:
        return x
    *_, conv, norm = block.downsample
    if len(block.downsample) == 3:
        if block.stride > 1:
            x = avg_pool(x, 2, block.stride, ceil_mode=True)
        elif block.dilation > 1:
            x = avg_pool(x, 2, 1, padding='SAME')
    return norm(conv(x), training)


Stages = tuple[tuple[type[Block], int, int], ...]  # four of them: block, repeats, features


class ResNet(Network):
    """7x7 convolution, max pooling, four stages of residual blocks, average pooling, classifier (He et al., 2015)."""

    stages: Stages = field(repr=False)
    stem: int = 64
    act: Callable = relu
    conv_bias: bool = False
    stride_first: bool = False  # of bottlenecks: in their first 1x1 convolution
    stem_widths: tuple[int, ...] = field(default=(), repr=False)  # of 3x3 convolutions in the place of the 7x7 one
    conv_pool: bool = False  # a convolution in the place of the max pool
    avg_down: bool = False  # of bottlenecks: average pools in their shortcuts
    se_ratio: float = 0.0  # of bottlenecks: squeeze-and-excitation
    output_stride: int = 32
    drop_path_rate: float = 0.0

    def setup(self):
        self.conv1, self.bn1 = build_stem(self), BatchNorm(self.stem)
        if self.conv_pool:
            self.maxpool = [Conv(self.stem, self.stem, 3, 2), BatchNorm(self.stem)]
        self.layer1, self.layer2, self.layer3, self.layer4 = build_stages(self)
        width = level_widths(self)[-1]
        init = initial.Uniform(1 / math.sqrt(width))  # PyTorch's own, of kernel and bias
        self.setup_classifier(width, init, init)

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        x = check_images(x, self.in_chans, smallest=self.output_stride)
        x = self.run_stem(x, training)  # [N, H / 2, W / 2, stem]
        x = self.tap('stage_0', self.act(self.bn1(x, training)))
        levels = [x]
        x = self.pool(x, training)  # [N, H / 4, W / 4, stem]
        for i, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4)):
            for block in stage:
                x = checkpoint_name(block(x, training), 'block')  # what `remat` keeps
            levels.append(self.tap(f'stage_{i + 1}', x))
        return self.finish(levels, training)

    def run_stem(self, x, training):
        """The convolutions of the stem, with norm and activation between them."""
        if not self.stem_widths:
            return self.conv1(x)
        for i in range(len(self.stem_widths)):
            x = self.act(self.conv1[3 * i + 1](self.conv1[3 * i](x), training))
        return self.conv1[-1](x)

    def pool(self, x, training):
        """Half the size."""
        if not self.conv_pool:
            return max_pool(x, 3, 2, padding=1)
        conv, norm = self.maxpool
        return self.act(norm(conv(x), training))

    @property
    def first_conv(self) -> str:
        """The flat name of the convolution that reads the image."""
        return 'conv1_0' if self.stem_widths else 'conv1'

    @property
    def levels(self) -> list[dict]:
        return [
            level(i, width, min(2 ** (i + 1), self.output_stride), f'layer{i}' if i else 'act1')
            for i, width in enumerate(level_widths(self))
        ]


def build_stem(model) -> Block | list[Block | None]:
    """One 7x7 convolution, or timm's list of 3x3 ones with norms between them, in which activations count."""
    if not model.stem_widths:
        return Conv(model.in_chans, model.stem, 7, 2, use_bias=model.conv_bias)
    layers, width, stride = [], model.in_chans, 2
    for features in model.stem_widths:
        layers += [Conv(width, features, 3, stride), BatchNorm(features), None]
        width, stride = features, 1
    return [*layers, Conv(width, model.stem, 3)]


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
            if block is Bottleneck:
                options |= {key: getattr(model, key) for key in ('stride_first', 'avg_down', 'se_ratio')}
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
    **{
        f'resnetrs{depth}': partial(ResNet, stages(Bottleneck, *repeats), stem_widths=(32, 32), conv_pool=True,
                                    avg_down=True, se_ratio=0.25)
        for depth, repeats in {
            50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3), 270: (4, 29, 53, 4),
            350: (4, 36, 72, 4), 420: (4, 44, 87, 4),
        }.items()
    },
}  # fmt: skip

# timm calls the two layers of squeeze-and-excitation otherwise here; torchvision's names are timm's.
WEIGHT_NAMES = ((r'\.se\.conv_reduce\.', '.se.fc1.'), (r'\.se\.conv_expand\.', '.se.fc2.'))
