"""ConvNeXt: a convolutional network in the manner of transformers (Liu et al., arXiv 2201.03545).

timm's and Keras' networks are the same; Keras spells the linear layers of a block as dense ones, as here.
"""

from collections.abc import Callable
from dataclasses import field
from functools import partial
from itertools import pairwise
from typing import ClassVar

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jeffnet.core import initial
from jeffnet.core.activations import gelu
from jeffnet.core.attention import Mlp
from jeffnet.core.block import Block, Param
from jeffnet.core.inputs import check_images
from jeffnet.core.layers import Conv, Dropout, LayerNorm, Linear, at_least_float32
from jeffnet.models.network import Network, level

EXPANSION = 4  # hidden width of a block as a multiple of its width
SCALE = 1e-6  # of a new block's residual branch
SMALL_NORMAL = initial.Normal(0.02)  # the reference code cuts it off at -2 and 2, which is at a hundred deviations


def conv(in_features: int, out_features: int, kernel_size: int, stride: int = 1, **options) -> Conv:
    """A convolution with a bias, initialised as in the reference code."""
    options = {'use_bias': True, 'kernel_init': SMALL_NORMAL, **options}
    return Conv(in_features, out_features, kernel_size, stride, **options)


def patches(in_features: int, out_features: int, size: int) -> Conv:
    """A linear map of patches that do not overlap; pixels that fill no patch are left out."""
    return conv(in_features, out_features, size, size, padding='VALID')


class ConvNeXtBlock(Block):
    """Depthwise 7x7, norm, perceptron, learned scale, residual connection (Liu et al., 2022)."""

    features: int
    act: Callable = gelu
    drop_rate: float = 0.0

    def setup(self):
        width = self.features
        self.conv_dw = conv(width, width, 7, groups=width)
        self.norm = LayerNorm(width)
        self.mlp = Mlp(width, EXPANSION * width, self.act, SMALL_NORMAL)
        self.gamma = Param((width,), initial.Constant(SCALE))
        self.drop_path = Dropout(self.drop_rate, per_sample=True)

    def __call__(self, x, training=False):  # [N, H, W, features]
        shortcut = x
        x = self.mlp(self.norm(self.conv_dw(x)))
        return shortcut + self.drop_path(x * jnp.asarray(self.gamma, x.dtype), training)


class Stage(Block):
    """Blocks of one width, behind a norm and a 2x2 convolution that halves the image (Liu et al., 2022)."""

    in_features: int
    features: int
    drop_rates: tuple[float, ...]  # of each block
    downsampling: bool = True
    act: Callable = gelu

    def setup(self):
        pair = [LayerNorm(self.in_features), patches(self.in_features, self.features, 2)]
        self.downsample = pair if self.downsampling else []
        self.blocks = [ConvNeXtBlock(self.features, self.act, rate) for rate in self.drop_rates]

    def __call__(self, x, training=False):  # [N, H, W, in]
        for layer in self.downsample:
            x = layer(x)
        for block in self.blocks:
            x = checkpoint_name(block(x, training), 'block')  # what `remat` keeps
        return x  # [N, H / 2, W / 2, features]


class Head(Block):
    """Norm of the pooled features, dropout, classifier."""

    features: int
    num_classes: int
    drop_rate: float = 0.0

    def setup(self):
        self.norm = LayerNorm(self.features)
        if self.num_classes > 0:
            self.dropout = Dropout(self.drop_rate)
            self.fc = Linear(self.features, self.num_classes, kernel_init=SMALL_NORMAL)

    def __call__(self, x, training=False):  # [N, features]
        x = self.norm(x)
        if self.num_classes > 0:
            x = self.fc(self.dropout(x, training))
        return x.astype(at_least_float32(x.dtype))


class ConvNeXt(Network):
    """Patches of 4x4 pixels, four stages, pooling, norm, classifier (Liu et al., 2022)."""

    classifier_name: ClassVar[str] = 'head.fc'
    first_conv: ClassVar[str] = 'stem_0'
    depths: tuple[int, ...] = field(repr=False)  # blocks of each stage
    widths: tuple[int, ...] = field(repr=False)
    act: Callable = gelu
    drop_path_rate: float = 0.0

    def setup(self):
        first = self.widths[0]
        self.stem = [patches(self.in_chans, first, 4), LayerNorm(first)]
        self.stages = build_stages(self)
        if self.out_indices is None and self.num_classes != 0:
            self.head = Head(self.widths[-1], self.num_classes, self.drop_rate)

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        x = check_images(x, self.in_chans, smallest=32)
        for layer in self.stem:
            x = layer(x)
        x = self.tap('stage_0', x)  # [N, H / 4, W / 4, widths[0]]
        levels = []
        for i, stage in enumerate(self.stages):
            x = stage(x, training)
            levels.append(self.tap(f'stage_{i + 1}', x))
        return self.finish(levels, training)

    def classify(self, x, training=False):
        return self.head(x, training)

    @property
    def levels(self) -> list[dict]:
        return [level(i + 1, width, 2 ** (i + 2), f'stages.{i}') for i, width in enumerate(self.widths)]


def build_stages(model) -> list[Stage]:
    """The stages of a network; the drop rates of its blocks grow from 0 to the model's."""
    total = sum(model.depths)
    rates = iter([model.drop_path_rate * i / max(total - 1, 1) for i in range(total)])
    stages = []
    for i, (before, width) in enumerate(pairwise((model.widths[0], *model.widths))):
        own = tuple(next(rates) for _ in range(model.depths[i]))
        stages.append(Stage(before, width, own, downsampling=i > 0, act=model.act))
    return stages


DEEP = (3, 3, 27, 3)
VARIANTS = {
    'convnext_tiny': partial(ConvNeXt, (3, 3, 9, 3), (96, 192, 384, 768)),
    'convnext_small': partial(ConvNeXt, DEEP, (96, 192, 384, 768)),
    'convnext_base': partial(ConvNeXt, DEEP, (128, 256, 512, 1024)),
    'convnext_large': partial(ConvNeXt, DEEP, (192, 384, 768, 1536)),
    'convnext_xlarge': partial(ConvNeXt, DEEP, (256, 512, 1024, 2048)),
}

WEIGHT_NAMES = ()  # timm's names are those of the general rule
