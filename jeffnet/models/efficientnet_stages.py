"""The stages of EfficientNet and its relatives, before the width and depth multipliers of the variants."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from jeffnet.core.activations import relu, silu
from jeffnet.core.block import Block
from jeffnet.models.mobile_blocks import (
    ConvBnAct,
    DepthwiseSeparable,
    EdgeResidual,
    InvertedResidual,
    Kernel,
)


@dataclass(frozen=True)
class Run:
    """Some blocks in a row, equal but for the first one's stride, before the width and depth multipliers."""

    block: type[Block]
    repeats: int
    kernel_size: Kernel
    stride: int
    expand: float  # width of the middle as a multiple of the input
    features: int
    se: float = 0.0  # squeeze-excite width as a share of the input (MobileNetV3: of the middle)
    act: Callable | None = None  # None: the network's
    skip: bool = True
    act_last: bool = False  # an activation behind the projection of DepthwiseSeparable, too
    grouped_expand: bool = False  # 1x1 convolutions in two groups of channels, as MixNet
    grouped_project: bool = False
    expand_from: int = 0  # expand this width instead of the input's, a quirk of EdgeTPU's first block
    group_size: int = 0  # channels of the middle of EdgeResidual in a group of its first convolution; 0: all
    space_to_depth: bool = False  # four times the channels, and the stride in a 2x2 convolution before
    start_kernel: int = 0  # of the depthwise convolution before UniversalInvertedResidual's expansion; 0: none


ds, ir, er = (partial(Run, block) for block in (DepthwiseSeparable, InvertedResidual, EdgeResidual))
cn = partial(Run, ConvBnAct, skip=False)
Stages = tuple[tuple[Run, ...], ...]

# ds, ir, er, cn: repeats, kernel size, stride, expand, features


EFFICIENTNET = (
    (ds(1, 3, 1, 1, 16, se=0.25),),
    (ir(2, 3, 2, 6, 24, se=0.25),),
    (ir(2, 5, 2, 6, 40, se=0.25),),
    (ir(3, 3, 2, 6, 80, se=0.25),),
    (ir(3, 5, 1, 6, 112, se=0.25),),
    (ir(4, 5, 2, 6, 192, se=0.25),),
    (ir(1, 3, 1, 6, 320, se=0.25),),
)
LITE = (
    (ds(1, 3, 1, 1, 16),),
    (ir(2, 3, 2, 6, 24),),
    (ir(2, 5, 2, 6, 40),),
    (ir(3, 3, 2, 6, 80),),
    (ir(3, 5, 1, 6, 112),),
    (ir(4, 5, 2, 6, 192),),
    (ir(1, 3, 1, 6, 320),),
)
EFFICIENTNETV2_BASE = (
    (cn(1, 3, 1, 1, 16, skip=True),),
    (er(2, 3, 2, 4, 32),),
    (er(2, 3, 2, 4, 48),),
    (ir(3, 3, 2, 4, 96, se=0.25),),
    (ir(5, 3, 1, 6, 112, se=0.25),),
    (ir(8, 3, 2, 6, 192, se=0.25),),
)
EFFICIENTNETV2_S = (
    (cn(2, 3, 1, 1, 24, skip=True),),
    (er(4, 3, 2, 4, 48),),
    (er(4, 3, 2, 4, 64),),
    (ir(6, 3, 2, 4, 128, se=0.25),),
    (ir(9, 3, 1, 6, 160, se=0.25),),
    (ir(15, 3, 2, 6, 256, se=0.25),),
)
EFFICIENTNETV2_M = (
    (cn(3, 3, 1, 1, 24, skip=True),),
    (er(5, 3, 2, 4, 48),),
    (er(5, 3, 2, 4, 80),),
    (ir(7, 3, 2, 4, 160, se=0.25),),
    (ir(14, 3, 1, 6, 176, se=0.25),),
    (ir(18, 3, 2, 6, 304, se=0.25),),
    (ir(5, 3, 1, 6, 512, se=0.25),),
)
EFFICIENTNETV2_L = (
    (cn(4, 3, 1, 1, 32, skip=True),),
    (er(7, 3, 2, 4, 64),),
    (er(7, 3, 2, 4, 96),),
    (ir(10, 3, 2, 4, 192, se=0.25),),
    (ir(19, 3, 1, 6, 224, se=0.25),),
    (ir(25, 3, 2, 6, 384, se=0.25),),
    (ir(7, 3, 1, 6, 640, se=0.25),),
)
EFFICIENTNETV2_XL = (
    (cn(4, 3, 1, 1, 32, skip=True),),
    (er(8, 3, 2, 4, 64),),
    (er(8, 3, 2, 4, 96),),
    (ir(16, 3, 2, 4, 192, se=0.25),),
    (ir(24, 3, 1, 6, 256, se=0.25),),
    (ir(32, 3, 2, 6, 512, se=0.25),),
    (ir(8, 3, 1, 6, 640, se=0.25),),
)


