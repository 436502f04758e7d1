"""NASNet-A: cells found by search, each of which reads the two cells before it (Zoph et al., arXiv 1707.07012).

Modules are called as timm's. Where the size is halved, zeros around the image count in means; in Keras in maxima too.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import ClassVar

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jeffnet.core import initial
from jeffnet.core.activations import relu
from jeffnet.core.block import Block
from jeffnet.core.inputs import check_images
from jeffnet.core.layers import BatchNorm, Conv
from jeffnet.core.padding import resolve
from jeffnet.core.pooling import avg_pool, max_pool
from jeffnet.models.network import Network, level


def conv(in_features: int, out_features: int, kernel_size: int = 1, stride: int = 1, **options) -> Conv:
    """A convolution initialised as in Keras, N(0, sqrt(2 / fan-in))."""
    init = initial.Normal(math.sqrt(2 / (in_features * kernel_size**2)))
    return Conv(in_features, out_features, kernel_size, stride, kernel_init=init, **options)


def halving_max_pool(x, zero_pad: bool):
    """3x3 maximum of `[N, H, W, C]` with stride 2; `zero_pad`: zeros around the image count as pixels."""
    if not zero_pad:
        return max_pool(x, 3, 2, padding='SAME')
    pairs = resolve('SAME', x.shape[1:3], (3, 3), (2, 2))
    return max_pool(jnp.pad(x, ((0, 0), *pairs, (0, 0))), 3, 2)


class Stem(Block):
    """3x3 convolution without padding, batch norm."""

    in_features: int
    out_features: int

    def setup(self):
        self.conv = conv(self.in_features, self.out_features, 3, 2, padding='VALID')
        self.bn = BatchNorm(self.out_features)

    def __call__(self, x, training=False):  # [N, H, W, in]
        return self.bn(self.conv(x), training)  # [N, (H - 1) / 2, (W - 1) / 2, out]


class ActConvBn(Block):
    """Activation, 1x1 convolution, batch norm."""

    in_features: int
    out_features: int
    act: Callable = relu
    stride: int = 1

    def setup(self):
        self.conv = conv(self.in_features, self.out_features, 1, self.stride)
        self.bn = BatchNorm(self.out_features)

    def __call__(self, x, training=False):  # [N, H, W, in]
        return self.bn(self.conv(self.act(x)), training)  # [N, H / stride, W / stride, out]


class Separable(Block):
    """Depthwise k x k, 1x1 convolution."""

    in_features: int
    out_features: int
    kernel_size: int
    stride: int = 1

    def setup(self):
        width = self.in_features
        # SAME in timm's networks, too
        options = {'groups': width, 'padding': 'SAME'}
        self.depthwise_conv2d = Conv(width, width, self.kernel_size, self.stride, **options)
        self.pointwise_conv2d = conv(width, self.out_features)

    def __call__(self, x):  # [N, H, W, in]
        return self.pointwise_conv2d(self.depthwise_conv2d(x))  # [N, H / stride, W / stride, out]


class BranchSeparables(Block):
    """Activation, separable convolution, batch norm, twice (Zoph et al., 2017)."""

    in_features: int
    out_features: int
    kernel_size: int
    stride: int = 1
    act: Callable = relu

    def setup(self):
        width = self.out_features
        self.separable_1 = Separable(self.in_features, width, self.kernel_size, self.stride)
        self.bn_sep_1 = BatchNorm(width)
        self.separable_2, self.bn_sep_2 = Separable(width, width, self.kernel_size), BatchNorm(width)

    def __call__(self, x, training=False):  # [N, H, W, in]
        x = self.bn_sep_1(self.separable_1(self.act(x)), training)  # [N, H / stride, W / stride, out]
        return self.bn_sep_2(self.separable_2(self.act(x)), training)


class HalfPath(Block):
    """1x1 convolution of every second pixel."""

    in_features: int
    out_features: int

    def setup(self):
        self.conv = conv(self.in_features, self.out_features)

    def __call__(self, x):  # [N, H, W, in]
        return self.conv(x[:, ::2, ::2])  # [N, H / 2, W / 2, out]


def setup_halving(block, in_features: int, out_features: int):
    """Declares the layers of `halve` in a block."""
    block.path_1, block.path_2 = (HalfPath(in_features, out_features // 2) for _ in range(2))
    block.final_path_bn = BatchNorm(out_features)


def halve(block, x, training):
    """Half the size of `[N, H, W, in]`: the even pixels in half of the channels, the odd ones in the other half."""
    x = block.act(x)
    shifted = jnp.pad(x[:, 1:, 1:], ((0, 0), (0, 1), (0, 1), (0, 0)))
    return block.final_path_bn(jnp.concatenate([block.path_1(x), block.path_2(shifted)], -1), training)


class Cell(Block):
    """What normal and reduction cells share: both inputs are brought to the cell's size and width."""

    in_features: int
    prev_features: int
    features: int
    adjust: str | None = 'project'  # the input from the cell before the last: 'project', 'halve', or leave it (None)
    zero_pad_pool: bool = False
    act: Callable = relu

    def setup_inputs(self):
        """Declares the layers of the two inputs."""
        self.conv_1x1 = ActConvBn(self.in_features, self.features, self.act)
        if self.adjust == 'project':
            self.conv_prev_1x1 = ActConvBn(self.prev_features, self.features, self.act)
        elif self.adjust == 'halve':
            setup_halving(self, self.prev_features, self.features)

    def previous(self, x, training):
        """The older input `[N, H, W, prev]`, or one of twice the size, as `[N, H, W, features]`."""
        if self.adjust == 'project':
            return self.conv_prev_1x1(x, training)
        if self.adjust == 'halve':
            return halve(self, x, training)
        return x


