"""Inception-V3: blocks of parallel branches of small and factorised convolutions (Szegedy et al., arXiv 1512.00567).

Keras' batch norms have no scale, and its average pools do not count the padding; those of timm and torchvision do.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jeffnet.core import initial
from jeffnet.core.activations import relu
from jeffnet.core.block import Block
from jeffnet.core.inputs import check_images
from jeffnet.core.layers import BatchNorm, Conv
from jeffnet.core.padding import pair
from jeffnet.core.pooling import avg_pool, max_pool
from jeffnet.models.network import Network, level

NORMAL = initial.Normal(0.1, truncated=True)


@dataclass(frozen=True)
class Unit:
    """A convolution of a branch; with a stride it has no padding."""

    name: str  # of the module
    features: int
    kernel_size: int | tuple[int, int] = 1
    stride: int = 1


@dataclass(frozen=True)
class Branch:
    """Convolutions one after the other, behind a pool if there is one; those of `split` side by side at the end."""

    units: tuple[Unit, ...] = ()
    split: tuple[Unit, ...] = ()
    pool: str | None = None  # 'avg', 'max' (with stride 2)

    @property
    def all_units(self) -> tuple[Unit, ...]:
        """In the order of the modules."""
        return self.units + self.split


def chain(name: str, *units: tuple, split: tuple = ()) -> Branch:
    """A branch whose modules are called `name_1`, `name_2`, ..., the ones side by side with letters."""
    made = [Unit(f'{name}_{i}', *unit) for i, unit in enumerate(units, start=1)]
    beside = [Unit(f'{name}_{len(units) + 1}{letter}', *unit) for letter, unit in zip('ab', split, strict=False)]
    return Branch(tuple(made), tuple(beside))


def single(name: str, *unit, pool: str | None = None) -> Branch:
    """A branch of one convolution."""
    return Branch((Unit(name, *unit),), pool=pool)


def block_a(pool: int) -> tuple[Branch, ...]:
    """The first kind (Figure 5 of the paper)."""
    return (
        single('branch1x1', 64), chain('branch5x5', (48,), (64, 5)), chain('branch3x3dbl', (64,), (96, 3), (96, 3)),
        single('branch_pool', pool, pool='avg'),
    )  # fmt: skip


def block_c(width: int) -> tuple[Branch, ...]:
    """Factorised 7x7 convolutions (Figure 6)."""
    wide, high = (1, 7), (7, 1)
    return (
        single('branch1x1', 192), chain('branch7x7', (width,), (width, wide), (192, high)),
        chain('branch7x7dbl', (width,), (width, high), (width, wide), (width, high), (192, wide)),
        single('branch_pool', 192, pool='avg'),
    )  # fmt: skip


WIDER = ((384, (1, 3)), (384, (3, 1)))
BLOCK_B = (single('branch3x3', 384, 3, 2), chain('branch3x3dbl', (64,), (96, 3), (96, 3, 2)), Branch(pool='max'))
BLOCK_D = (
    chain('branch3x3', (192,), (320, 3, 2)), chain('branch7x7x3', (192,), (192, (1, 7)), (192, (7, 1)), (192, 3, 2)),
    Branch(pool='max'),
)  # fmt: skip
BLOCK_E = (  # Figure 7
    single('branch1x1', 320), chain('branch3x3', (384,), split=WIDER),
    chain('branch3x3dbl', (448,), (384, 3), split=WIDER), single('branch_pool', 192, pool='avg'),
)  # fmt: skip
STEM = (  # name, features, kernel, stride, padding
    ('Conv2d_1a_3x3', 32, 3, 2, 'VALID'), ('Conv2d_2a_3x3', 32, 3, 1, 'VALID'), ('Conv2d_2b_3x3', 64, 3, 1, 'LIKE'),
    ('Conv2d_3b_1x1', 80, 1, 1, 'VALID'), ('Conv2d_4a_3x3', 192, 3, 1, 'VALID'),
)  # fmt: skip
BLOCKS = {
    'Mixed_5b': block_a(32), 'Mixed_5c': block_a(64), 'Mixed_5d': block_a(64), 'Mixed_6a': BLOCK_B,
    'Mixed_6b': block_c(128), 'Mixed_6c': block_c(160), 'Mixed_6d': block_c(160), 'Mixed_6e': block_c(192),
    'Mixed_7a': BLOCK_D, 'Mixed_7b': BLOCK_E, 'Mixed_7c': BLOCK_E,
}  # fmt: skip
LEVELS = (  # feature maps before each change of size: timm's module, channels, total stride
    ('Conv2d_2b_3x3', 64, 2), ('Conv2d_4a_3x3', 192, 4), ('Mixed_5d', 288, 8), ('Mixed_6e', 768, 16),
    ('Mixed_7c', 2048, 32),
)  # fmt: skip
SMALLEST = 75  # pixels, for which the last map still has one


class ConvNormAct(Block):
    """Convolution, batch norm, activation."""

    in_features: int
    out_features: int
    kernel_size: int | tuple[int, int] = 1
    stride: int = 1
    padding: str = 'LIKE'
    act: Callable = relu
    norm_scale: bool = True
    kernel_init: Callable | None = NORMAL  # None: PyTorch's own

    def setup(self):
        init = self.kernel_init or initial.fan_in(pair(self.kernel_size), self.in_features)
        options = {'padding': self.padding, 'kernel_init': init}
        self.conv = Conv(self.in_features, self.out_features, self.kernel_size, self.stride, **options)
        self.bn = BatchNorm(self.out_features, use_scale=self.norm_scale)

    def __call__(self, x, training=False):  # [N, H, W, in]
        return self.act(self.bn(self.conv(x), training))


class Mixed(Block):
    """Branches side by side, their outputs concatenated (Szegedy et al., 2015)."""

    in_features: int
    branches: tuple[Branch, ...]
    act: Callable = relu
    norm_scale: bool = True
    count_padding: bool = True  # in average pools

    def setup(self):
        for branch in self.branches:
            width = self.in_features
            for unit in branch.all_units:
                padding = 'LIKE' if unit.stride == 1 else 'VALID'
                shape = (unit.features, unit.kernel_size, unit.stride, padding)
                setattr(self, unit.name, ConvNormAct(width, *shape, act=self.act, norm_scale=self.norm_scale))
                width = width if unit in branch.split else unit.features

    def __call__(self, x, training=False):  # [N, H, W, in]
        return jnp.concatenate([y for branch in self.branches for y in self.run(branch, x, training)], -1)

    def run(self, branch, x, training):
        """The outputs of one branch, several where it splits at its end."""
        if branch.pool == 'avg':
            x = avg_pool(x, 3, 1, padding=1, count_padding=self.count_padding)
        elif branch.pool == 'max':
            x = max_pool(x, 3, 2)
        for unit in branch.units:
            x = getattr(self, unit.name)(x, training)
        return [getattr(self, unit.name)(x, training) for unit in branch.split] or [x]


def mixed_width(in_features: int, branches: tuple[Branch, ...]) -> int:
    """Channels behind a block."""
    widths = [
        [unit.features for unit in branch.split] or [u.features for u in branch.units[-1:]] for branch in branches
    ]
    return sum(sum(own) if own else in_features for own in widths)


class InceptionV3(Network):
    """Stem of small convolutions, eleven blocks of branches, average pooling, classifier (Szegedy et al., 2015)."""

    first_conv: ClassVar[str] = 'Conv2d_1a_3x3.conv'
    act: Callable = relu
    norm_scale: bool = True  # of batch norm
    count_padding: bool = True  # in average pools

    def setup(self):
        width, same = self.in_chans, {'act': self.act, 'norm_scale': self.norm_scale}
        for name, features, kernel_size, stride, padding in STEM:
            setattr(self, name, ConvNormAct(width, features, kernel_size, stride, padding, **same))
            width = features
        for name, branches in BLOCKS.items():
            setattr(self, name, Mixed(width, branches, count_padding=self.count_padding, **same))
            width = mixed_width(width, branches)
        self.setup_classifier(width, NORMAL, initial.Uniform(1 / math.sqrt(width)))

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        x = check_images(x, self.in_chans, smallest=SMALLEST)
        levels, ends = [], [name for name, _, _ in LEVELS]
        for name in (*(unit[0] for unit in STEM), *BLOCKS):
            x = getattr(self, name)(x, training)
            if name in BLOCKS:
                x = checkpoint_name(x, 'block')  # what `remat` keeps
            if name in ends:
                levels.append(self.tap(f'stage_{len(levels)}', x))
            if name in ends[:2]:
                x = max_pool(x, 3, 2)
        return self.finish(levels, training)

    @property
    def levels(self) -> list[dict]:
        return [level(i, width, reduction, module) for i, (module, width, reduction) in enumerate(LEVELS)]


VARIANTS = {'inception_v3': InceptionV3}

WEIGHT_NAMES = ()  # timm's names are those of the general rule, and torchvision's are timm's
LEFT_OUT = r'AuxLogits\.'  # the second classifier of torchvision's files, which only training has a use for
