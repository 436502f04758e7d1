"""Inception-v4: a stem of branches, too, and three kinds of blocks of them (Szegedy et al., arXiv 1602.07261)."""

from collections.abc import Callable
from dataclasses import field
from typing import ClassVar

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jeffnet.core import initial
from jeffnet.core.activations import relu
from jeffnet.core.block import Block
from jeffnet.core.inputs import check_images
from jeffnet.core.pooling import avg_pool
from jeffnet.models.inception_resnet_v2 import AVG, MAX, Mixed, joined_width
from jeffnet.models.inception_v3 import ConvNormAct
from jeffnet.models.network import Network, level

WIDE, HIGH = (1, 7), (7, 1)
STEM = ((32, 3, 2, 'VALID'), (32, 3, 1, 'VALID'), (64, 3))  # features, kernel size, stride, padding
STEM_BRANCHES = (  # of the blocks behind them
    ((MAX,), ((96, 3, 2),)),
    (((64, 1), (96, 3, 1, 'VALID')), ((64, 1), (64, WIDE), (64, HIGH), (96, 3, 1, 'VALID'))),
    (((192, 3, 2),), (MAX,)),
)
BLOCK_A = (((96, 1),), ((64, 1), (96, 3)), ((64, 1), (96, 3), (96, 3)), (AVG, (96, 1)))
REDUCTION_A = (((384, 3, 2),), ((192, 1), (224, 3), (256, 3, 2)), (MAX,))
BLOCK_B = (
    ((384, 1),), ((192, 1), (224, WIDE), (256, HIGH)),
    ((192, 1), (192, HIGH), (224, WIDE), (224, HIGH), (256, WIDE)), (AVG, (128, 1)),
)  # fmt: skip
REDUCTION_B = (((192, 1), (192, 3, 2)), ((256, 1), (256, WIDE), (320, HIGH), (320, 3, 2)), (MAX,))
TOP = 1536
SMALLEST = 75  # pixels, for which the last map still has one


class BlockC(Block):
    """Branches that split in two at their ends (Szegedy et al., 2016, figure 6)."""

    in_features: int
    act: Callable = relu

    def setup(self):
        width = self.in_features
        self.branch0 = self.convolution(width, 256)
        self.branch1_0 = self.convolution(width, 384)
        self.branch1_1a, self.branch1_1b = self.convolution(384, 256, (1, 3)), self.convolution(384, 256, (3, 1))
        self.branch2_0, self.branch2_1 = self.convolution(width, 384), self.convolution(384, 448, (3, 1))
        self.branch2_2 = self.convolution(448, 512, (1, 3))
        self.branch2_3a, self.branch2_3b = self.convolution(512, 256, (1, 3)), self.convolution(512, 256, (3, 1))
        self.branch3 = [None, self.convolution(width, 256)]  # in timm's list a pool comes first

    def convolution(self, in_features, features, kernel_size=1):
        """One convolution of a branch."""
        return ConvNormAct(in_features, features, kernel_size, act=self.act, kernel_init=None)

    def __call__(self, x, training=False):  # [N, H, W, in]
        first = self.branch1_0(x, training)
        second = self.branch2_2(self.branch2_1(self.branch2_0(x, training), training), training)
        outputs = [
            self.branch0(x, training), self.branch1_1a(first, training), self.branch1_1b(first, training),
            self.branch2_3a(second, training), self.branch2_3b(second, training),
            self.branch3[1](avg_pool(x, 3, 1, padding=1), training),
        ]  # fmt: skip
        return jnp.concatenate(outputs, -1)  # [N, H, W, 1536]


class InceptionV4(Network):
    """Stem, seventeen blocks of branches, average pooling, classifier (Szegedy et al., 2016)."""

    classifier_name: ClassVar[str] = 'last_linear'
    first_conv: ClassVar[str] = 'features_0.conv'
    repeats: tuple[int, int, int] = field(default=(4, 7, 3), repr=False)  # blocks of each kind
    act: Callable = relu

    def setup(self):
        self.features = build_features(self)
        init = initial.fan_in((1, 1), TOP)
        self.setup_classifier(TOP, init, init)

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        x = check_images(x, self.in_chans, smallest=SMALLEST)
        levels, ends = [], level_ends(self)
        for place, block in enumerate(self.features):
            x = block(x, training)
            if place >= len(STEM):
                x = checkpoint_name(x, 'block')  # what `remat` keeps
            if place in ends:
                levels.append(self.tap(f'stage_{len(levels)}', x))
        return self.finish(levels, training)

    @property
    def levels(self) -> list[dict]:
        rows = enumerate(zip((64, 160, 384, 1024, TOP), level_ends(self), strict=True))
        return [level(i, width, 2 ** (i + 1), f'features.{place}') for i, (width, place) in rows]


def build_features(model) -> list[Block]:
    """timm's list of all blocks."""
    layers, width = [], model.in_chans
    for unit in STEM:
        layers.append(ConvNormAct(width, *unit, act=model.act, kernel_init=None))
        width = unit[0]
    first, second, third = model.repeats
    for branches in (*STEM_BRANCHES, *[BLOCK_A] * first, REDUCTION_A, *[BLOCK_B] * second, REDUCTION_B):
        layers.append(Mixed(width, branches, model.act))
        width = joined_width(branches, width)
    return [*layers, *(BlockC(width, model.act) for _ in range(third))]


def level_ends(model) -> tuple[int, ...]:
    """The places in the list of the last blocks before each change of size."""
    first, second, third = model.repeats
    before = len(STEM) + len(STEM_BRANCHES)
    return len(STEM) - 1, len(STEM), before + first - 1, before + first + second, before + first + second + third + 1


VARIANTS = {'inception_v4': InceptionV4}

# The convolution beside a pool has no branch of its own in timm.
WEIGHT_NAMES = ((r'^features\.3\.branch1\.', 'features.3.conv.'), (r'^features\.5\.branch0\.', 'features.5.conv.'))
