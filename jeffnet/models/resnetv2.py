"""ResNet of the second form: batch norm and activation before each convolution (He et al., arXiv 1603.05027).

timm has the stride in the first block of a stage. Keras has it in the last block, whose shortcut then skips every other
pixel; it also pads its first pool with zeros, and gives some convolutions a bias.
"""

from collections.abc import Callable
from dataclasses import field
from functools import partial
from typing import ClassVar

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jeffnet.core import initial
from jeffnet.core.activations import relu
from jeffnet.core.block import Block
from jeffnet.core.inputs import check_images
from jeffnet.core.layers import BatchNorm, Conv, Dropout
from jeffnet.core.pooling import max_pool
from jeffnet.models.network import ClassifierHead, Network, level


class PreActBottleneck(Block):
    """1x1, 3x3 and 1x1 convolution behind their norms, beside a shortcut (He et al., 2016)."""

    expansion: ClassVar[int] = 4  # width of the output as a multiple of `features`
    in_features: int
    features: int
    stride: int = 1
    first_dilation: int = 1  # of the 3x3 convolution
    project: bool = False  # a 1x1 convolution in the shortcut
    conv_bias: bool = False  # of that one and of the last
    act: Callable = relu
    drop_rate: float = 0.0

    def setup(self):
        width, out, bias = self.features, self.features * self.expansion, {'use_bias': self.conv_bias}
        self.norm1, self.conv1 = BatchNorm(self.in_features), Conv(self.in_features, width)
        self.norm2, self.conv2 = BatchNorm(width), Conv(width, width, 3, self.stride, self.first_dilation)
        self.norm3, self.conv3 = BatchNorm(width), Conv(width, out, **bias)
        self.downsample = Projection(self.in_features, out, self.stride, self.conv_bias) if self.project else None
        self.drop_path = Dropout(self.drop_rate, per_sample=True)

    def __call__(self, x, training=False):  # [N, H, W, in]
        before = self.act(self.norm1(x, training))
        if self.downsample is not None:
            x = self.downsample(before)  # [N, H / stride, W / stride, 4 features]
        elif self.stride > 1:
            x = x[:, :: self.stride, :: self.stride]
        y = self.conv1(before)  # [N, H, W, features]
        y = self.conv2(self.act(self.norm2(y, training)))  # [N, H / stride, W / stride, features]
        y = self.conv3(self.act(self.norm3(y, training)))  # [N, H / stride, W / stride, 4 features]
        return x + self.drop_path(y, training)


class Projection(Block):
    """The shortcut where the shape changes."""

    in_features: int
    out_features: int
    stride: int = 1
    use_bias: bool = False

    def setup(self):
        self.conv = Conv(self.in_features, self.out_features, 1, self.stride, use_bias=self.use_bias)

    def __call__(self, x):  # [N, H, W, in]
        return self.conv(x)


class Stem(Block):
    """7x7 convolution and max pooling."""

    in_chans: int
    features: int
    use_bias: bool = False
    zero_pad_pool: bool = False  # zeros may be the maximum, since no activation comes before

    def setup(self):
        self.conv = Conv(self.in_chans, self.features, 7, 2, use_bias=self.use_bias)

    def __call__(self, x):  # [N, H, W, in_chans]
        x = self.tap('stage_0', self.conv(x))  # [N, H / 2, W / 2, features]
        if self.zero_pad_pool:
            return x, max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2)
        return x, max_pool(x, 3, 2, padding=1)  # [N, H / 4, W / 4, features]


class Stage(Block):
    """The blocks of one size."""

    in_features: int
    features: int
    strides: tuple[int, ...]  # of the blocks
    dilations: tuple[int, ...]
    drop_rates: tuple[float, ...]
    conv_bias: bool = False
    act: Callable = relu

    def setup(self):
        blocks, width = [], self.in_features
        for i, (stride, dilation, rate) in enumerate(zip(self.strides, self.dilations, self.drop_rates, strict=True)):
            options = {'project': i == 0, 'conv_bias': self.conv_bias, 'act': self.act, 'drop_rate': rate}
            blocks.append(PreActBottleneck(width, self.features, stride, dilation, **options))
            width = self.features * PreActBottleneck.expansion
        self.blocks = blocks

    def __call__(self, x, training=False):  # [N, H, W, in]
        for block in self.blocks:
            x = checkpoint_name(block(x, training), 'block')  # what `remat` keeps
        return x