def efficientnetv2_rw(*repeats: int) -> Stages:
    """timm's own small network of the paper's first figures, which begins with a fused block."""
    first, second, third, fourth, fifth, sixth = repeats
    return (
        (er(first, 3, 1, 1, 24),),
        (er(second, 3, 2, 4, 48),),
        (er(third, 3, 2, 4, 64),),
        (ir(fourth, 3, 2, 4, 128, se=0.25),),
        (ir(fifth, 3, 1, 6, 160, se=0.25),),
        (ir(sixth, 3, 2, 6, 272, se=0.25),),
    )


EFFICIENTNETV2_RW_S = efficientnetv2_rw(2, 4, 4, 6, 9, 15)
EFFICIENTNETV2_RW_M = efficientnetv2_rw(3, 5, 5, 8, 15, 24)  # depths 1.2 of four stages, 1.6 of two


def efficientnet_x(expand: int) -> Stages:
    """EfficientNet-X, whose first stage has a quarter of the pixels and four times the channels of EfficientNet's."""
    return (
        (ds(1, 3, 2, 1, 16, se=0.25, space_to_depth=True),),
        (er(2, 3, 1, expand, 24, se=0.25, act=relu),),
        (er(2, 5, 2, expand, 40, se=0.25, act=relu),),
        (ir(3, 3, 2, expand, 80, se=0.25),),
        *EFFICIENTNET[4:],
    )