class NormalCell(Cell):
    """Keeps the size: `[N, H, W, in]` to `[N, H, W, 6 features]` (Zoph et al., 2017, figure 4)."""

    def setup(self):
        self.setup_inputs()
        width = self.features
        self.comb_iter_0_left = BranchSeparables(width, width, 5, act=self.act)
        self.comb_iter_0_right = BranchSeparables(width, width, 3, act=self.act)
        self.comb_iter_1_left = BranchSeparables(width, width, 5, act=self.act)
        self.comb_iter_1_right = BranchSeparables(width, width, 3, act=self.act)
        self.comb_iter_4_left = BranchSeparables(width, width, 3, act=self.act)

    def __call__(self, x, previous, training=False):
        p, h = self.previous(previous, training), self.conv_1x1(x, training)  # [N, H, W, features]
        average = partial(avg_pool, kernel_size=3, stride=1, padding='SAME')
        nodes = [
            p,
            self.comb_iter_0_left(h, training) + self.comb_iter_0_right(p, training),
            self.comb_iter_1_left(p, training) + self.comb_iter_1_right(p, training),
            average(h) + p,
            2 * average(p),
            self.comb_iter_4_left(h, training) + h,
        ]
        return jnp.concatenate(nodes, -1)


class ReductionCell(Cell):
    """Halves the size: `[N, H, W, in]` to `[N, H / 2, W / 2, 4 features]` (Zoph et al., 2017, figure 4)."""

    def setup(self):
        self.setup_inputs()
        width, older = self.features, self.prev_features if self.adjust is None else self.features
        self.comb_iter_0_left = BranchSeparables(width, width, 5, 2, self.act)
        self.comb_iter_0_right = BranchSeparables(older, width, 7, 2, self.act)
        self.comb_iter_1_right = BranchSeparables(older, width, 7, 2, self.act)
        self.comb_iter_2_right = BranchSeparables(older, width, 5, 2, self.act)
        self.comb_iter_4_left = BranchSeparables(width, width, 3, act=self.act)

    def __call__(self, x, previous, training=False):
        p, h = self.previous(previous, training), self.conv_1x1(x, training)
        largest = halving_max_pool(h, self.zero_pad_pool)
        mean = avg_pool(h, 3, 2, padding='SAME', count_padding=True)
        first = self.comb_iter_0_left(h, training) + self.comb_iter_0_right(p, training)
        second = largest + self.comb_iter_1_right(p, training)
        third = mean + self.comb_iter_2_right(p, training)
        fourth = avg_pool(first, 3, 1, padding='SAME') + second
        fifth = self.comb_iter_4_left(first, training) + largest
        return jnp.concatenate([second, third, fourth, fifth], -1)


