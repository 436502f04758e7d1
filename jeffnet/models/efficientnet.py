"""EfficientNet V1, V2 and X and relatives: MobileNets, MNASNet, MixNet, FBNets, Single-Path NAS, TinyNet, LCNet.

Papers: EfficientNet (Tan & Le, arXiv 1905.11946), EfficientNetV2 (Tan & Le, 2104.00298), EfficientNet-X (Li et al.,
2102.05610), EdgeTPU (Gupta & Akin, 2003.02838), MobileNet (Howard et al., 1704.04861), MobileNetV2 (Sandler et al.,
1801.04381), MobileNetV3 (Howard et al., 1905.02244), MnasNet (Tan et al., 1807.11626), MixConv (Tan & Le, 1907.09595),
FBNet (Wu et al., 1812.03443), FBNetV3 (Dai et al., 2006.02049), Single-Path NAS (Stamoulis et al., 1904.02877),
TinyNet (Han et al., 2010.14819), PP-LCNet (Cui et al., 2109.15099).
"""

import math
from collections.abc import Callable
from dataclasses import field
from functools import partial
from typing import ClassVar

from jax.ad_checkpoint import checkpoint_name

from jeffnet.core import initial
from jeffnet.core.activations import hard_swish, identity, relu, relu6, silu
from jeffnet.core.inputs import check_images
from jeffnet.core.layers import BatchNorm, Conv
from jeffnet.core.pooling import global_avg_pool
from jeffnet.models import efficientnet_stages as table
from jeffnet.models import mobile_squeeze
from jeffnet.models.efficientnet_build import build_stages, head_width, stem_width, strides
from jeffnet.models.efficientnet_stages import Stages
from jeffnet.models.mobile_blocks import PixelNorm, dark_blur_pool, group_norm_8, group_norm_16
from jeffnet.models.network import Network, level


class EfficientNet(Network):
    """Stem, stages of mobile blocks, 1x1 head, pooling, classifier (Tan & Le, 2019)."""

    classifier_name: ClassVar[str] = 'classifier'
    first_conv: ClassVar[str] = 'conv_stem'
    stages: Stages = field(repr=False)
    stem: int = 32
    features: int = 1280  # of the head; 0: no head
    width: float = 1.0
    depth: float = 1.0
    act: Callable = relu
    scale_head: bool = True
    stem_kernel: int = 3
    fixed_stem: bool = False  # do not scale the width of the stem
    fixed_ends: bool = False  # nor the depth of the first and last stage
    depth_rounding: Callable = math.ceil
    divisor: int = 8  # of scaled widths
    width_limit: float = 0.9  # share of a scaled width that rounding must leave
    squeeze: Callable = mobile_squeeze.of_input  # settings of squeeze-and-excitation
    norm: Callable = BatchNorm
    pool: Callable = identity  # in the place of the strides of blocks, against aliasing; `identity`: none
    group_size: int = 1  # channels that a depthwise convolution sees together
    stride_in_projection: bool = False  # of EdgeResidual blocks
    pad_end: bool = False  # DepthwiseSeparable blocks with a stride pad at the bottom and on the right alone, as Keras
    output_stride: int = 32
    drop_path_rate: float = 0.0

    def setup(self):
        stem = stem_width(self)
        self.conv_stem, self.bn1 = Conv(self.in_chans, stem, self.stem_kernel, 2), self.norm(stem)
        self.blocks = build_stages(self)
        if self.out_indices is None:
            self.setup_head()

    def setup_head(self):
        """Declares what follows the stages."""
        if self.features:
            last, width = self.blocks[-1][-1].out_features, head_width(self)
            self.conv_head, self.bn2 = Conv(last, width), self.norm(width)
        self.setup_classifier(head_width(self), classifier_init(self))

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        x = check_images(x, self.in_chans, smallest=self.output_stride)
        x = self.tap('stage_0', self.act(self.bn1(self.conv_stem(x), training)))  # [N, H / 2, W / 2, stem]
        levels = [x]
        for i, stage in enumerate(self.blocks):
            for block in stage:
                x = checkpoint_name(block(x, training), 'block')  # what `remat` keeps
            levels.append(self.tap(f'stage_{i + 1}', x))
        return self.finish([levels[info['stage']] for info in self.levels], training)

    def forward_head(self, x, training=False):
        if self.features:
            x = self.act(self.bn2(self.conv_head(x), training))  # [N, h, w, features]
        return super().forward_head(x, training)

    def rounded(self, features: int) -> int:
        """A width of the table at the network's width multiplier."""
        return mobile_squeeze.divisible(features * self.width, self.divisor, self.width_limit)

    @property
    def levels(self) -> list[dict]:
        """The feature maps before each change of (undilated) stride, in timm's terms."""
        starts = [stage[0].stride for stage in self.stages]
        levels = [level(0, stem_width(self), 2, 'bn1')] if starts[0] > 1 else []
        totals = strides(self.stages, self.output_stride)
        for i, stage in enumerate(self.stages):
            if i + 1 == len(starts) or starts[i + 1] > 1:
                levels.append(level(i + 1, self.rounded(stage[-1].features), totals[i][3], f'blocks.{i}'))
        return levels


