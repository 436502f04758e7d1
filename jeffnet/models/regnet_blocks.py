"""The blocks of RegNets: bottlenecks of grouped convolutions, with norms behind or before the convolutions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from jax.ad_checkpoint import checkpoint_name

from jeffnet.core import initial
from jeffnet.core.activations import identity, relu
from jeffnet.core.block import Block
from jeffnet.core.layers import BatchNorm, Conv, Dropout, GroupNorm, SqueezeExcite
from jeffnet.core.pooling import avg_pool


def groups_of_16(features: int, **options) -> GroupNorm:
    """Group norm over 16 channels each, in the place of batch norm."""
    return GroupNorm(features, features // 16, **options)


@dataclass(frozen=True)
class Design:
    """What all blocks of a network have in common."""

    bottle_ratio: float = 1.0  # width inside a block as a multiple of that behind it
    se_ratio: float = 0.0  # hidden width of squeeze-and-excitation as a share of that before a block; 0: none
    downsample: str | None = 'conv1x1'  # the shortcut where the shape changes; 'avg': behind a pool; None: none there
    linear_out: bool = False  # no activation behind the sum
    act: Callable = relu
    norm: Callable = BatchNorm


class ConvNorm(Block):
    """Convolution, norm, activation."""

    in_features: int
    out_features: int
    kernel_size: int = 1
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    act: Callable = relu
    norm: Callable = BatchNorm
    scale_init: Callable = initial.ones

    def setup(self):
        size = (self.kernel_size, self.stride, self.dilation, self.groups)
        self.conv = Conv(self.in_features, self.out_features, *size)
        self.bn = self.norm(self.out_features, scale_init=self.scale_init)

    def __call__(self, x, training=False):  # [N, H, W, in]
        return self.act(self.bn(self.conv(x), training))


class Residual(Block):
    """What both kinds of block share: their fields, and the sum of branch and shortcut."""

    preact: ClassVar[bool]
    in_features: int
    features: int
    group_size: int
    design: Design
    stride: int = 1
    dilation: int = 1  # of the 3x3 convolution
    drop_rate: float = 0.0

    @property
    def width(self) -> int:
        """Channels inside the block."""
        return round(self.features * self.design.bottle_ratio)

    @property
    def reshapes(self) -> bool:
        """Whether the output has another shape than the input."""
        return self.stride > 1 or self.in_features != self.features

    def setup_squeeze(self):
        """Squeeze-and-excitation, whose hidden width follows from what comes into the block."""
        reduced = round(self.in_features * self.design.se_ratio)
        self.se = SqueezeExcite(self.width, reduced, self.design.act) if reduced else None

    def setup_shortcut(self, layer: Callable):
        """`layer(in, out, 1, stride)` where the shape changes, or timm's list, in which a pool comes before it."""
        if not self.reshapes or self.design.downsample is None:
            self.downsample = None
        elif self.design.downsample == 'avg':
            self.downsample = [None, layer(self.in_features, self.features)]
        else:
            self.downsample = layer(self.in_features, self.features, 1, self.stride)
        self.drop_path = Dropout(self.drop_rate, per_sample=True)

    def join(self, x, shortcut, training):
        """The branch `x` `[N, H / stride, W / stride, features]` plus what it began with, if anything leads around."""
        if self.reshapes and self.downsample is None:
            return x
        return self.drop_path(x, training) + self.project(shortcut, training)

    def project(self, x, training):
        """The shortcut `[N, H / stride, W / stride, features]` of `x` `[N, H, W, in]`."""
        if self.downsample is None:
            return x
        layer = self.downsample
        if self.design.downsample == 'avg':
            layer = self.downsample[1]
            if self.stride > 1:
                x = avg_pool(x, 2, self.stride, ceil_mode=True)
            elif self.dilation > 1:  # timm counts the zeros beyond the image here
                x = avg_pool(x, 2, 1, padding='SAME', count_padding=True)
        return layer(x) if self.preact else layer(x, training)


class Bottleneck(Residual):
    """1x1, grouped 3x3, squeeze-and-excitation and 1x1 beside a shortcut (Radosavovic et al., 2020)."""

    preact: ClassVar[bool] = False

    def setup(self):
        width, forms = self.width, {'act': self.design.act, 'norm': self.design.norm}
        self.conv1 = ConvNorm(self.in_features, width, **forms)
        self.conv2 = ConvNorm(width, width, 3, self.stride, self.dilation, width // self.group_size, **forms)
        self.setup_squeeze()
        forms['act'] = identity
        # Zeros, so that training begins with the shortcuts alone; not where some blocks have none.
        init = initial.ones if self.design.downsample is None else initial.zeros
        self.conv3 = ConvNorm(width, self.features, scale_init=init, **forms)
        self.setup_shortcut(partial(ConvNorm, **forms))

    def __call__(self, x, training=False):  # [N, H, W, in]
        shortcut = x
        x = self.conv2(self.conv1(x, training), training)  # [N, H / stride, W / stride, width]
        x = x if self.se is None else self.se(x)
        x = self.join(self.conv3(x, training), shortcut, training)  # [N, H / stride, W / stride, features]
        return x if self.design.linear_out else self.design.act(x)


class PreBottleneck(Residual):
    """The same with a norm and an activation before each convolution, the first of them before the shortcut too."""

    preact: ClassVar[bool] = True

    def setup(self):
        width, norm = self.width, self.design.norm
        self.norm1, self.conv1 = norm(self.in_features), Conv(self.in_features, width)
        self.norm2 = norm(width)
        self.conv2 = Conv(width, width, 3, self.stride, self.dilation, width // self.group_size)
        self.setup_squeeze()
        self.norm3, self.conv3 = norm(width), Conv(width, self.features)
        self.setup_shortcut(Conv)

    def __call__(self, x, training=False):  # [N, H, W, in]
        act = self.design.act
        shortcut = x = act(self.norm1(x, training))
        x = self.conv2(act(self.norm2(self.conv1(x), training)))  # [N, H / stride, W / stride, width]
        x = x if self.se is None else self.se(x)
        x = self.conv3(act(self.norm3(x, training)))  # [N, H / stride, W / stride, features]
        return self.join(x, shortcut, training)


class Stage(Block):
    """The blocks of one width, of which the first has the stride."""

    kind: type[Residual]
    in_features: int
    features: int
    group_size: int
    design: Design
    stride: int
    dilations: tuple[int, ...]  # of each block
    drop_rates: tuple[float, ...]

    def setup(self):
        width, stride = self.in_features, self.stride
        for i, (dilation, rate) in enumerate(zip(self.dilations, self.drop_rates, strict=True)):
            block = self.kind(width, self.features, self.group_size, self.design, stride, dilation, rate)
            setattr(self, f'b{i + 1}', block)
            width, stride = self.features, 1

    def __call__(self, x, training=False):  # [N, H, W, in]
        for i in range(len(self.dilations)):
            x = checkpoint_name(getattr(self, f'b{i + 1}')(x, training), 'block')  # what `remat` keeps
        return x  # [N, H / stride, W / stride, features]