EFFICIENTNET_X, EFFICIENTNET_H = efficientnet_x(6), efficientnet_x(4)
TEST = (  # timm's network for tests
    (cn(1, 3, 1, 1, 16, skip=True),),
    (er(1, 3, 2, 4, 24),),
    (er(1, 3, 2, 4, 32),),
    (ir(1, 3, 2, 4, 48, se=0.25),),
    (ir(1, 3, 2, 4, 64, se=0.25),),
)
EDGE = (
    (er(1, 3, 1, 4, 24, expand_from=24, skip=False),),
    (er(2, 3, 2, 8, 32),),
    (er(4, 3, 2, 8, 48),),
    (ir(5, 5, 2, 8, 96),),
    (ir(4, 5, 1, 8, 144),),
    (ir(2, 5, 2, 8, 192),),
)
MOBILENETV2 = (
    (ds(1, 3, 1, 1, 16),),
    (ir(2, 3, 2, 6, 24),),
    (ir(3, 3, 2, 6, 32),),
    (ir(4, 3, 2, 6, 64),),
    (ir(3, 3, 1, 6, 96),),
    (ir(3, 3, 2, 6, 160),),
    (ir(1, 3, 1, 6, 320),),
)
MNASNET_B1 = (
    (ds(1, 3, 1, 1, 16, skip=False),),
    (ir(3, 3, 2, 3, 24),),
    (ir(3, 5, 2, 3, 40),),
    (ir(3, 5, 2, 6, 80),),
    (ir(2, 3, 1, 6, 96),),
    (ir(4, 5, 2, 6, 192),),
    (ir(1, 3, 1, 6, 320, skip=False),),
)
MNASNET_A1 = (
    (ds(1, 3, 1, 1, 16, skip=False),),
    (ir(2, 3, 2, 6, 24),),
    (ir(3, 5, 2, 3, 40, se=0.25),),
    (ir(4, 3, 2, 6, 80),),
    (ir(2, 3, 1, 6, 112, se=0.25),),
    (ir(3, 5, 2, 6, 160, se=0.25),),
    (ir(1, 3, 1, 6, 320),),
)
# The blocks of the first MobileNet: no linear projections, no shortcuts.
dsa = partial(ds, kernel_size=3, expand=1, skip=False, act_last=True)
MOBILENETV1 = (
    (dsa(1, stride=1, features=64),),
    (dsa(2, stride=2, features=128),),
    (dsa(2, stride=2, features=256),),
    (dsa(6, stride=2, features=512),),
    (dsa(2, stride=2, features=1024),),
)
MOBILENET_EDGETPU = (
    (cn(1, 1, 1, 1, 16),),
    (er(1, 3, 2, 8, 32), er(3, 3, 1, 4, 32)),
    (er(1, 3, 2, 8, 48), er(3, 3, 1, 4, 48)),
    (ir(1, 3, 2, 8, 96), ir(3, 3, 1, 4, 96)),
    (ir(1, 3, 1, 8, 96, skip=False), ir(3, 3, 1, 4, 96)),
    (ir(1, 5, 2, 8, 160), ir(3, 5, 1, 4, 160)),
    (ir(1, 3, 1, 8, 192),),
)


def mobilenet_edgetpu_v2(*widths: int, group_size: int = 64) -> Stages:
    """The second EdgeTPU, whose fused blocks see few channels at a time."""
    first, second, third, fourth, fifth, sixth, seventh = widths
    grouped = partial(er, 1, 3, 1, 4, group_size=group_size)
    return (
        (cn(1, 1, 1, 1, first),),
        (er(1, 3, 2, 8, second), grouped(second)),
        (er(1, 3, 2, 8, third), grouped(third), er(1, 3, 1, 4, third), grouped(third)),
        (er(1, 3, 2, 8, fourth), ir(3, 3, 1, 4, fourth)),
        (ir(1, 3, 1, 8, fifth), ir(3, 3, 1, 4, fifth)),
        (ir(1, 3, 2, 8, sixth), ir(3, 3, 1, 4, sixth)),
        (ir(1, 3, 1, 8, seventh),),
    )


