"""HorNet: gates of neighbouring pixels, applied again and again, in the place of attention (Rao et al., 2207.14284).

timm has no HorNet: names and arrays are those of the authors' files.
"""

from collections.abc import Callable
from dataclasses import field
from functools import partial
from itertools import pairwise
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jeffnet.core import initial
from jeffnet.core.activations import gelu
from jeffnet.core.block import Block, Param
from jeffnet.core.inputs import check_images
from jeffnet.core.layers import Conv, Dropout, LayerNorm, Linear, at_least_float32
from jeffnet.models.network import Network, level

EXPANSION = 4  # hidden width of a block as a multiple of its width
SCALE = 1e-6  # of a new block's residual branches
GATE = 1 / 3  # factor of all gates, which are multiplied with each other
SMALL_NORMAL = initial.Normal(0.02)  # the authors cut it off at -2 and 2, which is at a hundred deviations


def conv(in_features: int, out_features: int, kernel_size: int = 1, stride: int = 1, **options) -> Conv:
    """A convolution with a bias, initialised as in the authors' code."""
    options = {'use_bias': True, 'kernel_init': SMALL_NORMAL, **options}
    return Conv(in_features, out_features, kernel_size, stride, **options)


def patches(in_features: int, out_features: int, size: int) -> Conv:
    """A linear map of patches that do not overlap; pixels that fill no patch are left out."""
    return conv(in_features, out_features, size, size, padding='VALID')


class GlobalLocalFilter(Block):
    """Depthwise 3x3 on half of the channels, a learned filter of all frequencies on the others (Rao et al., 2022)."""

    features: int
    size: tuple[int, int]  # of the stored filter: height, and width / 2 + 1, of the image that it was made for

    def setup(self):
        half = self.features // 2
        self.dw = conv(half, half, 3, groups=half, use_bias=False)
        self.complex_weight = Param((half, *self.size, 2), SMALL_NORMAL)  # real and imaginary parts, as in the files
        self.pre_norm, self.post_norm = LayerNorm(self.features), LayerNorm(self.features)

    def __call__(self, x):  # [N, H, W, features]
        near, far = jnp.split(self.pre_norm(x), 2, axis=-1)
        halves = jnp.stack([self.dw(near), self.filter(far)], axis=-1)  # [N, H, W, features / 2, 2]
        return self.post_norm(halves.reshape(x.shape))  # channels of both halves in turn

    def filter(self, x):
        """The product of `x` `[N, H, W, features / 2]` with the filter in the frequencies, computed in float32.

        The way back is one axis at a time: the product is the spectrum of no real image, which transforms of two axes
        take for granted, and each library makes something else of.
        """
        wide = x.astype(at_least_float32(x.dtype))
        spectrum = jnp.fft.rfft2(wide, axes=(1, 2), norm='ortho')  # [N, H, W / 2 + 1, features / 2]
        parts = jnp.moveaxis(jnp.asarray(self.complex_weight, wide.dtype), 0, 2)  # [h, w, features / 2, 2]
        for axis in (0, 1):
            parts = stretched(parts, spectrum.shape[1 + axis], axis)
        columns = jnp.fft.ifft(spectrum * lax.complex(parts[..., 0], parts[..., 1]), axis=1, norm='ortho')
        return jnp.fft.irfft(columns, x.shape[2], axis=2, norm='ortho').astype(x.dtype)


def stretched(x, size: int, axis: int):
    """Linear interpolation along an axis to `size` points, the first and last of which stay where they are."""
    old = x.shape[axis]
    if old == size:
        return x
    places = np.linspace(0, old - 1, size)
    before = places.astype(int)
    share = jnp.asarray(places - before, x.dtype).reshape(-1, *[1] * (x.ndim - axis - 1))
    after = np.minimum(before + 1, old - 1)
    return x.take(before, axis) * (1 - share) + x.take(after, axis) * share


