"""VGG: stacks of 3x3 convolutions between max pools, and three dense layers (Simonyan & Zisserman, arXiv 1409.1556).

The first two dense layers are convolutions, as in the paper's dense evaluation and in timm: at 224 x 224 pixels that is
what Keras computes from the flattened map, and other sizes work as well.
"""

from collections.abc import Callable
from dataclasses import field
from functools import partial
from typing import ClassVar

from jax.ad_checkpoint import checkpoint_name

from jeffnet.core import initial
from jeffnet.core.activations import relu
from jeffnet.core.block import Block
from jeffnet.core.inputs import check_images
from jeffnet.core.layers import BatchNorm, Conv, Dropout
from jeffnet.core.pooling import adaptive_avg_pool, global_avg_pool, max_pool
from jeffnet.models.network import ClassifierHead, Network, level

HIDDEN = 4096  # width of the dense layers
WINDOW = 7  # pixels a side of the map that the first of them reads


class DenseLayers(Block):
    """The two hidden dense layers, at every place of the map where they fit (Simonyan & Zisserman, 2014)."""

    in_features: int
    act: Callable = relu
    drop_rate: float = 0.0

    def setup(self):
        self.fc1 = Conv(self.in_features, HIDDEN, WINDOW, padding='VALID', use_bias=True)
        self.drop = Dropout(self.drop_rate)
        self.fc2 = Conv(HIDDEN, HIDDEN, use_bias=True)

    def __call__(self, x, training=False):  # [N, h, w, in]
        size = tuple(max(side, WINDOW) for side in x.shape[1:3])
        if size != x.shape[1:3]:
            x = adaptive_avg_pool(x, size)
        x = self.drop(self.act(self.fc1(x)), training)  # [N, h - 6, w - 6, 4096]
        return self.act(self.fc2(x))


class VGG(Network):
    """Five stages of convolutions and a max pool, dense layers, classifier (Simonyan & Zisserman, 2014)."""

    classifier_name: ClassVar[str] = 'head.fc'
    first_conv: ClassVar[str] = 'features_0'
    stages: tuple[tuple[int, ...], ...] = field(repr=False)  # widths of the convolutions of each
    norm: bool = False  # batch norm behind each convolution
    act: Callable = relu

    def setup(self):
        self.features = build_features(self)
        if self.out_indices is None and self.num_classes != 0:
            self.pre_logits = DenseLayers(self.stages[-1][-1], self.act, self.drop_rate)
            options = {'drop_rate': self.drop_rate, 'kernel_init': initial.Normal(0.01)}
            self.head = ClassifierHead(HIDDEN, self.num_classes, **options) if self.num_classes > 0 else None

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        x, levels = check_images(x, self.in_chans, smallest=2 ** len(self.stages)), []
        for stage in places(self):
            for place in stage:
                x = self.features[place](x)
                x = self.act(self.features[place + 1](x, training) if self.norm else x)
            levels.append(self.tap(f'stage_{len(levels)}', checkpoint_name(x, 'block')))  # what `remat` keeps
            x = max_pool(x, 2, 2)
        levels.append(self.tap(f'stage_{len(levels)}', x))  # [N, H / 32, W / 32, C]
        return self.finish(levels, training)

    def forward_head(self, x, training=False):
        if self.num_classes == 0:
            return x
        return self.classify(global_avg_pool(self.pre_logits(x, training)), training)

    def logits(self, x, training=False):
        return self.head(x, training)

    @property
    def levels(self) -> list[dict]:
        act = 2 if self.norm else 1  # behind a convolution
        ends = [stage[-1] + act for stage in places(self)]
        widths = [stage[-1] for stage in self.stages]
        rows = zip([*widths, widths[-1]], [*ends, ends[-1] + 1], strict=True)
        return [level(i, width, 2**i, f'features.{end}') for i, (width, end) in enumerate(rows)]


def places(model) -> list[list[int]]:
    """Per stage, the places of its convolutions in timm's list, where norms, activations and pools count too."""
    found, place, step = [], 0, 3 if model.norm else 2
    for stage in model.stages:
        found.append([place + step * i for i in range(len(stage))])
        place += step * len(stage) + 1
    return found


def build_features(model) -> list[Block | None]:
    """timm's list of layers, with `None` in the places of those without variables."""
    layers, width = [None] * (places(model)[-1][-1] + 3), model.in_chans
    for stage, widths in zip(places(model), model.stages, strict=True):
        for place, features in zip(stage, widths, strict=True):
            layers[place] = Conv(width, features, 3, use_bias=True)
            if model.norm:
                layers[place + 1] = BatchNorm(features)
            width = features
    return layers


def stages(*depths: int) -> tuple[tuple[int, ...], ...]:
    """So many convolutions in each stage, of 64 to 512 channels."""
    return tuple((min(64 * 2**i, 512),) * depth for i, depth in enumerate(depths))


DEPTHS = {'vgg11': (1, 1, 2, 2, 2), 'vgg13': (2, 2, 2, 2, 2), 'vgg16': (2, 2, 3, 3, 3), 'vgg19': (2, 2, 4, 4, 4)}
VARIANTS = {
    **{name: partial(VGG, stages(*depths)) for name, depths in DEPTHS.items()},
    **{f'{name}_bn': partial(VGG, stages(*depths), norm=True) for name, depths in DEPTHS.items()},
}

WEIGHT_NAMES = ()  # timm's names are those of the general rule