class MobileNetV3(EfficientNet):
    """EfficientNet's body with a head that pools before its 1x1 convolution (Howard et al., 2019)."""

    stem: int = 16
    scale_head: bool = False
    squeeze: Callable = mobile_squeeze.of_middle
    head_bias: bool = True
    head_norm: bool = False  # behind the 1x1 convolution, which then has no bias

    def setup_head(self):
        if self.num_classes != 0:  # the final feature map comes before this head
            last, width = self.blocks[-1][-1].out_features, head_width(self)
            self.conv_head = Conv(last, width, use_bias=self.head_bias and not self.head_norm)
            self.norm_head = self.norm(width) if self.head_norm else None
            self.setup_classifier(width, classifier_init(self))

    def forward_head(self, x, training=False):
        if self.num_classes == 0:
            return x
        x = global_avg_pool(x, keepdims=True)  # [N, 1, 1, C]
        x = self.conv_head(x)
        x = x if self.norm_head is None else self.norm_head(x, training)
        return self.classify(self.act(x)[:, 0, 0], training)  # of [N, features]


def classifier_init(model) -> Callable:
    """That of TensorFlow's reference code, U(-r, r) with r = 1 / sqrt(classes)."""
    return initial.Uniform(1 / math.sqrt(max(model.num_classes, 1)))


MULTIPLIERS = {  # width, depth
    'b0': (1.0, 1.0), 'b1': (1.0, 1.1), 'b2': (1.1, 1.2), 'b3': (1.2, 1.4), 'b4': (1.4, 1.8), 'b5': (1.6, 2.2),
    'b6': (1.8, 2.6), 'b7': (2.0, 3.1), 'b8': (2.2, 3.6), 'l2': (4.3, 5.3),
}  # fmt: skip

_b = {f'b{i}': {'width': w, 'depth': d} for i, (w, d) in enumerate(list(MULTIPLIERS.values())[:-1])}
_v1 = partial(EfficientNet, table.EFFICIENTNET, act=silu)
_lite = partial(EfficientNet, table.LITE, act=relu6, fixed_ends=True, scale_head=False)
_edge = partial(EfficientNet, table.EDGE)
_v2 = partial(EfficientNet, act=silu)
_rw = partial(_v2, stem=24, features=1792)
_x = partial(EfficientNet, act=silu)
_test = partial(EfficientNet, table.TEST, act=silu, stem=24, features=256, width_limit=0)
_mobilenetv1 = partial(EfficientNet, table.MOBILENETV1, features=0, act=relu6)
_mobilenetv2 = partial(EfficientNet, table.MOBILENETV2, act=relu6)
_edgetpu = partial(EfficientNet, scale_head=False)
_mnasnet = partial(EfficientNet, table.MNASNET_B1, scale_head=False)
_semnasnet = partial(EfficientNet, table.MNASNET_A1, scale_head=False)
_mixnet = partial(EfficientNet, features=1536, scale_head=False, depth_rounding=round)
_tinynet = partial(_v1, fixed_stem=True, scale_head=False, depth_rounding=round)
_large = partial(MobileNetV3, table.MOBILENETV3_LARGE, act=hard_swish)
_small = partial(MobileNetV3, table.MOBILENETV3_SMALL, features=1024, act=hard_swish)
_fbnetv3 = partial(
    MobileNetV3,
    act=hard_swish,
    features=1984,
    head_bias=False,
    width_limit=0.95,
    squeeze=mobile_squeeze.of_input_rounded,
)
_lcnet = partial(MobileNetV3, table.LCNET, act=hard_swish, squeeze=mobile_squeeze.of_middle_exactly)

