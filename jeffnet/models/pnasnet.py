"""PNASNet-5: one cell, found by progressive search, with and without strides (Liu et al., arXiv 1712.00559)."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import ClassVar

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jeffnet.core import initial
from jeffnet.core.activations import relu
from jeffnet.core.block import Block
from jeffnet.core.inputs import check_images
from jeffnet.core.layers import BatchNorm
from jeffnet.core.pooling import max_pool
from jeffnet.models.nasnet import ActConvBn, BranchSeparables, Stem, conv, halve, setup_halving
from jeffnet.models.network import Network, level


class FactorizedReduction(Block):
    """Activation, 1x1 convolutions of the even and of the odd pixels, batch norm: half the size."""

    in_features: int
    out_features: int
    act: Callable = relu

    def setup(self):
        setup_halving(self, self.in_features, self.out_features)

    def __call__(self, x, training=False):  # [N, H, W, in]
        return halve(self, x, training)  # [N, H / 2, W / 2, out]


class PooledConv(Block):
    """Max pool with stride 2, 1x1 convolution, batch norm."""

    in_features: int
    out_features: int

    def setup(self):
        self.conv, self.bn = conv(self.in_features, self.out_features), BatchNorm(self.out_features)

    def __call__(self, x, training=False):  # [N, H, W, in]
        return self.bn(self.conv(max_pool(x, 3, 2, padding='SAME')), training)


class Cell(Block):
    """`[N, H, W, in]` to `[N, H / stride, W / stride, 5 features]` (Liu et al., 2017, figure 1)."""

    in_features: int
    prev_features: int
    features: int
    stride: int = 1
    adjust: str | None = 'project'  # the input from the cell before the last: 'project', 'halve', or leave it (None)
    act: Callable = relu

    def setup(self):
        width, stride = self.features, self.stride
        older = self.prev_features if self.adjust is None else width
        if self.adjust:
            project = FactorizedReduction if self.adjust == 'halve' else ActConvBn
            self.conv_prev_1x1 = project(self.prev_features, width, self.act)
        self.conv_1x1 = ActConvBn(self.in_features, width, self.act)
        self.comb_iter_0_left = BranchSeparables(older, width, 5, stride, self.act)
        self.comb_iter_0_right = PooledConv(older, width) if self.adjust is None else None
        self.comb_iter_1_left = BranchSeparables(width, width, 7, stride, self.act)
        self.comb_iter_2_left = BranchSeparables(width, width, 5, stride, self.act)
        self.comb_iter_2_right = BranchSeparables(width, width, 3, stride, self.act)
        self.comb_iter_3_left = BranchSeparables(width, width, 3, 1, self.act)
        self.comb_iter_4_left = BranchSeparables(older, width, 3, stride, self.act)
        self.comb_iter_4_right = ActConvBn(width, width, self.act, stride) if stride > 1 else None

    def __call__(self, x, previous, training=False):
        p = previous if self.adjust is None else self.conv_prev_1x1(previous, training)
        h = self.conv_1x1(x, training)
        pool = partial(max_pool, kernel_size=3, stride=self.stride, padding='SAME')
        largest = pool(h)
        pooled = pool(p) if self.comb_iter_0_right is None else self.comb_iter_0_right(p, training)
        third = self.comb_iter_2_left(h, training) + self.comb_iter_2_right(h, training)
        nodes = [
            self.comb_iter_0_left(p, training) + pooled,
            self.comb_iter_1_left(h, training) + largest,
            third,
            self.comb_iter_3_left(third, training) + largest,
            self.comb_iter_4_left(p, training) + (h if self.stride == 1 else self.comb_iter_4_right(h, training)),
        ]
        return jnp.concatenate(nodes, -1)


class PNASNet(Network):
    """Stem of two reducing cells, three stages of cells, average pooling, classifier (Liu et al., 2017)."""

    classifier_name: ClassVar[str] = 'last_linear'
    first_conv: ClassVar[str] = 'conv_0.conv'
    features: int  # of the final feature map
    repeats: int  # cells of a stage
    stem: int  # channels of the first convolution
    act: Callable = relu

    def setup(self):
        self.conv_0 = Stem(self.in_chans, self.stem)
        width, previous, adjust = self.stem, self.stem, None
        for name, features, stride in cells(self):
            setattr(self, name, Cell(width, previous, features, stride, adjust, self.act))
            width, previous, adjust = 5 * features, width, 'halve' if stride > 1 else 'project'
        init = initial.fan_in((1, 1), self.features)
        self.setup_classifier(self.features, init, init)

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        x = check_images(x, self.in_chans, smallest=32)
        previous = x = self.conv_0(x, training)
        levels, ends = [self.tap('stage_0', x)], level_ends(self)
        for name, _, _ in cells(self):
            previous, x = x, checkpoint_name(getattr(self, name)(x, previous, training), 'block')  # what `remat` keeps
            if name in ends:
                levels.append(self.tap(f'stage_{len(levels)}', self.act(x)))
        return self.finish(levels, training)

    @property
    def levels(self) -> list[dict]:
        widths = (self.stem, *(self.features // share for share in (16, 4, 2, 1)))
        inner = [f'{cell}.conv_1x1.act' for cell in ('cell_stem_1', f'cell_{self.repeats}', f'cell_{2 * self.repeats}')]
        rows = enumerate(zip(widths, ('conv_0', *inner, 'act'), strict=True))
        return [level(i, width, 2 ** (i + 1), module) for i, (width, module) in rows]


def cells(model) -> Iterator[tuple[str, int, int]]:
    """Name, width and stride of all cells, in order."""
    unit = model.features // 20
    yield from (('cell_stem_0', unit // 4, 2), ('cell_stem_1', unit // 2, 2))
    for i in range(3 * model.repeats):
        stage, place = divmod(i, model.repeats)
        yield f'cell_{i}', unit * 2**stage, 2 if stage and not place else 1


def level_ends(model) -> tuple[str, ...]:
    """The cells whose outputs are the feature maps behind the stem's."""
    return 'cell_stem_0', *(f'cell_{stage * model.repeats - 1}' for stage in (1, 2, 3))


VARIANTS = {'pnasnet5large': partial(PNASNet, 4320, 4, 96)}

WEIGHT_NAMES = ()  # timm's names are those of the general rule