class GnConv(Block):
    """Recursive gated convolution: `order` products with gates, at widths that double each time (Rao et al., 2022)."""

    features: int
    order: int
    filter_size: tuple[int, int] | None = None  # of a global-local filter for the gates; None: a 7x7 convolution

    def setup(self):
        widths, gates = self.widths, sum(self.widths)
        self.proj_in = conv(self.features, 2 * self.features)
        if self.filter_size is None:
            self.dwconv = conv(gates, gates, 7, groups=gates)
        else:
            self.dwconv = GlobalLocalFilter(gates, self.filter_size)
        self.proj_out = conv(self.features, self.features)
        self.pws = [conv(before, after) for before, after in pairwise(widths)]

    def __call__(self, x):  # [N, H, W, features]
        x, gates = jnp.split(self.proj_in(x), self.widths[:1], axis=-1)  # [N, H, W, widths[0]], [N, H, W, sum(widths)]
        points = np.cumsum(self.widths)[:-1]  # numpy, since they must stay static under jit
        first, *others = jnp.split(self.dwconv(gates) * GATE, points, axis=-1)
        x = x * first
        for layer, gate in zip(self.pws, others, strict=True):
            x = layer(x) * gate  # [N, H, W, twice as wide]
        return self.proj_out(x)  # [N, H, W, features]

    @property
    def widths(self) -> list[int]:
        """Channels of each gate; the last are all."""
        return [self.features // 2**k for k in reversed(range(self.order))]


class HorNetBlock(Block):
    """Recursive gated convolution, then a perceptron, both with norm and learned scale (Rao et al., 2022)."""

    features: int
    order: int
    filter_size: tuple[int, int] | None = None
    act: Callable = gelu
    drop_rate: float = 0.0

    def setup(self):
        width = self.features
        self.norm1 = LayerNorm(width)
        self.gnconv = GnConv(width, self.order, self.filter_size)
        self.norm2 = LayerNorm(width)
        self.pwconv1 = Linear(width, EXPANSION * width, kernel_init=SMALL_NORMAL)
        self.pwconv2 = Linear(EXPANSION * width, width, kernel_init=SMALL_NORMAL)
        self.gamma1, self.gamma2 = (Param((width,), initial.Constant(SCALE)) for _ in range(2))
        self.drop_path = Dropout(self.drop_rate, per_sample=True)  # draws anew for each half

    def __call__(self, x, training=False):  # [N, H, W, features]
        mixed = self.gnconv(self.norm1(x))
        x = x + self.drop_path(mixed * jnp.asarray(self.gamma1, x.dtype), training)
        mapped = self.pwconv2(self.act(self.pwconv1(self.norm2(x))))
        return x + self.drop_path(mapped * jnp.asarray(self.gamma2, x.dtype), training)


class HorNet(Network):
    """Patches of 4x4 pixels, four stages of doubling width, pooling, norm, classifier (Rao et al., 2022)."""

    classifier_name: ClassVar[str] = 'head'
    first_conv: ClassVar[str] = 'downsample_layers_0_0'
    width: int  # of the first stage
    filter_sizes: tuple[tuple[int, int] | None, ...] = field(default=(None,) * 4, repr=False)  # of each stage's GnConv
    depths: tuple[int, ...] = field(default=(2, 3, 18, 2), repr=False)  # blocks of each stage
    orders: tuple[int, ...] = field(default=(2, 3, 4, 5), repr=False)  # of each stage's GnConv
    act: Callable = gelu
    drop_path_rate: float = 0.0

    def setup(self):
        first, last = self.widths[0], self.widths[-1]
        stem = [patches(self.in_chans, first, 4), LayerNorm(first)]
        halving = [[LayerNorm(before), patches(before, after, 2)] for before, after in pairwise(self.widths)]
        self.downsample_layers = [stem, *halving]
        self.stages = build_stages(self)
        if self.out_indices is None and self.num_classes != 0:
            self.norm = LayerNorm(last)
        self.setup_classifier(last, SMALL_NORMAL)

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        x = check_images(x, self.in_chans, smallest=32)
        levels = []
        for i, (downsample, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            for layer in downsample:
                x = layer(x)
            if i == 0:
                x = self.tap('stage_0', x)  # [N, H / 4, W / 4, width]
            for block in stage:
                x = checkpoint_name(block(x, training), 'block')  # what `remat` keeps
            levels.append(self.tap(f'stage_{i + 1}', x))
        return self.finish(levels, training)

    def classify(self, x, training=False):
        return super().classify(self.norm(x), training)

    @property
    def widths(self) -> list[int]:
        """Channels of each stage."""
        return [self.width * 2**i for i in range(len(self.depths))]

    @property
    def levels(self) -> list[dict]:
        return [level(i + 1, width, 2 ** (i + 2), f'stages.{i}') for i, width in enumerate(self.widths)]


def build_stages(model) -> list[list[HorNetBlock]]:
    """The blocks of a network, stage by stage; their drop rates grow from 0 to the model's."""
    total = sum(model.depths)
    rates = iter([model.drop_path_rate * i / max(total - 1, 1) for i in range(total)])
    kinds = zip(model.depths, model.widths, model.orders, model.filter_sizes, strict=True)
    return [
        [HorNetBlock(width, order, filter_size, model.act, next(rates)) for _ in range(depth)]
        for depth, width, order, filter_size in kinds
    ]


WIDTHS = {'tiny': 64, 'small': 96, 'base': 128, 'large': 192}
FILTERS = {'gf': ((14, 8), (7, 4)), 'gf_384': ((24, 13), (12, 7))}  # made for 224 and 384 pixels
VARIANTS = {f'hornet_{size}': partial(HorNet, width) for size, width in WIDTHS.items()} | {
    f'hornet_{size}_{kind}': partial(HorNet, width, (None, None, *filters))
    for size, width in WIDTHS.items()
    for kind, filters in FILTERS.items()
}

WEIGHT_NAMES = ()  # the authors' names are those of the general rule