VARIANTS = {
    **{f'efficientnet_{k}': partial(_v1, width=w, depth=d) for k, (w, d) in MULTIPLIERS.items()},
    'efficientnet_b0_gn': partial(_v1, norm=group_norm_8),
    'efficientnet_b0_g8_gn': partial(_v1, group_size=8, norm=group_norm_8),
    'efficientnet_b0_g16_evos': partial(_v1, group_size=16, divisor=16),
    'efficientnet_b3_gn': partial(_v1, **_b['b3'], divisor=16, norm=group_norm_16),
    'efficientnet_b3_g8_gn': partial(_v1, **_b['b3'], divisor=16, group_size=8, norm=group_norm_16),
    'efficientnet_blur_b0': partial(_v1, pool=dark_blur_pool),
    **{f'efficientnet_lite{i}': partial(_lite, **_b[f'b{i}']) for i in range(5)},
    'efficientnet_es': _edge,
    'efficientnet_em': partial(_edge, depth=1.1),
    'efficientnet_el': partial(_edge, width=1.2, depth=1.4),
    **{f'efficientnetv2_b{i}': partial(_v2, table.EFFICIENTNETV2_BASE, **_b[f'b{i}'], width_limit=0)
       for i in range(4)},
    'efficientnetv2_s': partial(_v2, table.EFFICIENTNETV2_S, stem=24),
    'efficientnetv2_m': partial(_v2, table.EFFICIENTNETV2_M, stem=24),
    'efficientnetv2_l': partial(_v2, table.EFFICIENTNETV2_L),
    'efficientnetv2_xl': partial(_v2, table.EFFICIENTNETV2_XL),
    'efficientnetv2_rw_t': partial(_v2, table.EFFICIENTNETV2_S, stem=24, width=0.8, depth=0.9),
    'gc_efficientnetv2_rw_t': partial(_v2, table.EFFICIENTNETV2_S, stem=24, width=0.8, depth=0.9,
                                      squeeze=mobile_squeeze.context_of_input),
    'efficientnetv2_rw_s': partial(_rw, table.EFFICIENTNETV2_RW_S),
    'efficientnetv2_rw_m': partial(_rw, table.EFFICIENTNETV2_RW_M, width=1.2),
    'efficientnet_x_b3': partial(_x, table.EFFICIENTNET_X, **_b['b3']),
    'efficientnet_x_b5': partial(_x, table.EFFICIENTNET_X, **_b['b5']),
    'efficientnet_h_b5': partial(_x, table.EFFICIENTNET_H, width=1.92, depth=2.2),
    'test_efficientnet': _test,
    'test_efficientnet_gn': partial(_test, norm=group_norm_8),
    'test_efficientnet_ln': partial(_test, norm=PixelNorm),
    'mobilenetv1_025': partial(_mobilenetv1, width=0.25),
    'mobilenetv1_050': partial(_mobilenetv1, width=0.5),
    'mobilenetv1_075': partial(_mobilenetv1, width=0.75),
    'mobilenetv1_100': _mobilenetv1,
    'mobilenetv1_100h': partial(_mobilenetv1, features=1024),
    'mobilenetv1_125': partial(_mobilenetv1, width=1.25),
    'mobilenetv2_035': partial(_mobilenetv2, width=0.35, scale_head=False),
    'mobilenetv2_050': partial(_mobilenetv2, width=0.5, scale_head=False),
    'mobilenetv2_075': partial(_mobilenetv2, width=0.75, scale_head=False),
    'mobilenetv2_100': _mobilenetv2,
    'mobilenetv2_110d': partial(_mobilenetv2, width=1.1, depth=1.2, fixed_ends=True, scale_head=False),
    'mobilenetv2_120d': partial(_mobilenetv2, width=1.2, depth=1.4, fixed_ends=True, scale_head=False),
    'mobilenetv2_130': partial(_mobilenetv2, width=1.3),
    'mobilenetv2_140': partial(_mobilenetv2, width=1.4),
    'mobilenet_edgetpu_100': partial(_edgetpu, table.MOBILENET_EDGETPU),
    'mobilenet_edgetpu_v2_xs': partial(_edgetpu, table.MOBILENET_EDGETPU_V2_XS),
    'mobilenet_edgetpu_v2_s': partial(_edgetpu, table.MOBILENET_EDGETPU_V2_S, stem=64, stem_kernel=5),
    'mobilenet_edgetpu_v2_m': partial(_edgetpu, table.MOBILENET_EDGETPU_V2_M, stem=64, stem_kernel=5, features=1344),
    'mobilenet_edgetpu_v2_l': partial(_edgetpu, table.MOBILENET_EDGETPU_V2_L, stem=64, stem_kernel=7, features=1408),
    **{f'mnasnet_{round(100 * w):03}': partial(_mnasnet, width=w) for w in (0.5, 0.75, 1.0, 1.4)},
    **{f'semnasnet_{round(100 * w):03}': partial(_semnasnet, width=w) for w in (0.5, 0.75, 1.0, 1.4)},
    'mnasnet_small': partial(EfficientNet, table.MNASNET_SMALL, stem=8, scale_head=False),
    'fbnetc_100': partial(EfficientNet, table.FBNETC, stem=16, features=1984, scale_head=False),
    'spnasnet_100': partial(EfficientNet, table.SPNASNET, scale_head=False),
    'mixnet_s': partial(_mixnet, table.MIXNET_S, stem=16),
    'mixnet_m': partial(_mixnet, table.MIXNET_M, stem=24),
    'mixnet_l': partial(_mixnet, table.MIXNET_M, stem=24, width=1.3),
    'mixnet_xl': partial(_mixnet, table.MIXNET_M, stem=24, width=1.6, depth=1.2),
    'mixnet_xxl': partial(_mixnet, table.MIXNET_M, stem=24, width=2.4, depth=1.3),
    'tinynet_a': partial(_tinynet, depth=1.2),
    'tinynet_b': partial(_tinynet, width=0.75, depth=1.1),
    'tinynet_c': partial(_tinynet, width=0.54, depth=0.85),
    'tinynet_d': partial(_tinynet, width=0.54, depth=0.695),
    'tinynet_e': partial(_tinynet, width=0.51, depth=0.6),
    'mobilenetv3_large_075': partial(_large, width=0.75),
    'mobilenetv3_large_100': _large,
    'mobilenetv3_large_150d': partial(_large, width=1.5, depth=1.2),
    'mobilenetv3_large_minimal_100': partial(MobileNetV3, table.MOBILENETV3_LARGE_MINIMAL),
    'mobilenetv3_small_050': partial(_small, width=0.5, fixed_stem=True),
    'mobilenetv3_small_075': partial(_small, width=0.75),
    'mobilenetv3_small_100': _small,
    'mobilenetv3_small_minimal_100': partial(MobileNetV3, table.MOBILENETV3_SMALL_MINIMAL, features=1024),
    'mobilenetv3_rw': partial(MobileNetV3, table.MOBILENETV3_RW, act=hard_swish, head_bias=False,
                              squeeze=mobile_squeeze.of_middle_with_act),
    'fbnetv3_b': partial(_fbnetv3, table.FBNETV3_B),
    'fbnetv3_d': partial(_fbnetv3, table.FBNETV3_D, stem=24),
    'fbnetv3_g': partial(_fbnetv3, table.FBNETV3_G, stem=32),
    **{f'lcnet_{round(100 * w):03}': partial(_lcnet, width=w) for w in (0.35, 0.5, 0.75, 1.0, 1.5)},
}  # fmt: skip

# timm's names that the general rule does not give: its MixConv is itself the list of its convolutions.
WEIGHT_NAMES = ((r'\.convs\.(\d+)\.', r'.\1.'),)