class ResNetV2(Network):
    """7x7 convolution, max pooling, four stages of pre-activation blocks, norm, classifier (He et al., 2016)."""

    classifier_name: ClassVar[str] = 'head.fc'
    first_conv: ClassVar[str] = 'stem.conv'
    repeats: tuple[int, int, int, int] = field(repr=False)  # blocks of each stage
    stem_features: int = 64
    act: Callable = relu
    conv_bias: bool = False  # of the first convolution, those of shortcuts and the last of each block
    stride_last: bool = False  # strides in the last block of a stage, not the first
    zero_pad_pool: bool = False
    output_stride: int = 32
    drop_path_rate: float = 0.0

    def setup(self):
        self.stem = Stem(self.in_chans, self.stem_features, self.conv_bias, self.zero_pad_pool)
        self.stages = build_stages(self)
        if self.out_indices is None:
            width = level_widths(self)[-1]
            self.norm = BatchNorm(width)
            options = {'drop_rate': self.drop_rate, 'kernel_init': initial.Normal(0.01)}
            self.head = ClassifierHead(width, self.num_classes, **options) if self.num_classes > 0 else None

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        first, x = self.stem(check_images(x, self.in_chans, smallest=self.output_stride))
        levels = [first]
        for i, stage in enumerate(self.stages):
            x = self.tap(f'stage_{i + 1}', stage(x, training))
            levels.append(x)
        if self.out_indices is None:
            x = self.act(self.norm(x, training))
        return self.finish([*levels[:-1], x], training)

    def logits(self, x, training=False):
        return self.head(x, training)

    @property
    def levels(self) -> list[dict]:
        reductions = [2, *(total for *_, total in schedule(self))]
        rows = enumerate(zip(level_widths(self), reductions, strict=True))
        return [level(i, *row, f'stages.{i - 1}' if i else 'stem.conv') for i, row in rows]


def level_widths(model) -> list[int]:
    """Channels of the stem and behind each stage."""
    return [model.stem_features, *(64 * 2**i * PreActBottleneck.expansion for i in range(4))]


def schedule(model) -> list[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """Per stage: strides and dilations of its blocks, and the total stride behind it.

    Where the total would exceed `output_stride`, the stride becomes a dilation of the blocks that follow.
    """
    found, total, dilation = [], 4, 1
    for i, count in enumerate(model.repeats):
        strides, dilations = [], []
        for j in range(count):
            moves = (j == count - 1 and i < 3) if model.stride_last else (j == 0 and i > 0)
            stride = 2 if moves and 2 * total <= model.output_stride else 1
            strides.append(stride)
            dilations.append(dilation)
            total, dilation = total * stride, dilation * 2 if moves and stride == 1 else dilation
        found.append((tuple(strides), tuple(dilations), total))
    return found


def build_stages(model) -> list[Stage]:
    """The stages of a network."""
    stages, index, last = [], 0, sum(model.repeats) - 1
    for i, (strides, dilations, _) in enumerate(schedule(model)):
        rates = tuple(model.drop_path_rate * (index + j) / last for j in range(len(strides)))
        options = {'conv_bias': model.conv_bias, 'act': model.act}
        stages.append(Stage(level_widths(model)[i], 64 * 2**i, strides, dilations, rates, **options))
        index += len(strides)
    return stages


VARIANTS = {
    'resnetv2_50': partial(ResNetV2, (3, 4, 6, 3)),
    'resnetv2_101': partial(ResNetV2, (3, 4, 23, 3)),
    'resnetv2_152': partial(ResNetV2, (3, 8, 36, 3)),
}

WEIGHT_NAMES = ()  # timm's names are those of the general rule
