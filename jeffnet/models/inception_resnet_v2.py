"""Inception-ResNet-v2: blocks of parallel branches beside shortcuts (Szegedy et al., arXiv 1602.07261).

timm's and Keras' networks are the same but for the batch norms, which have no scale in Keras.
"""

from collections.abc import Callable
from dataclasses import field
from typing import ClassVar

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jeffnet.core import initial
from jeffnet.core.activations import identity, relu
from jeffnet.core.block import Block
from jeffnet.core.inputs import check_images
from jeffnet.core.layers import Conv
from jeffnet.core.pooling import avg_pool, max_pool
from jeffnet.models.inception_v3 import ConvNormAct
from jeffnet.models.network import Network, level

AVG, MAX = 'avg', 'max'  # 3x3 pools of a branch; the second halves the image
Unit = tuple  # features, kernel size, stride, padding: with a stride by default none
Branches = tuple[tuple[Unit | str, ...], ...]

STEM = {  # module: features, kernel size, stride, padding
    'conv2d_1a': (32, 3, 2, 'VALID'), 'conv2d_2a': (32, 3, 1, 'VALID'), 'conv2d_2b': (64, 3),
    'conv2d_3b': (80, 1), 'conv2d_4a': (192, 3, 1, 'VALID'),
}  # fmt: skip
MIXED_5B = (((96, 1),), ((48, 1), (64, 5)), ((64, 1), (96, 3), (96, 3)), (AVG, (64, 1)))
BLOCK_35 = (((32, 1),), ((32, 1), (32, 3)), ((32, 1), (48, 3), (64, 3)))
MIXED_6A = (((384, 3, 2),), ((256, 1), (256, 3), (384, 3, 2)), (MAX,))
BLOCK_17 = (((192, 1),), ((128, 1), (160, (1, 7)), (192, (7, 1))))
MIXED_7A = (((256, 1), (384, 3, 2)), ((256, 1), (288, 3, 2)), ((256, 1), (288, 3), (320, 3, 2)), (MAX,))
BLOCK_8 = (((192, 1),), ((192, 1), (224, (1, 3)), (256, (3, 1))))
TRUNK = {  # module: its branches, and, of those beside shortcuts, the factor before the sum
    'mixed_5b': (MIXED_5B, None), 'repeat': (BLOCK_35, 0.17), 'mixed_6a': (MIXED_6A, None),
    'repeat_1': (BLOCK_17, 0.1), 'mixed_7a': (MIXED_7A, None), 'repeat_2': (BLOCK_8, 0.2),
}  # fmt: skip
TOP = 1536
LEVELS = {  # feature maps before each change of size, by timm's module: channels, total stride
    'conv2d_2b': (64, 2), 'conv2d_4a': (192, 4), 'repeat': (320, 8), 'repeat_1': (1088, 16), 'conv2d_7b': (TOP, 32),
}  # fmt: skip
SMALLEST = 75  # pixels, for which the last map still has one


class Mixed(Block):
    """Branches side by side, their outputs concatenated (Szegedy et al., 2016)."""

    in_features: int
    branches: Branches
    act: Callable = relu
    norm_scale: bool = True

    def setup(self):
        self.setup_branches()

    def setup_branches(self):
        """Declares the convolutions as timm: one alone under the branch's name, several as its list, pools included."""
        for i, branch in enumerate(self.branches):
            modules, width = [], self.in_features
            for unit in branch:
                modules.append(None if unit in (AVG, MAX) else self.convolution(width, *unit))
                width = width if unit in (AVG, MAX) else unit[0]
            setattr(self, f'branch{i}', modules if len(modules) > 1 else modules[0])

    def convolution(self, in_features, features, kernel_size, stride=1, padding=None):
        """One convolution of a branch."""
        padding = padding or ('LIKE' if stride == 1 else 'VALID')
        options = {'act': self.act, 'norm_scale': self.norm_scale, 'kernel_init': None}
        return ConvNormAct(in_features, features, kernel_size, stride, padding, **options)

    def __call__(self, x, training=False):  # [N, H, W, in]
        return self.joined(x, training)

    def joined(self, x, training):
        """The outputs of the branches `[N, H', W', sum of their widths]`."""
        outputs = []
        for i, branch in enumerate(self.branches):
            modules, y = getattr(self, f'branch{i}'), x
            for unit, module in zip(branch, modules if len(branch) > 1 else [modules], strict=True):
                y = POOLS[unit](y) if module is None else module(y, training)
            outputs.append(y)
        return jnp.concatenate(outputs, -1)


