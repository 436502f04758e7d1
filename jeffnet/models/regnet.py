"""RegNet: networks whose widths follow a line, quantised to four stages (Radosavovic et al., arXiv 2003.13678).

X has plain bottlenecks, Y squeeze-and-excitation too, Z inverted bottlenecks without shortcuts where the shape changes
(Dollar et al., 2103.06877), and V, which is timm's, is Y with norms before the convolutions. timm's and torchvision's
networks are the same, but for the widths of three.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from itertools import pairwise
from typing import ClassVar

from jeffnet.core import initial
from jeffnet.core.activations import relu, silu
from jeffnet.core.block import Block
from jeffnet.core.inputs import check_images
from jeffnet.core.layers import BatchNorm, Conv
from jeffnet.models.mobile_squeeze import divisible
from jeffnet.models.network import ClassifierHead, Network, level
from jeffnet.models.regnet_blocks import Bottleneck, ConvNorm, Design, PreBottleneck, Stage, groups_of_16

WIDTH_STEP = 8  # widths are multiples of this before they are fitted to the groups


class RegNet(Network):
    """3x3 convolution, four stages of bottlenecks, average pooling, classifier (Radosavovic et al., 2020)."""

    classifier_name: ClassVar[str] = 'head.fc'
    depth: int  # blocks of all stages
    w0: int  # the paper's names: width of the first block,
    wa: float  # by how much the line rises at each,
    wm: float  # and the factor from one stage to the next
    group_size: int  # channels of a group of the 3x3 convolutions
    bottle_ratio: float = 1.0  # this and the next five: as in `Design`
    se_ratio: float = 0.0
    downsample: str | None = 'conv1x1'
    linear_out: bool = False
    act: Callable = relu
    norm: Callable = BatchNorm
    preact: bool = False  # norms and activations before the convolutions
    torchvision_widths: bool = False  # fitted to the groups as torchvision does, not as the paper's authors
    stem_width: int = 32
    num_features: int | None = None  # of a last 1x1 convolution, if there is one
    output_stride: int = 32
    drop_path_rate: float = 0.0

    def setup(self):
        self.stem = build_stem(self)
        self.s1, self.s2, self.s3, self.s4 = build_stages(self)
        if self.out_indices is None:
            width = self.levels[-1]['num_chs']
            if self.num_features:
                self.final_conv = ConvNorm(width, self.num_features, act=self.act, norm=self.norm)
                width = self.num_features
            options = {'drop_rate': self.drop_rate, 'kernel_init': initial.Normal(0.01)}
            self.head = ClassifierHead(width, self.num_classes, **options) if self.num_classes > 0 else None

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        x = check_images(x, self.in_chans, smallest=self.output_stride)
        x = self.stem(x) if self.preact else self.stem(x, training)
        levels = [self.tap('stage_0', x)]  # [N, H / 2, W / 2, stem_width]
        for i, stage in enumerate((self.s1, self.s2, self.s3, self.s4)):
            x = self.tap(f'stage_{i + 1}', stage(x, training))
            levels.append(x)
        if self.out_indices is None:
            levels[-1] = self.end(x, training)
        return self.finish(levels, training)

    def end(self, x, training):
        """The last convolution, or the activation that the last block has left out."""
        if self.num_features:
            return self.final_conv(x, training)
        return self.act(x) if self.linear_out or self.preact else x

    def logits(self, x, training=False):
        return self.head(x, training)

    @property
    def first_conv(self) -> str:
        """The flat name of the convolution that reads the image."""
        return 'stem' if self.preact else 'stem.conv'

    @property
    def levels(self) -> list[dict]:
        widths = [self.stem_width, *(width for width, _, _ in stage_shapes(self))]
        return [
            level(i, width, min(2 ** (i + 1), self.output_stride), f's{i}' if i else 'stem')
            for i, width in enumerate(widths)
        ]


def build_stem(model) -> Block:
    """A 3x3 convolution; its norm is left to the first block if that begins with one."""
    sizes = (model.in_chans, model.stem_width, 3, 2)
    return Conv(*sizes) if model.preact else ConvNorm(*sizes, act=model.act, norm=model.norm)


def stage_shapes(model) -> list[tuple[int, int, int]]:
    """Width, number of blocks and group size of each stage, by the rule of the paper's section 3.3.

    The width of a block is the power of `wm`, times `w0`, next to the line; blocks of one width are a stage.
    """
    steps = [round(math.log(1 + i * model.wa / model.w0) / math.log(model.wm)) for i in range(model.depth)]
    widths = Counter(round(model.w0 * model.wm**step / WIDTH_STEP) * WIDTH_STEP for step in steps)
    shapes = []
    for width, blocks in sorted(widths.items()):
        inner = int(width * model.bottle_ratio)
        group = min(model.group_size, inner)
        inner = divisible(inner, group) if model.torchvision_widths else round(inner / group) * group
        shapes.append((int(inner / model.bottle_ratio), blocks, group))
    return shapes


def build_stages(model) -> list[Stage]:
    """The stages of a network; strides beyond `output_stride` become dilations of the blocks that follow."""
    design = Design(**{each.name: getattr(model, each.name) for each in fields(Design)})
    kind = PreBottleneck if model.preact else Bottleneck
    rates = iter([model.drop_path_rate * i / max(model.depth - 1, 1) for i in range(model.depth)])
    stages = []
    for i, (before, after) in enumerate(pairwise([each['num_chs'] for each in model.levels])):
        _, blocks, group_size = stage_shapes(model)[i]
        full = 2 ** (i + 2)  # the total stride behind the stage in an undilated network
        stride = 2 if full <= model.output_stride else 1
        first, others = (max(1, total // model.output_stride) for total in (full // 2, full))
        dilations, own = (first, *(others,) * (blocks - 1)), tuple(next(rates) for _ in range(blocks))
        stages.append(Stage(kind, before, after, group_size, design, stride, dilations, own))
    return stages


Y = partial(RegNet, se_ratio=0.25)
V = partial(Y, preact=True, act=silu)
Z = partial(Y, bottle_ratio=4.0, downsample=None, linear_out=True, act=silu)
VARIANTS = {  # depth, w0, wa, wm and group size are those of the papers and of torchvision
    'regnetx_002': partial(RegNet, 13, 24, 36.44, 2.49, 8),
    'regnetx_004': partial(RegNet, 22, 24, 24.48, 2.54, 16),
    'regnetx_004_tv': partial(RegNet, 22, 24, 24.48, 2.54, 16, torchvision_widths=True),
    'regnetx_006': partial(RegNet, 16, 48, 36.97, 2.24, 24),
    'regnetx_008': partial(RegNet, 16, 56, 35.73, 2.28, 16),
    'regnetx_016': partial(RegNet, 18, 80, 34.01, 2.25, 24),
    'regnetx_032': partial(RegNet, 25, 88, 26.31, 2.25, 48),
    'regnetx_040': partial(RegNet, 23, 96, 38.65, 2.43, 40),
    'regnetx_064': partial(RegNet, 17, 184, 60.83, 2.07, 56),
    'regnetx_080': partial(RegNet, 23, 80, 49.56, 2.88, 120),
    'regnetx_120': partial(RegNet, 19, 168, 73.36, 2.37, 112),
    'regnetx_160': partial(RegNet, 22, 216, 55.59, 2.1, 128),
    'regnetx_320': partial(RegNet, 23, 320, 69.86, 2.0, 168),
    'regnety_002': partial(Y, 13, 24, 36.44, 2.49, 8),
    'regnety_004': partial(Y, 16, 48, 27.89, 2.09, 8),
    'regnety_006': partial(Y, 15, 48, 32.54, 2.32, 16),
    'regnety_008': partial(Y, 14, 56, 38.84, 2.4, 16),
    'regnety_008_tv': partial(Y, 14, 56, 38.84, 2.4, 16, torchvision_widths=True),
    'regnety_016': partial(Y, 27, 48, 20.71, 2.65, 24),
    'regnety_032': partial(Y, 21, 80, 42.63, 2.66, 24),
    'regnety_040': partial(Y, 22, 96, 31.41, 2.24, 64),
    'regnety_064': partial(Y, 25, 112, 33.22, 2.27, 72),
    'regnety_080': partial(Y, 17, 192, 76.82, 2.19, 56),
    'regnety_080_tv': partial(Y, 17, 192, 76.82, 2.19, 56, torchvision_widths=True),
    'regnety_120': partial(Y, 19, 168, 73.36, 2.37, 112),
    'regnety_160': partial(Y, 18, 200, 106.23, 2.48, 112),
    'regnety_320': partial(Y, 20, 232, 115.89, 2.53, 232),
    'regnety_640': partial(Y, 20, 352, 147.48, 2.4, 328),
    'regnety_1280': partial(Y, 27, 456, 160.83, 2.52, 264),
    'regnety_2560': partial(Y, 27, 640, 230.83, 2.53, 373),
    'regnety_040_sgn': partial(Y, 22, 96, 31.41, 2.24, 64, act=silu, norm=groups_of_16),
    'regnetv_040': partial(V, 22, 96, 31.41, 2.24, 64),
    'regnetv_064': partial(V, 25, 112, 33.22, 2.27, 72, downsample='avg'),
    'regnetz_005': partial(Z, 21, 16, 10.7, 2.51, 4, num_features=1024),
    'regnetz_040': partial(Z, 28, 48, 14.5, 2.226, 8),
    'regnetz_040_h': partial(Z, 28, 48, 14.5, 2.226, 8, num_features=1536),
}

# timm calls the two layers of squeeze-and-excitation otherwise here.
WEIGHT_NAMES = ((r'\.se\.conv_reduce\.', '.se.fc1.'), (r'\.se\.conv_expand\.', '.se.fc2.'))