MOBILENET_EDGETPU_V2_XS = mobilenet_edgetpu_v2(16, 32, 48, 96, 144, 160, 192)
MOBILENET_EDGETPU_V2_S = mobilenet_edgetpu_v2(24, 48, 64, 128, 160, 192, 256)
MOBILENET_EDGETPU_V2_M = mobilenet_edgetpu_v2(32, 64, 80, 160, 192, 240, 320)
MOBILENET_EDGETPU_V2_L = mobilenet_edgetpu_v2(32, 64, 96, 192, 240, 256, 384, group_size=128)
LCNET = (
    (dsa(1, stride=1, features=32),),
    (dsa(2, stride=2, features=64),),
    (dsa(2, stride=2, features=128),),
    (dsa(1, stride=2, features=256), dsa(1, kernel_size=5, stride=1, features=256)),
    (dsa(4, kernel_size=5, stride=1, features=256),),
    (dsa(2, kernel_size=5, stride=2, features=512, se=0.25),),
)
MNASNET_SMALL = (
    (ds(1, 3, 1, 1, 8),),
    (ir(1, 3, 2, 3, 16),),
    (ir(2, 3, 2, 6, 16),),
    (ir(4, 5, 2, 6, 32, se=0.25),),
    (ir(3, 3, 1, 6, 32, se=0.25),),
    (ir(3, 5, 2, 6, 88, se=0.25),),
    (ir(1, 3, 1, 6, 144),),
)
FBNETC = (
    (ir(1, 3, 1, 1, 16),),
    (ir(1, 3, 2, 6, 24), ir(2, 3, 1, 1, 24)),
    (ir(1, 5, 2, 6, 32), ir(1, 5, 1, 3, 32), ir(1, 5, 1, 6, 32), ir(1, 3, 1, 6, 32)),
    (ir(1, 5, 2, 6, 64), ir(1, 5, 1, 3, 64), ir(2, 5, 1, 6, 64)),
    (ir(3, 5, 1, 6, 112), ir(1, 5, 1, 3, 112)),
    (ir(4, 5, 2, 6, 184),),
    (ir(1, 3, 1, 6, 352),),
)
SPNASNET = (
    (ds(1, 3, 1, 1, 16, skip=False),),
    (ir(3, 3, 2, 3, 24),),
    (ir(1, 5, 2, 6, 40), ir(3, 3, 1, 3, 40)),
    (ir(1, 5, 2, 6, 80), ir(3, 3, 1, 3, 80)),
    (ir(1, 5, 1, 6, 96), ir(3, 5, 1, 3, 96)),
    (ir(4, 5, 2, 6, 192),),
    (ir(1, 3, 1, 6, 320, skip=False),),
)
# MixNet's blocks with squeeze-excite use silu; `both` groups the two 1x1 convolutions.
both, project = {'grouped_expand': True, 'grouped_project': True}, {'grouped_project': True}
MIXNET_S = (
    (ds(1, 3, 1, 1, 16),),
    (ir(1, 3, 2, 6, 24, **both), ir(1, 3, 1, 3, 24, **both)),
    (ir(1, (3, 5, 7), 2, 6, 40, 0.5, silu), ir(3, (3, 5), 1, 6, 40, 0.5, silu, **both)),
    (ir(1, (3, 5, 7), 2, 6, 80, 0.25, silu, **project), ir(2, (3, 5), 1, 6, 80, 0.25, silu, **project)),
    (ir(1, (3, 5, 7), 1, 6, 120, 0.5, silu, **both), ir(2, (3, 5, 7, 9), 1, 3, 120, 0.5, silu, **both)),
    (ir(1, (3, 5, 7, 9, 11), 2, 6, 200, 0.5, silu), ir(2, (3, 5, 7, 9), 1, 6, 200, 0.5, silu, **project)),
)
MIXNET_M = (
    (ds(1, 3, 1, 1, 24),),
    (ir(1, (3, 5, 7), 2, 6, 32, **both), ir(1, 3, 1, 3, 32, **both)),
    (ir(1, (3, 5, 7, 9), 2, 6, 40, 0.5, silu), ir(3, (3, 5), 1, 6, 40, 0.5, silu, **both)),
    (ir(1, (3, 5, 7), 2, 6, 80, 0.25, silu), ir(3, (3, 5, 7, 9), 1, 6, 80, 0.25, silu, **both)),
    (ir(1, 3, 1, 6, 120, 0.5, silu), ir(3, (3, 5, 7, 9), 1, 3, 120, 0.5, silu, **both)),
    (ir(1, (3, 5, 7, 9), 2, 6, 200, 0.5, silu), ir(3, (3, 5, 7, 9), 1, 6, 200, 0.5, silu, **project)),
)
MOBILENETV3_LARGE = (
    (ds(1, 3, 1, 1, 16, act=relu),),
    (ir(1, 3, 2, 4, 24, act=relu), ir(1, 3, 1, 3, 24, act=relu)),
    (ir(3, 5, 2, 3, 40, 0.25, relu),),
    (ir(1, 3, 2, 6, 80), ir(1, 3, 1, 2.5, 80), ir(2, 3, 1, 2.3, 80)),
    (ir(2, 3, 1, 6, 112, 0.25),),
    (ir(3, 5, 2, 6, 160, 0.25),),
    (cn(1, 1, 1, 1, 960),),
)
MOBILENETV3_LARGE_MINIMAL = (
    (ds(1, 3, 1, 1, 16),),
    (ir(1, 3, 2, 4, 24), ir(1, 3, 1, 3, 24)),
    (ir(3, 3, 2, 3, 40),),
    (ir(1, 3, 2, 6, 80), ir(1, 3, 1, 2.5, 80), ir(2, 3, 1, 2.3, 80)),
    (ir(2, 3, 1, 6, 112),),
    (ir(3, 3, 2, 6, 160),),
    (cn(1, 1, 1, 1, 960),),
)
MOBILENETV3_SMALL = (
    (ds(1, 3, 2, 1, 16, 0.25, relu),),
    (ir(1, 3, 2, 4.5, 24, act=relu), ir(1, 3, 1, 3.67, 24, act=relu)),
    (ir(1, 5, 2, 4, 40, 0.25), ir(2, 5, 1, 6, 40, 0.25)),
    (ir(2, 5, 1, 3, 48, 0.25),),
    (ir(3, 5, 2, 6, 96, 0.25),),
    (cn(1, 1, 1, 1, 576),),
)
MOBILENETV3_SMALL_MINIMAL = (
    (ds(1, 3, 2, 1, 16),),
    (ir(1, 3, 2, 4.5, 24), ir(1, 3, 1, 3.67, 24)),
    (ir(1, 3, 2, 4, 40), ir(2, 3, 1, 6, 40)),
    (ir(2, 3, 1, 3, 48),),
    (ir(3, 3, 2, 6, 96),),
    (cn(1, 1, 1, 1, 576),),
)
# timm's first, which differs from the paper's in its first block.
MOBILENETV3_RW = ((ds(1, 3, 1, 1, 16, act=relu, skip=False),), *MOBILENETV3_LARGE[1:])
FBNETV3_B = (
    (ds(2, 3, 1, 1, 16),),
    (ir(1, 5, 2, 4, 24), ir(3, 5, 1, 2, 24)),
    (ir(1, 5, 2, 5, 40, 0.25), ir(4, 5, 1, 3, 40, 0.25)),
    (ir(1, 5, 2, 5, 72), ir(4, 3, 1, 3, 72)),
    (ir(1, 3, 1, 5, 120, 0.25), ir(5, 5, 1, 3, 120, 0.25)),
    (ir(1, 3, 2, 6, 184, 0.25), ir(5, 5, 1, 4, 184, 0.25), ir(1, 5, 1, 6, 224, 0.25)),
    (cn(1, 1, 1, 1, 1344),),
)
FBNETV3_D = (
    (ds(2, 3, 1, 1, 16),),
    (ir(1, 3, 2, 5, 24), ir(5, 3, 1, 2, 24)),
    (ir(1, 5, 2, 4, 40, 0.25), ir(4, 3, 1, 3, 40, 0.25)),
    (ir(1, 3, 2, 5, 72), ir(4, 3, 1, 3, 72)),
    (ir(1, 3, 1, 5, 128, 0.25), ir(6, 5, 1, 3, 128, 0.25)),
    (ir(1, 3, 2, 6, 208, 0.25), ir(5, 5, 1, 5, 208, 0.25), ir(1, 5, 1, 6, 240, 0.25)),
    (cn(1, 1, 1, 1, 1440),),
)
FBNETV3_G = (
    (ds(3, 3, 1, 1, 24),),
    (ir(1, 5, 2, 4, 40), ir(4, 5, 1, 2, 40)),
    (ir(1, 5, 2, 4, 56, 0.25), ir(4, 5, 1, 3, 56, 0.25)),
    (ir(1, 5, 2, 5, 104), ir(4, 3, 1, 3, 104)),
    (ir(1, 3, 1, 5, 160, 0.25), ir(8, 5, 1, 3, 160, 0.25)),
    (ir(1, 3, 2, 6, 264, 0.25), ir(6, 5, 1, 5, 264, 0.25), ir(2, 5, 1, 6, 288, 0.25)),
    (cn(1, 1, 1, 1, 1728),),
)
