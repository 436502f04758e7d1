"""ResNet: residual networks of basic or bottleneck blocks, with all that timm, PyTorch and Keras have made of them.

A bottleneck has its stride in the 3x3 convolution, as timm and torchvision (v1.5), or in the first 1x1, as the paper
and Keras (v1), where every convolution has a bias too. Stems B, C, D, S and T are those of GluonCV and timm. Papers:
ResNet (He et al., arXiv 1512.03385); bag of tricks, C and D (He et al., 1812.01187); ResNeXt (Xie et al., 1611.05431);
wide ResNet (Zagoruyko & Komodakis, 1605.07146); squeeze-and-excitation (Hu et al., 1709.01507); ECA-Net (Wang et al.,
1910.03151); blur pooling (Zhang, 1904.11486); group norm (Wu & He, 1803.08494); ResNet-RS (Bello et al., 2103.07579);
weights: ResNet strikes back, a1 to c3 (Wightman et al., 2110.00476), of weak supervision (Mahajan et al., 1805.00932),
semi-supervised (Yalniz et al., 1905.00546), and pruned (Aflalo et al., 2002.08258).
"""

import math
from dataclasses import field
from functools import partial

from jax.ad_checkpoint import checkpoint_name

from jeffnet.core import initial
from jeffnet.core.block import Block
from jeffnet.core.inputs import check_images
from jeffnet.core.layers import Conv
from jeffnet.core.pooling import avg_pool, blur_pool, max_pool
from jeffnet.models.network import Network, level
from jeffnet.models.resnet_blocks import (
    BasicBlock,
    Bottleneck,
    Design,
    Pruned,
    Stages,
    build_stages,
    level_widths,
    norm,
    stages,
)  # fmt: skip
from jeffnet.models.resnet_pruned import PRUNED


class ResNet(Design, Network):
    """7x7 convolution, max pooling, stages of residual blocks, average pooling, classifier (He et al., 2015)."""

    stages: Stages = field(repr=False)
    stem: int = 64
    stem_widths: tuple[int, ...] = field(default=(), repr=False)  # of 3x3 convolutions in the place of the 7x7 one
    conv_pool: bool = False  # a convolution in the place of the max pool
    small_images: bool = False  # of CIFAR: one 3x3 convolution without a stride, no pool
    pruned: Pruned = field(default=(), repr=False)
    output_stride: int = 32
    drop_path_rate: float = 0.0

    def setup(self):
        self.conv1, self.bn1 = build_stem(self), norm(self, self.stem)
        if self.conv_pool:
            self.maxpool = [Conv(self.stem, self.stem, 3, 2), norm(self, self.stem)]
        for i, blocks in enumerate(build_stages(self), start=1):
            setattr(self, f'layer{i}', blocks)
        width = level_widths(self)[-1]
        init = initial.Uniform(1 / math.sqrt(width))  # PyTorch's own, of kernel and bias
        self.setup_classifier(width, init, init)

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        x = check_images(x, self.in_chans, smallest=self.levels[-1]['reduction'])
        x = self.run_stem(x, training)  # [N, H / 2, W / 2, stem]
        x = self.tap('stage_0', self.act(self.bn1(x, training)))
        levels = [x]
        x = self.pool(x, training)  # [N, H / 4, W / 4, stem]
        for i in range(1, len(self.stages) + 1):
            for block in getattr(self, f'layer{i}'):
                x = checkpoint_name(block(x, training), 'block')  # what `remat` keeps
            levels.append(self.tap(f'stage_{i}', x))
        return self.finish(levels, training)

    def run_stem(self, x, training):
        """The convolutions of the stem, with norm and activation between them."""
        if not self.stem_widths:
            return self.conv1(x)
        for i in range(len(self.stem_widths)):
            x = self.act(self.conv1[3 * i + 1](self.conv1[3 * i](x), training))
        return self.conv1[-1](x)

    def pool(self, x, training):
        """Half the size."""
        if self.small_images:
            return x
        if self.conv_pool:
            conv, norm = self.maxpool
            return self.act(norm(conv(x), training))
        if self.anti_alias == 'avg':
            return avg_pool(x, 2, 2)
        return blur_pool(max_pool(x, 3, 1, padding=1)) if self.anti_alias else max_pool(x, 3, 2, padding=1)

    @property
    def stem_stride(self) -> int:
        """Total stride before the first stage."""
        return 1 if self.small_images else 4

    @property
    def first_conv(self) -> str:
        """The flat name of the convolution that reads the image."""
        return 'conv1_0' if self.stem_widths else 'conv1'

    @property
    def levels(self) -> list[dict]:
        first = (self.stem_stride + 1) // 2
        strides = [first, *(min(self.stem_stride * 2**i, self.output_stride) for i in range(len(self.stages)))]
        return [
            level(i, width, stride, f'layer{i}' if i else 'act1')
            for i, (width, stride) in enumerate(zip(level_widths(self), strides, strict=True))
        ]