class NASNet(Network):
    """Stem of two reduction cells, three stages of normal cells with reductions between them, pooling, classifier."""

    classifier_name: ClassVar[str] = 'last_linear'
    first_conv: ClassVar[str] = 'conv0.conv'
    features: int  # of the final feature map
    repeats: int  # normal cells of a stage
    stem: int  # channels of the first convolution
    skip_reduction: bool = False  # the cell behind a reduction reads the cell two before that, not the one before
    zero_pad_pool: bool = False  # zeros around the image count in the maxima of a reduction cell, too
    act: Callable = relu

    def setup(self):
        self.conv0 = Stem(self.in_chans, self.stem)
        for name, cell in build_cells(self).items():
            setattr(self, name, cell)
        self.setup_classifier(self.features, initial.Uniform(1 / math.sqrt(self.features)))

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        x = check_images(x, self.in_chans, smallest=32)
        previous = x = self.conv0(x, training)
        levels, ends = [self.tap('stage_0', x)], level_ends(self)
        for name, kind, _ in cells(self):
            before, x = x, checkpoint_name(getattr(self, name)(x, previous, training), 'block')  # what `remat` keeps
            if not (self.skip_reduction and kind is ReductionCell and name not in STEM_CELLS):
                previous = before
            if name in ends:
                levels.append(self.tap(f'stage_{len(levels)}', self.act(x)))
        return self.finish(levels, training)

    @property
    def levels(self) -> list[dict]:
        unit = self.features // 24
        widths = (self.stem, unit, 6 * unit, 12 * unit, 24 * unit)
        inner = [f'{cell}.conv_1x1.act' for cell in ('cell_stem_1', 'reduction_cell_0', 'reduction_cell_1')]
        rows = enumerate(zip(widths, ('conv0', *inner, 'act'), strict=True))
        return [level(i, width, 2 ** (i + 1), module) for i, (width, module) in rows]


STEM_CELLS = ('cell_stem_0', 'cell_stem_1')


def cells(model) -> Iterator[tuple[str, type[Cell], int]]:
    """Name, class and width of all cells, in order."""
    unit, repeats = model.features // 24, model.repeats
    yield from zip(STEM_CELLS, (ReductionCell,) * 2, (unit // 4, unit // 2), strict=True)
    for stage in range(3):
        if stage:
            yield f'reduction_cell_{stage - 1}', ReductionCell, unit * 2**stage
        for i in range(repeats):
            yield f'cell_{stage * repeats + i}', NormalCell, unit * 2**stage


def level_ends(model) -> tuple[str, ...]:
    """The cells whose outputs are the feature maps behind the stem's."""
    return STEM_CELLS[0], *(f'cell_{(stage + 1) * model.repeats - 1}' for stage in range(3))


def build_cells(model) -> dict[str, Cell]:
    """The cells of a network by name."""
    built, width, previous, adjust = {}, model.stem, model.stem, None
    for name, kind, features in cells(model):
        built[name] = kind(width, previous, features, adjust, model.zero_pad_pool, model.act)
        reduces = kind is ReductionCell
        if not (model.skip_reduction and reduces and name not in STEM_CELLS):
            previous = width
        width, adjust = features * (4 if reduces else 6), 'halve' if reduces else 'project'
    return built


VARIANTS = {
    'nasnetamobile': partial(NASNet, 1056, 4, 32),
    'nasnetalarge': partial(NASNet, 4032, 6, 96, skip_reduction=True),
}

WEIGHT_NAMES = ()  # timm's names are those of the general rule
