"""VAN, Visual Attention Network: attention as a product with a convolution of a large kernel (Guo et al., 2202.09741).

timm has no VAN: names and arrays are those of the authors' files.
"""

from collections.abc import Callable
from dataclasses import field
from functools import partial
from typing import ClassVar

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jeffnet.core import initial
from jeffnet.core.activations import gelu
from jeffnet.core.block import Block, Param
from jeffnet.core.inputs import check_images
from jeffnet.core.layers import BatchNorm, Conv, Dropout, LayerNorm
from jeffnet.models.network import Network, level

EXPANSIONS = (8, 8, 4, 4)  # hidden widths of each stage's perceptrons, as multiples of its width
SCALE = 1e-2  # of a new block's residual branches
SMALL_NORMAL = initial.Normal(0.02)  # the authors cut it off at -2 and 2, which is at a hundred deviations


def depthwise(features: int, kernel_size: int, dilation: int = 1) -> Conv:
    """A convolution of each channel by itself, with a bias."""
    return Conv(features, features, kernel_size, dilation=dilation, groups=features, use_bias=True)


def pointwise(in_features: int, out_features: int) -> Conv:
    """A linear map of each pixel."""
    return Conv(in_features, out_features, use_bias=True)


class LargeKernelAttention(Block):
    """The product of the input and its 21x21 convolution, the kernel in three factors (Guo et al., 2022)."""

    features: int

    def setup(self):
        self.conv0 = depthwise(self.features, 5)
        self.conv_spatial = depthwise(self.features, 7, dilation=3)
        self.conv1 = pointwise(self.features, self.features)

    def __call__(self, x):  # [N, H, W, features]
        return x * self.conv1(self.conv_spatial(self.conv0(x)))


class SpatialAttention(Block):
    """Large-kernel attention between two linear maps, beside a shortcut of its own (Guo et al., 2022)."""

    features: int
    act: Callable = gelu

    def setup(self):
        self.proj_1 = pointwise(self.features, self.features)
        self.spatial_gating_unit = LargeKernelAttention(self.features)
        self.proj_2 = pointwise(self.features, self.features)

    def __call__(self, x):  # [N, H, W, features]
        return x + self.proj_2(self.spatial_gating_unit(self.act(self.proj_1(x))))


class ConvMlp(Block):
    """Two linear maps, with a depthwise 3x3 convolution in front of the activation between them."""

    features: int
    hidden: int
    act: Callable = gelu

    def setup(self):
        self.fc1 = pointwise(self.features, self.hidden)
        self.dwconv = depthwise(self.hidden, 3)
        self.fc2 = pointwise(self.hidden, self.features)

    def __call__(self, x):  # [N, H, W, features]
        return self.fc2(self.act(self.dwconv(self.fc1(x))))


class VANBlock(Block):
    """Spatial attention, then a perceptron, both with norm and learned scale (Guo et al., 2022)."""

    features: int
    hidden: int  # width of the perceptron
    act: Callable = gelu
    drop_rate: float = 0.0

    def setup(self):
        width = self.features
        self.norm1 = BatchNorm(width)
        self.attn = SpatialAttention(width, self.act)
        self.norm2 = BatchNorm(width)
        self.mlp = ConvMlp(width, self.hidden, self.act)
        self.layer_scale_1, self.layer_scale_2 = (Param((width,), initial.Constant(SCALE)) for _ in range(2))
        self.drop_path = Dropout(self.drop_rate, per_sample=True)  # draws anew for each half

    def __call__(self, x, training=False):  # [N, H, W, features]
        mixed = self.attn(self.norm1(x, training))
        x = x + self.drop_path(mixed * jnp.asarray(self.layer_scale_1, x.dtype), training)
        mapped = self.mlp(self.norm2(x, training))
        return x + self.drop_path(mapped * jnp.asarray(self.layer_scale_2, x.dtype), training)


class PatchEmbed(Block):
    """A strided convolution whose windows overlap, and a norm."""

    in_features: int
    features: int
    kernel_size: int
    stride: int

    def setup(self):
        options = {'padding': self.kernel_size // 2, 'use_bias': True}
        self.proj = Conv(self.in_features, self.features, self.kernel_size, self.stride, **options)
        self.norm = BatchNorm(self.features)

    def __call__(self, x, training=False):  # [N, H, W, in]
        return self.norm(self.proj(x), training)  # [N, H / stride, W / stride, features]


class VAN(Network):
    """Four stages, each of a strided convolution, blocks and a norm, then pooling, classifier (Guo et al., 2022)."""

    classifier_name: ClassVar[str] = 'head'
    first_conv: ClassVar[str] = 'patch_embed1.proj'
    widths: tuple[int, ...] = field(repr=False)
    depths: tuple[int, ...] = field(repr=False)  # blocks of each stage
    act: Callable = gelu
    drop_path_rate: float = 0.0

    def setup(self):
        blocks = build_stages(self)
        before = self.in_chans
        for i, width in enumerate(self.widths):
            kernel_size, stride = (3, 2) if i else (7, 4)
            setattr(self, f'patch_embed{i + 1}', PatchEmbed(before, width, kernel_size, stride))
            setattr(self, f'block{i + 1}', blocks[i])
            setattr(self, f'norm{i + 1}', LayerNorm(width))
            before = width
        self.setup_classifier(before, SMALL_NORMAL)

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        x = check_images(x, self.in_chans, smallest=32)
        levels = []
        for i in range(1, len(self.widths) + 1):
            x = getattr(self, f'patch_embed{i}')(x, training)
            if i == 1:
                x = self.tap('stage_0', x)  # [N, H / 4, W / 4, widths[0]]
            for block in getattr(self, f'block{i}'):
                x = checkpoint_name(block(x, training), 'block')  # what `remat` keeps
            x = getattr(self, f'norm{i}')(x)
            levels.append(self.tap(f'stage_{i}', x))
        return self.finish(levels, training)

    @property
    def levels(self) -> list[dict]:
        return [level(i + 1, width, 2 ** (i + 2), f'norm{i + 1}') for i, width in enumerate(self.widths)]


def build_stages(model) -> list[list[VANBlock]]:
    """The blocks of a network, stage by stage; their drop rates grow from 0 to the model's."""
    total = sum(model.depths)
    rates = iter([model.drop_path_rate * i / max(total - 1, 1) for i in range(total)])
    kinds = zip(model.depths, model.widths, EXPANSIONS, strict=True)
    return [
        [VANBlock(width, expansion * width, model.act, next(rates)) for _ in range(depth)]
        for depth, width, expansion in kinds
    ]


WIDE = (64, 128, 320, 512)
VARIANTS = {
    'van_b0': partial(VAN, (32, 64, 160, 256), (3, 3, 5, 2)),
    'van_b1': partial(VAN, WIDE, (2, 2, 4, 2)),
    'van_b2': partial(VAN, WIDE, (3, 3, 12, 3)),
    'van_b3': partial(VAN, WIDE, (3, 5, 27, 3)),
    'van_b4': partial(VAN, WIDE, (3, 6, 40, 3)),
    'van_b5': partial(VAN, (96, 192, 480, 768), (3, 3, 24, 3)),
    'van_b6': partial(VAN, (96, 192, 384, 768), (6, 6, 90, 6)),
}

WEIGHT_NAMES = ((r'(\.mlp\.dwconv)\.', r'\1.dwconv.'),)  # the authors' convolution lies in a module of its own
