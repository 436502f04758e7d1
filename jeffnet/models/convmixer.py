"""ConvMixer: patches, then depthwise and 1x1 convolutions of one width (Trockman & Kolter, arXiv 2201.09792)."""

import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar

from jax.ad_checkpoint import checkpoint_name

from jeffnet.core import initial
from jeffnet.core.activations import gelu, relu
from jeffnet.core.block import Block
from jeffnet.core.inputs import check_images
from jeffnet.core.layers import BatchNorm, Conv
from jeffnet.models.network import Network, level


def layer(in_features: int, features: int, kernel_size: int = 1, stride: int = 1, **options) -> list[Block | None]:
    """Convolution, activation, for which timm's list has a place, and norm; initialised as PyTorch does by itself."""
    fan_in = in_features // options.get('groups', 1) * kernel_size**2
    init = initial.Uniform(1 / math.sqrt(fan_in))
    options |= {'use_bias': True, 'kernel_init': init, 'bias_init': init}
    return [Conv(in_features, features, kernel_size, stride, **options), None, BatchNorm(features)]


def run(layers: list, act: Callable, x, training: bool):
    """What a list made by `layer` computes."""
    convolution, _, norm = layers
    return norm(act(convolution(x)), training)


class Depthwise(Block):
    """A depthwise convolution beside a shortcut."""

    features: int
    kernel_size: int
    act: Callable = gelu

    def setup(self):
        self.fn = layer(self.features, self.features, self.kernel_size, groups=self.features)

    def __call__(self, x, training=False):  # [N, h, w, features]
        return run(self.fn, self.act, x, training) + x


class ConvMixer(Network):
    """Patches, blocks of a depthwise and a 1x1 convolution, pooling, classifier (Trockman & Kolter, 2022)."""

    classifier_name: ClassVar[str] = 'head'
    first_conv: ClassVar[str] = 'stem_0'
    width: int
    depth: int
    kernel_size: int = 9  # of the depthwise convolutions
    patch_size: int = 7
    act: Callable = gelu

    def setup(self):
        # Pixels that fill no patch are left out.
        self.stem = layer(self.in_chans, self.width, self.patch_size, self.patch_size, padding='VALID')
        self.blocks = [
            [Depthwise(self.width, self.kernel_size, self.act), *layer(self.width, self.width)]
            for _ in range(self.depth)
        ]
        init = initial.Uniform(1 / math.sqrt(self.width))
        self.setup_classifier(self.width, init, init)

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        x = check_images(x, self.in_chans, smallest=self.patch_size)
        x = self.tap('block_0', run(self.stem, self.act, x, training))  # [N, H / patch, W / patch, width]
        levels = []
        for i, (depthwise, *pointwise) in enumerate(self.blocks):
            x = run(pointwise, self.act, depthwise(x, training), training)
            x = checkpoint_name(x, 'block')  # what `remat` keeps
            levels.append(self.tap(f'block_{i + 1}', x))
        return self.finish(levels, training)

    @property
    def levels(self) -> list[dict]:
        return [level(i + 1, self.width, self.patch_size, f'blocks.{i}') for i in range(self.depth)]


VARIANTS = {
    'convmixer_1536_20': partial(ConvMixer, 1536, 20),
    'convmixer_768_32': partial(ConvMixer, 768, 32, kernel_size=7, act=relu),
    'convmixer_1024_20_ks9_p14': partial(ConvMixer, 1024, 20, patch_size=14),
}

WEIGHT_NAMES = ()  # timm's names are those of the general rule
FEATURE_MAPS = 3  # `features_only` returns this many of the last blocks unless told otherwise, as timm
