"""ResNet of the second form: norm and activation before each convolution (He et al., arXiv 1603.05027).

Big Transfer's networks have standardised kernels and group norm (Kolesnikov et al., 1912.11370; distilled ones: Beyer
et al., 2106.05237); timm's others have batch norm, group norm, or norms with a nonlinearity of their own. timm has the
stride in the first block of a stage. Keras has it in the last block, whose shortcut then skips every other pixel; it
also gives some convolutions a bias. Keras and Big Transfer pad their first pool with zeros.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jeffnet.core import initial
from jeffnet.core.activations import identity, relu
from jeffnet.core.block import Block
from jeffnet.core.inputs import check_images
from jeffnet.core.layers import BatchNorm, Conv, Dropout, GroupNorm, StdConv
from jeffnet.core.norm_act import EvoNormS0, FilterResponseNorm
from jeffnet.core.pooling import avg_pool, max_pool
from jeffnet.models.network import Network, level


@dataclass(frozen=True)
class Style:
    """What all blocks of a network share."""

    conv: Callable = Conv
    norm: Callable = BatchNorm
    act: Callable = relu
    conv_bias: bool = False  # of the convolution in a shortcut and the last one of a block
    avg_down: bool = False  # strides of shortcuts in an average pool


class PreActBasic(Block):
    """Two 3x3 convolutions behind their norms, beside a shortcut (He et al., 2016)."""

    expansion: ClassVar[int] = 1  # width of the output as a multiple of `features`
    in_features: int
    features: int
    stride: int = 1
    first_dilation: int = 1  # of the first 3x3 convolution
    dilation: int = 1  # of the second
    first: bool = False  # of its stage
    style: Style = Style()
    drop_rate: float = 0.0

    def setup(self):
        width, conv, norm = self.features, self.style.conv, self.style.norm
        changes = self.stride > 1 or self.first_dilation != self.dilation or self.in_features != width
        self.downsample = projection(self) if self.first and changes else None
        self.norm1 = norm(self.in_features)
        self.conv1 = conv(self.in_features, width, 3, self.stride, self.first_dilation)
        self.norm2 = norm(width)
        self.conv2 = conv(width, width, 3, dilation=self.dilation, use_bias=self.style.conv_bias)
        self.drop_path = Dropout(self.drop_rate, per_sample=True)

    def __call__(self, x, training=False):  # [N, H, W, in]
        act = self.style.act
        before = act(self.norm1(x, training))
        y = self.conv1(before)  # [N, H / stride, W / stride, features]
        y = self.conv2(act(self.norm2(y, training)))
        return shortcut(self, x, before) + self.drop_path(y, training)


class PreActBottleneck(Block):
    """1x1, 3x3 and 1x1 convolution behind their norms, beside a shortcut (He et al., 2016)."""

    expansion: ClassVar[int] = 4  # width of the output as a multiple of `features`
    in_features: int
    features: int
    stride: int = 1
    first_dilation: int = 1  # of the 3x3 convolution
    dilation: int = 1  # of the blocks that follow
    first: bool = False  # of its stage, so that its shortcut has a convolution
    style: Style = Style()
    drop_rate: float = 0.0

    def setup(self):
        width, conv, norm = self.features, self.style.conv, self.style.norm
        self.downsample = projection(self) if self.first else None
        self.norm1, self.conv1 = norm(self.in_features), conv(self.in_features, width)
        self.norm2, self.conv2 = norm(width), conv(width, width, 3, self.stride, self.first_dilation)
        self.norm3, self.conv3 = norm(width), conv(width, width * self.expansion, use_bias=self.style.conv_bias)
        self.drop_path = Dropout(self.drop_rate, per_sample=True)

    def __call__(self, x, training=False):  # [N, H, W, in]
        act = self.style.act
        before = act(self.norm1(x, training))
        y = self.conv1(before)  # [N, H, W, features]
        y = self.conv2(act(self.norm2(y, training)))  # [N, H / stride, W / stride, features]
        y = self.conv3(act(self.norm3(y, training)))  # [N, H / stride, W / stride, 4 features]
        return shortcut(self, x, before) + self.drop_path(y, training)


def shortcut(block, x, before):
    """The shortcut of `x` `[N, H, W, in]`: a projection of its normalised form, it, or every other of its pixels."""
    if block.downsample is not None:
        return block.downsample(before)
    return x[:, :: block.stride, :: block.stride] if block.stride > 1 else x


class Projection(Block):
    """The shortcut where the shape changes: an average pool in some networks, and a 1x1 convolution."""

    in_features: int
    out_features: int
    stride: int = 1
    dilation: int = 1
    style: Style = Style()

    def setup(self):
        stride = 1 if self.style.avg_down else self.stride
        self.conv = self.style.conv(self.in_features, self.out_features, 1, stride, use_bias=self.style.conv_bias)

    def __call__(self, x):  # [N, H, W, in]
        if self.style.avg_down and self.stride > 1:
            x = avg_pool(x, 2, self.stride, ceil_mode=True)
        elif self.style.avg_down and self.dilation > 1:
            x = avg_pool(x, 2, 1, padding='SAME', count_padding=True)
        return self.conv(x)  # [N, H / stride, W / stride, out]


def projection(block) -> Projection:
    """The projection of a block's shortcut."""
    return Projection(
        block.in_features, block.features * block.expansion, block.stride, block.dilation, block.style
    )  # fmt: skip