POOLS = {
    AVG: lambda x: avg_pool(x, 3, 1, padding=1),
    MAX: lambda x: max_pool(x, 3, 2),
}


class Residual(Mixed):
    """Branches joined by a 1x1 convolution, scaled down and added to the input (Szegedy et al., 2016)."""

    factor: float = 1.0
    last_act: Callable = relu

    def setup(self):
        self.setup_branches()
        width = joined_width(self.branches)
        init = initial.fan_in((1, 1), width)
        self.conv2d = Conv(width, self.in_features, use_bias=True, kernel_init=init, bias_init=init)

    def __call__(self, x, training=False):  # [N, H, W, in]
        return self.last_act(x + self.factor * self.conv2d(self.joined(x, training)))


def joined_width(branches: Branches, in_features: int = 0) -> int:
    """Channels of the joined branches."""
    return sum(in_features if branch[-1] == MAX else branch[-1][0] for branch in branches)


class InceptionResNetV2(Network):
    """Stem of small convolutions, three runs of residual blocks, average pooling, classifier (Szegedy et al., 2016)."""

    classifier_name: ClassVar[str] = 'classif'
    first_conv: ClassVar[str] = 'conv2d_1a.conv'
    repeats: tuple[int, int, int] = field(default=(10, 20, 9), repr=False)  # residual blocks of each run
    act: Callable = relu
    norm_scale: bool = True  # of batch norm

    def setup(self):
        width, same = self.in_chans, {'act': self.act, 'norm_scale': self.norm_scale}
        for name, unit in STEM.items():
            setattr(self, name, ConvNormAct(width, *unit, kernel_init=None, **same))
            width = unit[0]
        repeats = iter(self.repeats)
        for name, (branches, factor) in TRUNK.items():
            if factor:
                options = {'factor': factor, 'last_act': self.act, **same}
                setattr(self, name, [Residual(width, branches, **options) for _ in range(next(repeats))])
            else:
                setattr(self, name, Mixed(width, branches, **same))
                width = joined_width(branches, width)
        self.block8 = Residual(width, BLOCK_8, last_act=identity, **same)
        self.conv2d_7b = ConvNormAct(width, TOP, kernel_init=None, **same)
        init = initial.fan_in((1, 1), TOP)
        self.setup_classifier(TOP, init, init)

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        x = check_images(x, self.in_chans, smallest=SMALLEST)
        levels = []
        for name in (*STEM, *TRUNK, 'block8', 'conv2d_7b'):
            for block in modules_of(self, name):
                x = block(x, training)
                if name not in STEM:
                    x = checkpoint_name(x, 'block')  # what `remat` keeps
            if name in LEVELS:
                levels.append(self.tap(f'stage_{len(levels)}', x))
            if name in ('conv2d_2b', 'conv2d_4a'):
                x = max_pool(x, 3, 2)
        return self.finish(levels, training)

    @property
    def levels(self) -> list[dict]:
        rows = enumerate(LEVELS.items())
        return [level(i, width, reduction, module) for i, (module, (width, reduction)) in rows]


def modules_of(model, name: str) -> list:
    """The blocks of a run, or the one module of that name."""
    found = getattr(model, name)
    return found if name.startswith('repeat') else [found]


VARIANTS = {'inception_resnet_v2': InceptionResNetV2}

WEIGHT_NAMES = ()  # timm's names are those of the general rule