def build_stem(model) -> Block | list[Block | None]:
    """One convolution, or timm's list of 3x3 ones with norms between them, in which activations count."""
    if model.small_images:
        return Conv(model.in_chans, model.stem, 3)
    if not model.stem_widths:
        return Conv(model.in_chans, model.stem, 7, 2, use_bias=model.conv_bias)
    layers, width, stride = [], model.in_chans, 2
    for features in model.stem_widths:
        layers += [Conv(width, features, 3, stride), norm(model, features), None]
        width, stride = features, 1
    return [*layers, Conv(width, model.stem, 3)]


# ----------------------------------------------------------------------------------------------------------- variants

# Blocks of each stage, by the number of layers with kernels that bottlenecks then have.
REPEATS = {
    14: (1, 1, 1, 1), 26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3),
    201: (3, 24, 36, 4), 269: (3, 30, 48, 8), 270: (4, 29, 53, 4), 350: (4, 36, 72, 4), 420: (4, 44, 87, 4),
}  # fmt: skip
# Stems and shortcuts, by the letter behind the number.
FORMS = {
    '': {},
    'c': {'stem_widths': (32, 32)},
    'd': {'stem_widths': (32, 32), 'avg_down': True},
    'e': {'stem_widths': (64, 64), 'stem': 128, 'avg_down': True},
    's': {'stem_widths': (64, 64), 'stem': 128},
    't': {'stem_widths': (24, 32), 'avg_down': True},
}
SE, ECA = {'se_ratio': 1 / 16}, {'eca': True}
AA, BLUR = {'anti_alias': 'avg'}, {'anti_alias': 'blur'}


def basic(*repeats: int, form: str = '', **options) -> partial:
    """A network of basic blocks."""
    return partial(ResNet, stages(BasicBlock, *repeats), **FORMS[form], **options)


def deep(layers: int, form: str = '', groups: str = '', **options) -> partial:
    """A network of bottlenecks; `groups` are cardinality and width, `32x4d`."""
    if groups:
        cardinality, width = groups.removesuffix('d').split('x')
        options |= {'cardinality': int(cardinality), 'base_width': int(width)}
    return partial(ResNet, stages(Bottleneck, *REPEATS[layers]), **FORMS[form], **options)


