"""Aligned Xception: strides in separable convolutions, not in pools (Chen et al., arXiv 1802.02611).

The networks with `p` normalise and activate before each separable convolution, once; the others behind both of its
convolutions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

from jax.ad_checkpoint import checkpoint_name

from jeffnet.core import initial
from jeffnet.core.activations import identity, relu
from jeffnet.core.block import Block
from jeffnet.core.inputs import check_images
from jeffnet.core.layers import BatchNorm, Conv, Dropout
from jeffnet.models.network import ClassifierHead, Network, level

STEM = (32, 64)


@dataclass(frozen=True)
class Shape:
    """What the blocks of a network differ in."""

    widths: tuple[int, int, int]  # of the separable convolutions
    stride: int = 1  # of the last of them
    dilation: int = 1  # of all of them
    last: bool = False  # whether it has no shortcut; activations are then behind convolutions, not before them


def conv(in_features: int, out_features: int, kernel_size: int = 1, stride: int = 1, **options) -> Conv:
    """A convolution initialised as PyTorch's own."""
    init = initial.fan_in((kernel_size, kernel_size), in_features, options.get('groups', 1))
    return Conv(in_features, out_features, kernel_size, stride, kernel_init=init, **options)


class ConvNormAct(Block):
    """Convolution, batch norm, activation."""

    in_features: int
    out_features: int
    kernel_size: int = 1
    stride: int = 1
    act: Callable = relu

    def setup(self):
        self.conv = conv(self.in_features, self.out_features, self.kernel_size, self.stride)
        self.bn = BatchNorm(self.out_features)

    def __call__(self, x, training=False):  # [N, H, W, in]
        return self.act(self.bn(self.conv(x), training))  # [N, H / stride, W / stride, out]


class SeparableConv(Block):
    """Depthwise 3x3, norm, 1x1 convolution, norm; `act` behind either norm."""

    in_features: int
    out_features: int
    stride: int = 1
    dilation: int = 1
    act: Callable = relu

    def setup(self):
        width = self.in_features
        self.conv_dw = conv(width, width, 3, self.stride, dilation=self.dilation, groups=width)
        self.bn_dw = BatchNorm(width)
        self.conv_pw, self.bn_pw = conv(width, self.out_features), BatchNorm(self.out_features)

    def __call__(self, x, training=False):  # [N, H, W, in]
        x = self.act(self.bn_dw(self.conv_dw(x), training))
        return self.act(self.bn_pw(self.conv_pw(x), training))  # [N, H / stride, W / stride, out]


class PreSeparableConv(Block):
    """Norm and activation, unless `norm_first` is false, depthwise 3x3, 1x1 convolution."""

    in_features: int
    out_features: int
    stride: int = 1
    dilation: int = 1
    act: Callable = relu
    norm_first: bool = True

    def setup(self):
        width = self.in_features
        self.norm = BatchNorm(width) if self.norm_first else None
        self.conv_dw = conv(width, width, 3, self.stride, dilation=self.dilation, groups=width)
        self.conv_pw = conv(width, self.out_features)

    def __call__(self, x, training=False):  # [N, H, W, in]
        x = x if self.norm is None else self.act(self.norm(x, training))
        return self.conv_pw(self.conv_dw(x))  # [N, H / stride, W / stride, out]


class Stack(Block):
    """Three separable convolutions; returns what goes into the last one, too, a feature map of the network."""

    in_features: int
    shape: Shape
    act: Callable
    preact: bool

    def setup(self):
        self.conv1, self.conv2, self.conv3 = (self.convolution(i) for i in range(3))

    def convolution(self, i: int) -> Block:
        """The i-th of them."""
        widths = (self.in_features, *self.shape.widths)
        sizes = (widths[i], widths[i + 1], self.shape.stride if i == 2 else 1, self.shape.dilation)
        if self.preact:
            return PreSeparableConv(*sizes, self.act, norm_first=i > 0)
        return SeparableConv(*sizes, self.act if self.shape.last else identity)

    def __call__(self, x, training=False):  # [N, H, W, in]
        act = identity if self.preact or self.shape.last else self.act  # where the convolutions have none themselves
        x = self.conv1(act(x), training)
        x = act(self.conv2(act(x), training))  # [N, H, W, widths[1]]
        return x, self.conv3(x, training)  # [N, H / stride, W / stride, widths[2]]


