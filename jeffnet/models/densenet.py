"""DenseNet: each layer reads the outputs of all layers before it in its block (Huang et al., arXiv 1608.06993).

timm's, torchvision's and Keras' networks are the same but for epsilon and momentum of batch norm. Of the anti-aliased
one only the pool of the stem is.
"""

import math
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
from jeffnet.core.layers import BatchNorm, Conv
from jeffnet.core.pooling import avg_pool, blur_pool, max_pool
from jeffnet.models.network import Network, level

BOTTLENECK = 4  # width of the 1x1 convolution as a multiple of the growth


def conv(in_features: int, out_features: int, kernel_size: int = 1, stride: int = 1) -> Conv:
    """A convolution initialised as in the reference code, N(0, sqrt(2 / fan-in))."""
    init = initial.Normal(math.sqrt(2 / (in_features * kernel_size**2)))
    return Conv(in_features, out_features, kernel_size, stride, kernel_init=init)


class DenseLayer(Block):
    """Norm, 1x1 convolution, norm, 3x3 convolution; its output joins its input (Huang et al., 2016)."""

    in_features: int
    growth: int
    act: Callable = relu

    def setup(self):
        mid = BOTTLENECK * self.growth
        self.norm1, self.conv1 = BatchNorm(self.in_features), conv(self.in_features, mid)
        self.norm2, self.conv2 = BatchNorm(mid), conv(mid, self.growth, 3)

    def __call__(self, x, training=False):  # [N, H, W, in]
        new = self.conv1(self.act(self.norm1(x, training)))  # [N, H, W, 4 growth]
        new = self.conv2(self.act(self.norm2(new, training)))  # [N, H, W, growth]
        return jnp.concatenate([x, new], -1)


class DenseBlock(Block):
    """Layers that grow the features by `growth` each."""

    in_features: int
    layers: int
    growth: int
    act: Callable = relu

    def setup(self):
        for i in range(self.layers):
            setattr(self, f'denselayer{i + 1}', DenseLayer(self.in_features + i * self.growth, self.growth, self.act))

    def __call__(self, x, training=False):  # [N, H, W, in]
        for i in range(self.layers):
            x = getattr(self, f'denselayer{i + 1}')(x, training)
        return x  # [N, H, W, in + layers growth]


class Transition(Block):
    """Norm, 1x1 convolution to half the width, 2x2 average pooling."""

    in_features: int
    act: Callable = relu

    def setup(self):
        self.norm = BatchNorm(self.in_features)
        self.conv = conv(self.in_features, self.in_features // 2)

    def __call__(self, x, training=False):  # [N, H, W, in]
        return avg_pool(self.conv(self.act(self.norm(x, training))), 2, 2)  # [N, H / 2, W / 2, in / 2]


class Features(Block):
    """Stem, dense blocks with transitions between them, and the last norm; returns all levels of `feature_info`."""

    in_chans: int
    growth: int
    layers: tuple[int, ...]
    deep_stem: bool = False
    blur: bool = False
    act: Callable = relu

    def setup(self):
        width = 2 * self.growth
        if self.deep_stem:
            widths = [self.in_chans, self.growth, self.growth, width]
            for i in range(3):
                setattr(self, f'conv{i}', conv(widths[i], widths[i + 1], 3, 1 if i else 2))
                setattr(self, f'norm{i}', BatchNorm(widths[i + 1]))
        else:
            self.conv0, self.norm0 = conv(self.in_chans, width, 7, 2), BatchNorm(width)
        for i, layers in enumerate(self.layers):
            setattr(self, f'denseblock{i + 1}', DenseBlock(width, layers, self.growth, self.act))
            width += layers * self.growth
            if i + 1 < len(self.layers):
                setattr(self, f'transition{i + 1}', Transition(width, self.act))
                width //= 2
        self.norm5 = BatchNorm(width)

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        for i in range(3 if self.deep_stem else 1):
            x = self.act(getattr(self, f'norm{i}')(getattr(self, f'conv{i}')(x), training))
        levels = [self.tap('stage_0', x)]  # [N, H / 2, W / 2, 2 growth]
        x = self.pool(x)  # [N, H / 4, W / 4, 2 growth]
        for i in range(len(self.layers)):
            x = checkpoint_name(getattr(self, f'denseblock{i + 1}')(x, training), 'block')  # what `remat` keeps
            if i + 1 < len(self.layers):
                levels.append(self.tap(f'stage_{i + 1}', x))
                x = getattr(self, f'transition{i + 1}')(x, training)
        x = self.act(self.norm5(x, training))
        return [*levels, self.tap(f'stage_{len(self.layers)}', x)]

    def pool(self, x):
        """Half the size."""
        return blur_pool(max_pool(x, 3, 1, padding=1)) if self.blur else max_pool(x, 3, 2, padding=1)


class DenseNet(Network):
    """Dense blocks, average pooling, classifier (Huang et al., 2016)."""

    classifier_name: ClassVar[str] = 'classifier'
    first_conv: ClassVar[str] = 'features.conv0'
    layers: tuple[int, ...] = field(repr=False)  # of each dense block
    growth: int = 32
    deep_stem: bool = False  # three 3x3 convolutions for the one of 7x7
    blur: bool = False  # behind the max pool, which then has no stride
    act: Callable = relu

    def setup(self):
        self.features = Features(self.in_chans, self.growth, self.layers, self.deep_stem, self.blur, self.act)
        width = self.levels[-1]['num_chs']
        self.setup_classifier(width, initial.Uniform(1 / math.sqrt(width)))

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        return self.finish(self.features(check_images(x, self.in_chans, smallest=32), training), training)

    @property
    def levels(self) -> list[dict]:
        width, last = 2 * self.growth, len(self.layers)
        levels = [level(0, width, 2, f'features.norm{2 * self.deep_stem}')]
        for i, layers in enumerate(self.layers, start=1):
            width += layers * self.growth
            module = 'norm5' if i == last else f'denseblock{i}'
            levels.append(level(i, width, 2 ** (i + 1), f'features.{module}'))
            width //= 2
        return levels


VARIANTS = {
    'densenet121': partial(DenseNet, (6, 12, 24, 16)),
    'densenetblur121d': partial(DenseNet, (6, 12, 24, 16), deep_stem=True, blur=True),
    'densenet169': partial(DenseNet, (6, 12, 32, 32)),
    'densenet201': partial(DenseNet, (6, 12, 48, 32)),
    'densenet161': partial(DenseNet, (6, 12, 36, 24), growth=48),
    'densenet264d': partial(DenseNet, (6, 12, 64, 48), growth=48, deep_stem=True),
}

WEIGHT_NAMES = ()  # timm's names are those of the general rule, and torchvision's are timm's
