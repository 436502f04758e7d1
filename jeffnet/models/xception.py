"""Xception: depthwise separable convolutions with shortcuts around every two or three (Chollet, arXiv 1610.02357).

timm's and Keras' networks are the same but for padding and epsilon of batch norm.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from jax.ad_checkpoint import checkpoint_name

from jeffnet.core import initial
from jeffnet.core.activations import relu
from jeffnet.core.block import Block
from jeffnet.core.inputs import check_images
from jeffnet.core.layers import BatchNorm, Conv
from jeffnet.core.pooling import max_pool
from jeffnet.models.network import Network, level


@dataclass(frozen=True)
class Shape:
    """The convolutions of a block, and whether it halves the image."""

    widths: tuple[int, ...]
    shrink: bool = False


STEM = 64
BLOCKS = (  # entry flow, middle flow, exit flow (Figure 5 of the paper)
    Shape((128, 128), True), Shape((256, 256), True), Shape((728, 728), True),
    *[Shape((728, 728, 728))] * 8,
    Shape((728, 1024), True),
)  # fmt: skip
TOP = (1536, 2048)
LEVELS = (  # feature maps before each change of size: blocks before it, timm's module, channels, total stride
    (0, 'act2', 64, 2), (1, 'block2.rep.0', 128, 4), (2, 'block3.rep.0', 256, 8), (11, 'block12.rep.0', 728, 16),
    (12, 'act4', 2048, 32),
)  # fmt: skip


class SeparableConv(Block):
    """Depthwise 3x3, then 1x1 convolution, nothing between them."""

    in_features: int
    out_features: int

    def setup(self):
        self.conv1 = Conv(self.in_features, self.in_features, 3, groups=self.in_features)
        self.pointwise = Conv(self.in_features, self.out_features)

    def __call__(self, x):  # [N, H, W, in]
        return self.pointwise(self.conv1(x))


class XceptionBlock(Block):
    """Activation, separable convolution and norm, two or three times, beside a shortcut (Chollet, 2016)."""

    in_features: int
    shape: Shape
    act: Callable = relu
    act_first: bool = True  # whether an activation comes before the first convolution, too

    def setup(self):
        found, width = places(self.shape, self.act_first), self.in_features
        layers = [None] * (found[-1] + 2)
        for place, features in zip(found, self.shape.widths, strict=True):
            layers[place : place + 2] = SeparableConv(width, features), BatchNorm(features)
            width = features
        self.rep = layers
        if self.shape.shrink:
            self.skip, self.skipbn = Conv(self.in_features, width, 1, 2), BatchNorm(width)

    def __call__(self, x, training=False):  # [N, H, W, in]
        shortcut = self.skipbn(self.skip(x), training) if self.shape.shrink else x
        for i, place in enumerate(places(self.shape, self.act_first)):
            x = self.act(x) if i or self.act_first else x
            x = self.rep[place + 1](self.rep[place](x), training)
        if self.shape.shrink:
            x = max_pool(x, 3, 2, padding=self.policy.padding)  # [N, H / 2, W / 2, out]
        return x + shortcut


def places(shape: Shape, act_first: bool) -> list[int]:
    """Where the convolutions of a block stand in timm's list of its layers, where activations count, too."""
    return [3 * i + act_first for i in range(len(shape.widths))]


class Xception(Network):
    """Two convolutions, twelve blocks, two separable convolutions, average pooling, classifier (Chollet, 2016)."""

    first_conv: ClassVar[str] = 'conv1'
    act: Callable = relu

    def setup(self):
        self.conv1, self.bn1 = Conv(self.in_chans, STEM // 2, 3, 2, padding='VALID'), BatchNorm(STEM // 2)
        self.conv2, self.bn2 = Conv(STEM // 2, STEM, 3, padding='VALID'), BatchNorm(STEM)
        width = STEM
        for i, shape in enumerate(BLOCKS):
            setattr(self, f'block{i + 1}', XceptionBlock(width, shape, self.act, act_first=i > 0))
            width = shape.widths[-1]
        self.conv3, self.bn3 = SeparableConv(width, TOP[0]), BatchNorm(TOP[0])
        self.conv4, self.bn4 = SeparableConv(*TOP), BatchNorm(TOP[1])
        self.setup_classifier(TOP[1], initial.Uniform(1 / math.sqrt(TOP[1])))

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        x = check_images(x, self.in_chans, smallest=32)
        x = self.act(self.bn1(self.conv1(x), training))  # [N, H / 2, W / 2, 32]
        x = self.act(self.bn2(self.conv2(x), training))  # [N, H / 2, W / 2, 64]
        levels, ends = [], [block for block, *_ in LEVELS[:-1]]
        for i in range(len(BLOCKS)):
            if i in ends:
                levels.append(self.tap(f'stage_{len(levels)}', self.act(x)))
            x = checkpoint_name(getattr(self, f'block{i + 1}')(x, training), 'block')  # what `remat` keeps
        x = self.act(self.bn3(self.conv3(x), training))
        x = self.act(self.bn4(self.conv4(x), training))  # [N, H / 32, W / 32, 2048]
        levels.append(self.tap(f'stage_{len(levels)}', x))
        return self.finish(levels, training)

    @property
    def levels(self) -> list[dict]:
        return [level(i, width, reduction, module) for i, (_, module, width, reduction) in enumerate(LEVELS)]


VARIANTS = {'legacy_xception': Xception}

WEIGHT_NAMES = ()  # timm's names are those of the general rule