class XceptionModule(Block):
    """Three separable convolutions beside a shortcut; returns what goes into the last of them, too."""

    in_features: int
    shape: Shape
    act: Callable = relu
    preact: bool = False
    drop_rate: float = 0.0

    def setup(self):
        width, out, stride = self.in_features, self.shape.widths[-1], self.shape.stride
        self.norm = BatchNorm(width) if self.preact else None
        projects = not self.shape.last and (out != width or stride > 1)
        project = conv if self.preact else partial(ConvNormAct, act=identity)
        self.shortcut = project(width, out, 1, stride) if projects else None
        self.stack = Stack(width, self.shape, self.act, self.preact)
        self.drop_path = Dropout(self.drop_rate, per_sample=True)

    def __call__(self, x, training=False):  # [N, H, W, in]
        x = self.act(self.norm(x, training)) if self.preact else x
        inner, y = self.stack(x, training)  # [N, H / stride, W / stride, out]
        if self.shape.last:
            return inner, y
        if self.shortcut is not None:
            x = self.shortcut(x) if self.preact else self.shortcut(x, training)
        return inner, x + self.drop_path(y, training)


class XceptionAligned(Network):
    """Two convolutions, blocks of three separable ones, average pooling, classifier (Chen et al., 2018)."""

    classifier_name: ClassVar[str] = 'head.fc'
    first_conv: ClassVar[str] = 'stem_0.conv'
    shapes: tuple[Shape, ...] = field(repr=False)
    preact: bool = False
    act: Callable = relu
    output_stride: int = 32
    drop_path_rate: float = 0.0

    def setup(self):
        first, second = STEM
        inner = conv(first, second, 3) if self.preact else ConvNormAct(first, second, 3, 1, self.act)
        self.stem = [ConvNormAct(self.in_chans, first, 3, 2, self.act), inner]
        self.blocks = build_blocks(self)
        width = self.shapes[-1].widths[-1]
        if self.ends_in_logits:
            init = initial.fan_in((1, 1), width)
            self.head = ClassifierHead(width, self.num_classes, self.drop_rate, init, init)

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        x = check_images(x, self.in_chans, smallest=self.output_stride)
        x = self.stem[0](x, training)  # [N, H / 2, W / 2, 32]
        x = self.stem[1](x) if self.preact else self.stem[1](x, training)  # [N, H / 2, W / 2, 64]
        levels, ends = [], [i for i, shape in enumerate(self.shapes) if shape.stride > 1]
        for i, block in enumerate(self.blocks):
            inner, x = block(x, training)
            x = checkpoint_name(x, 'block')  # what `remat` keeps
            if i in ends:
                levels.append(self.tap(f'stage_{len(levels)}', inner))
        return self.finish([*levels, self.tap(f'stage_{len(levels)}', x)], training)

    def forward_head(self, x, training=False):
        return super().forward_head(self.act(x) if self.preact else x, training)

    def logits(self, x, training=False):
        return self.head(x, training)

    @property
    def levels(self) -> list[dict]:
        found, reduction, inner = [], 2, 'conv2' if self.preact else 'act3'
        for i, shape in enumerate(self.shapes):
            if shape.stride > 1:
                found.append(level(len(found), shape.widths[1], reduction, f'blocks.{i}.stack.{inner}'))
                reduction = min(reduction * shape.stride, self.output_stride)
        return [*found, level(len(found), self.shapes[-1].widths[-1], reduction, f'blocks.{len(self.shapes) - 1}')]


def build_blocks(model) -> list[Block]:
    """The blocks of a network; more of their branches are dropped towards the end."""
    blocks, width, last = [], STEM[-1], len(model.shapes) - 1
    for i, shape in enumerate(dilated(model)):
        blocks.append(XceptionModule(width, shape, model.act, model.preact, model.drop_path_rate * i / last))
        width = shape.widths[-1]
    return blocks


def dilated(model) -> list[Shape]:
    """The blocks of a network, in which strides beyond `output_stride` become dilations of those behind."""
    found, reduction, dilation = [], 2, 1
    for shape in model.shapes:
        stride = shape.stride if reduction * shape.stride <= model.output_stride else 1
        found.append(replace(shape, stride=stride, dilation=dilation))
        reduction, dilation = reduction * stride, dilation * shape.stride // stride
    return found


def shapes(middle: int, entry: tuple[tuple[int, int], ...] = ((128, 2), (256, 2), (728, 2))) -> tuple[Shape, ...]:
    """The blocks of a network, of whose entry flow width and stride are given, and of whose middle flow the number."""
    return (
        *(Shape((width,) * 3, stride) for width, stride in entry),
        *[Shape((728, 728, 728))] * middle,
        Shape((728, 1024, 1024), 2),
        Shape((1536, 1536, 2048), last=True),
    )


ENTRY_71 = ((128, 2), (256, 1), (256, 2), (728, 1), (728, 2))
VARIANTS = {
    'xception41': partial(XceptionAligned, shapes(8)),
    'xception65': partial(XceptionAligned, shapes(16)),
    'xception71': partial(XceptionAligned, shapes(16, ENTRY_71)),
    'xception41p': partial(XceptionAligned, shapes(8), preact=True),
    'xception65p': partial(XceptionAligned, shapes(16), preact=True),
}

WEIGHT_NAMES = ()  # timm's names are those of the general rule