class Stem(Block):
    """7x7 convolution, or several of 3x3 with norms between them, and max pooling."""

    in_chans: int
    features: int
    widths: tuple[int, ...] = ()  # of the 3x3 convolutions but for the last
    use_bias: bool = False
    zero_pad_pool: bool = False  # zeros may be the maximum, since no activation comes before
    style: Style = Style()

    def setup(self):
        conv, before = self.style.conv, self.in_chans
        for i, width in enumerate(self.widths, start=1):
            setattr(self, f'conv{i}', conv(before, width, 3, 2 if i == 1 else 1))
            setattr(self, f'norm{i}', self.style.norm(width))
            before = width
        last = (
            conv(before, self.features, 3) if self.widths else conv(before, self.features, 7, 2, use_bias=self.use_bias)
        )
        setattr(self, last_conv(self.widths), last)

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        for i in range(1, len(self.widths) + 1):
            x = getattr(self, f'norm{i}')(getattr(self, f'conv{i}')(x), training)
            x = self.style.act(x)
        x = self.tap('stage_0', getattr(self, last_conv(self.widths))(x))  # [N, H / 2, W / 2, features]
        if self.zero_pad_pool:
            return x, max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2)
        return x, max_pool(x, 3, 2, padding=1)  # [N, H / 4, W / 4, features]


def last_conv(widths: tuple[int, ...]) -> str:
    """The name of a stem's last convolution, behind others of these widths."""
    return f'conv{len(widths) + 1}' if widths else 'conv'


class Stage(Block):
    """The blocks of one size."""

    block: type[Block]
    in_features: int
    features: int
    steps: tuple[tuple[int, int, int], ...]  # of each block: stride, dilation of the first 3x3 convolution, of others
    drop_rates: tuple[float, ...]
    style: Style = Style()

    def setup(self):
        blocks, width = [], self.in_features
        for i, (step, rate) in enumerate(zip(self.steps, self.drop_rates, strict=True)):
            options = {'first': i == 0, 'style': self.style, 'drop_rate': rate}
            blocks.append(self.block(width, self.features, *step, **options))
            width = self.features * self.block.expansion
        self.blocks = blocks

    def __call__(self, x, training=False):  # [N, H, W, in]
        for block in self.blocks:
            x = checkpoint_name(block(x, training), 'block')  # what `remat` keeps
        return x


class Head(Block):
    """Dropout and classifier, which is a 1x1 convolution in the files of Big Transfer and timm."""

    features: int
    num_classes: int
    drop_rate: float = 0.0

    def setup(self):
        self.dropout = Dropout(self.drop_rate)
        self.fc = Conv(self.features, self.num_classes, use_bias=True, kernel_init=initial.Normal(0.01))

    def __call__(self, x, training=False):  # [N, features]
        return self.fc(self.dropout(x, training)[:, None, None])[:, 0, 0]


class ResNetV2(Network):
    """Stem, stages of pre-activation blocks, norm, average pooling, classifier (He et al., 2016)."""

    classifier_name: ClassVar[str] = 'head.fc'
    repeats: tuple[int, ...] = field(repr=False)  # blocks of each stage
    block: type[Block] = PreActBottleneck
    features: int = 64  # of the stem and, within the blocks, of the first stage; each stage doubles them
    stem_widths: tuple[int, ...] = field(default=(), repr=False)  # of 3x3 convolutions before the last of the stem
    conv_layer: Callable = Conv
    norm_layer: Callable = BatchNorm
    act: Callable = relu
    avg_down: bool = False  # strides of shortcuts in an average pool
    conv_bias: bool = False  # of the first convolution, those of shortcuts and the last of each block
    stride_last: bool = False  # strides in the last block of a stage, not the first
    zero_pad_pool: bool = False
    output_stride: int = 32
    drop_path_rate: float = 0.0

    def setup(self):
        style = style_of(self)
        self.stem = Stem(self.in_chans, self.features, self.stem_widths, self.conv_bias, self.zero_pad_pool, style)
        self.stages = build_stages(self)
        if self.out_indices is None:
            width = level_widths(self)[-1]
            self.norm = style.norm(width)
            self.head = Head(width, self.num_classes, self.drop_rate) if self.num_classes > 0 else None

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        first, x = self.stem(check_images(x, self.in_chans, smallest=self.output_stride), training)
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
    def first_conv(self) -> str:
        """The flat name of the convolution that reads the image."""
        return 'stem.conv1' if self.stem_widths else 'stem.conv'

    @property
    def levels(self) -> list[dict]:
        modules = [f'stem.{last_conv(self.stem_widths)}', *(f'stages.{i}' for i in range(len(self.repeats)))]
        reductions = [2, *(total for _, total in schedule(self))]
        rows = zip(level_widths(self), reductions, modules, strict=True)
        return [level(i, *row) for i, row in enumerate(rows)]


