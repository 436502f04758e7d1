"""The stages of EfficientNet and its relatives, before the width and depth multipliers of the variants."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from jeffnet.core.activations import relu, silu
from jeffnet.core.block import Block
from jeffnet.models.mobile_blocks import ConvBnAct, DepthwiseSeparable, EdgeResidual, InvertedResidual, Kernel


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