VARIANTS = {
    'resnet10t': basic(1, 1, 1, 1, form='t'),
    'resnet18': basic(2, 2, 2, 2),
    'resnet18d': basic(2, 2, 2, 2, form='d'),
    'resnet34': basic(3, 4, 6, 3),
    'resnet34d': basic(3, 4, 6, 3, form='d'),
    **{
        f'resnet{layers}{form}': deep(layers, form)
        for layers, forms in {
            14: 't', 26: ' td', 50: ' cdst', 101: ' cds', 152: ' cds', 200: ' d',
        }.items()
        for form in (letter.strip() for letter in forms)
    },
    'resnet50_gn': deep(50, group_norm=True),
    'wide_resnet50_2': deep(50, base_width=128),
    'wide_resnet101_2': deep(101, base_width=128),
    'resnext50_32x4d': deep(50, '', '32x4d'),
    'resnext50d_32x4d': deep(50, 'd', '32x4d'),
    **{
        f'resnext101_{groups}': deep(101, '', groups)
        # 32x48d: only of weak supervision, https://download.pytorch.org/models/ig_resnext101_32x48-3e41cc8a.pth
        for groups in ('32x4d', '32x8d', '32x16d', '32x32d', '32x48d', '64x4d')
    },
    'ecaresnet26t': deep(26, 't', **ECA),
    'ecaresnet50d': deep(50, 'd', **ECA),
    'ecaresnet50d_pruned': deep(50, 'd', **ECA, pruned=PRUNED['ecaresnet50d']),
    'ecaresnet50t': deep(50, 't', **ECA),
    'ecaresnetlight': partial(ResNet, stages(Bottleneck, 1, 1, 11, 3), avg_down=True, **ECA),
    'ecaresnet101d': deep(101, 'd', **ECA),
    'ecaresnet101d_pruned': deep(101, 'd', **ECA, pruned=PRUNED['ecaresnet101d']),
    'ecaresnet200d': deep(200, 'd', **ECA),
    'ecaresnet269d': deep(269, 'd', **ECA),
    'ecaresnext26t_32x4d': deep(26, 't', '32x4d', **ECA),
    'ecaresnext50t_32x4d': deep(50, 't', '32x4d', **ECA),
    'seresnet18': basic(2, 2, 2, 2, **SE),
    'seresnet34': basic(3, 4, 6, 3, **SE),
    'seresnet50': deep(50, **SE),
    'seresnet50t': deep(50, 't', **SE),
    'seresnet101': deep(101, **SE),
    'seresnet152': deep(152, **SE),
    'seresnet152d': deep(152, 'd', **SE),
    'seresnet200d': deep(200, 'd', **SE),
    'seresnet269d': deep(269, 'd', **SE),
    'seresnext26d_32x4d': deep(26, 'd', '32x4d', **SE),
    'seresnext26t_32x4d': deep(26, 't', '32x4d', **SE),
    'seresnext50_32x4d': deep(50, '', '32x4d', **SE),
    'seresnext101_32x4d': deep(101, '', '32x4d', **SE),
    'seresnext101_32x8d': deep(101, '', '32x8d', **SE),
    'seresnext101d_32x8d': deep(101, 'd', '32x8d', **SE),
    'seresnext101_64x4d': deep(101, '', '64x4d', **SE),
    'senet154': deep(152, 's', '64x4d', **SE, down_size=3, reduce_first=2),
    'resnetblur18': basic(2, 2, 2, 2, **BLUR),
    'resnetblur50': deep(50, **BLUR),
    'resnetblur50d': deep(50, 'd', **BLUR),
    'resnetblur101d': deep(101, 'd', **BLUR),
    'resnetaa34d': basic(3, 4, 6, 3, form='d', **AA),
    'resnetaa50': deep(50, **AA),
    'resnetaa50d': deep(50, 'd', **AA),
    'resnetaa101d': deep(101, 'd', **AA),
    'seresnetaa50d': deep(50, 'd', **SE, **AA),
    'seresnextaa101d_32x8d': deep(101, 'd', '32x8d', **SE, **AA),
    'seresnextaa201d_32x8d': deep(201, 'e', '32x8d', **SE, **AA),
    **{
        f'resnetrs{layers}': deep(layers, 'd', conv_pool=True, se_ratio=0.25)
        for layers in (50, 101, 152, 200, 270, 350, 420)
    },
    'test_resnet': partial(
        ResNet, ((BasicBlock, 1, 32), (BasicBlock, 1, 48), (Bottleneck, 1, 48), (BasicBlock, 1, 96)),
        stem=32, stem_widths=(16, 16), avg_down=True,
    ),
    **{  # of the paper's section 4.2
        f'resnet{layers}_cifar': partial(
            ResNet, stages(BasicBlock, *[(layers - 2) // 6] * 3, first=16), stem=16, small_images=True,
            pad_shortcut=True, zero_init_last=False,
        )
        for layers in (20, 32, 44, 56, 110)
    },
}  # fmt: skip

# timm calls the two layers of squeeze-and-excitation otherwise here; torchvision's names are timm's.
WEIGHT_NAMES = ((r'\.se\.conv_reduce\.', '.se.fc1.'), (r'\.se\.conv_expand\.', '.se.fc2.'))