def style_of(model) -> Style:
    """What all blocks of a network share."""
    return Style(model.conv_layer, model.norm_layer, model.act, model.conv_bias, model.avg_down)


def level_widths(model) -> list[int]:
    """Channels of the stem and behind each stage."""
    widths = (model.features * 2**i * model.block.expansion for i in range(len(model.repeats)))
    return [model.features, *widths]


def schedule(model) -> list[tuple[tuple[tuple[int, int, int], ...], int]]:
    """Per stage: stride and dilations, first and other, of its blocks, and the total stride behind it.

    Where the total would exceed `output_stride`, the stride becomes a dilation of what follows.
    """
    found, total, dilation = [], 4, 1
    for i, count in enumerate(model.repeats):
        steps = []
        for j in range(count):
            moves = (j == count - 1 and i < len(model.repeats) - 1) if model.stride_last else (j == 0 and i > 0)
            stride = 2 if moves and 2 * total <= model.output_stride else 1
            before, dilation = dilation, dilation * 2 if moves and stride == 1 else dilation
            steps.append((stride, before, dilation))
            total *= stride
        found.append((tuple(steps), total))
    return found


def build_stages(model) -> list[Stage]:
    """The stages of a network."""
    stages, index, last = [], 0, sum(model.repeats) - 1
    for i, (steps, _) in enumerate(schedule(model)):
        rates = tuple(model.drop_path_rate * (index + j) / last for j in range(len(steps)))
        width = model.features * 2**i
        stages.append(Stage(model.block, level_widths(model)[i], width, steps, rates, style_of(model)))
        index += len(steps)
    return stages


def bit_conv(*args, **options) -> StdConv:
    """A convolution of Big Transfer's networks."""
    return StdConv(*args, **options, eps=1e-8)


def bit(*repeats: int, width: int) -> Callable[..., ResNetV2]:
    """A network of Big Transfer, so many times as wide as ResNet (Kolesnikov et al., 2019)."""
    options = {'conv_layer': bit_conv, 'norm_layer': GroupNorm, 'zero_pad_pool': True}
    return partial(ResNetV2, repeats, features=64 * width, **options)


DEEP = {'stem_widths': (32, 32), 'avg_down': True}
TIERED = {'stem_widths': (24, 32), 'avg_down': True}
BASIC = {'block': PreActBasic}
VARIANTS = {
    'resnetv2_50x1_bit': bit(3, 4, 6, 3, width=1),
    'resnetv2_50x3_bit': bit(3, 4, 6, 3, width=3),
    'resnetv2_101x1_bit': bit(3, 4, 23, 3, width=1),
    'resnetv2_101x3_bit': bit(3, 4, 23, 3, width=3),
    'resnetv2_152x2_bit': bit(3, 8, 36, 3, width=2),
    'resnetv2_152x4_bit': bit(3, 8, 36, 3, width=4),
    'resnetv2_18': partial(ResNetV2, (2, 2, 2, 2), **BASIC),
    'resnetv2_18d': partial(ResNetV2, (2, 2, 2, 2), **BASIC, **DEEP),
    'resnetv2_34': partial(ResNetV2, (3, 4, 6, 3), **BASIC),
    'resnetv2_34d': partial(ResNetV2, (3, 4, 6, 3), **BASIC, **DEEP),
    'resnetv2_50': partial(ResNetV2, (3, 4, 6, 3)),
    'resnetv2_50d': partial(ResNetV2, (3, 4, 6, 3), **DEEP),
    'resnetv2_50t': partial(ResNetV2, (3, 4, 6, 3), **TIERED),
    'resnetv2_101': partial(ResNetV2, (3, 4, 23, 3)),
    'resnetv2_101d': partial(ResNetV2, (3, 4, 23, 3), **DEEP),
    'resnetv2_152': partial(ResNetV2, (3, 8, 36, 3)),
    'resnetv2_152d': partial(ResNetV2, (3, 8, 36, 3), **DEEP),
    'resnetv2_50d_gn': partial(ResNetV2, (3, 4, 6, 3), **DEEP, norm_layer=GroupNorm),
    'resnetv2_50d_evos': partial(ResNetV2, (3, 4, 6, 3), **DEEP, norm_layer=EvoNormS0, act=identity),
    'resnetv2_50d_frn': partial(ResNetV2, (3, 4, 6, 3), **DEEP, norm_layer=FilterResponseNorm, act=identity),
}

WEIGHT_NAMES = ()  # timm's names are those of the general rule
