"""EfficientNet V1 and V2 and relatives: MobileNets, MNASNet, MixNet, FBNet-C, Single-Path NAS, Lite, EdgeTPU.

Papers: EfficientNet (Tan & Le, arXiv 1905.11946), EfficientNetV2 (Tan & Le, 2104.00298), MobileNet (Howard et al.,
1704.04861), MobileNetV2 (Sandler et al., 1801.04381), MobileNetV3 (Howard et al., 1905.02244), MnasNet (Tan et al.,
1807.11626), MixConv (Tan & Le, 1907.09595), FBNet (Wu et al., 1812.03443), Single-Path NAS (Stamoulis et al.,
1904.02877).
"""

import math
from collections.abc import Callable
from dataclasses import field
from functools import partial
from typing import ClassVar

from jax.ad_checkpoint import checkpoint_name

from jeffnet.core import initial
from jeffnet.core.activations import hard_sigmoid, hard_swish, relu, relu6, sigmoid, silu
from jeffnet.core.block import Block
from jeffnet.core.inputs import check_images
from jeffnet.core.layers import BatchNorm, Conv
from jeffnet.core.pooling import global_avg_pool
from jeffnet.models import efficientnet_stages as table
from jeffnet.models.efficientnet_stages import Run, Stages
from jeffnet.models.mobile_blocks import ConvBnAct, DepthwiseSeparable, EdgeResidual, InvertedResidual, Squeeze
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
    fixed_ends: bool = False  # neither scale the width of the stem nor the depth of the first and last stage
    depth_rounding: Callable = math.ceil
    width_limit: float = 0.9  # share of a scaled width that rounding must leave
    stride_in_projection: bool = False  # of EdgeResidual blocks
    pad_end: bool = False  # DepthwiseSeparable blocks with a stride pad at the bottom and on the right alone, as Keras
    output_stride: int = 32
    drop_path_rate: float = 0.0

    def setup(self):
        stem = stem_width(self)
        self.conv_stem, self.bn1 = Conv(self.in_chans, stem, 3, 2), BatchNorm(stem)
        self.blocks = build_stages(self)
        if self.out_indices is None:
            self.setup_head()

    def setup_head(self):
        """Declares what follows the stages."""
        if self.features:
            last = self.blocks[-1][-1].out_features
            self.conv_head, self.bn2 = Conv(last, head_width(self)), BatchNorm(head_width(self))
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
        return divisible(features * self.width, limit=self.width_limit)

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

    def setup_head(self):
        if self.num_classes != 0:  # the final feature map comes before this head
            self.conv_head = Conv(self.blocks[-1][-1].out_features, head_width(self), use_bias=True)
            self.setup_classifier(head_width(self), classifier_init(self))

    def forward_head(self, x, training=False):
        if self.num_classes == 0:
            return x
        x = global_avg_pool(x, keepdims=True)  # [N, 1, 1, C]
        x = self.act(self.conv_head(x))[:, 0, 0]  # [N, features]
        return self.classify(x, training)


def classifier_init(model) -> Callable:
    """That of TensorFlow's reference code, U(-r, r) with r = 1 / sqrt(classes)."""
    return initial.Uniform(1 / math.sqrt(max(model.num_classes, 1)))


def stem_width(model) -> int:
    """Channels of the stem."""
    return model.stem if model.fixed_ends else model.rounded(model.stem)


def head_width(model) -> int:
    """Channels of the head, or of the last stage if there is none."""
    if not model.features:
        return model.rounded(model.stages[-1][-1].features)
    return model.rounded(model.features) if model.scale_head else model.features


def build_stages(model) -> list[list[Block]]:
    """The blocks of a network, stage by stage, at its width, depth and output stride."""
    runs = []  # per stage, one run for each block
    for i, stage in enumerate(model.stages):
        fixed = model.fixed_ends and i in (0, len(model.stages) - 1)
        repeats = scaled_repeats(stage, 1.0 if fixed else model.depth, model.depth_rounding)
        runs.append([run for run, n in zip(stage, repeats, strict=True) for _ in range(n)])
    total, index, width = sum(map(len, runs)), 0, stem_width(model)
    stages = []
    for stage, (stride, first_dilation, dilation, _) in zip(
        runs, strides(model.stages, model.output_stride), strict=True
    ):
        stages.append([])
        for i, run in enumerate(stage):
            options = {'stride': 1 if i else stride, 'dilation': dilation if i else first_dilation}
            stages[-1].append(build_block(model, run, width, model.drop_path_rate * index / total, options))
            width, index = stages[-1][-1].out_features, index + 1
    return stages


def build_block(model, run: Run, width: int, drop_rate: float, options: dict) -> Block:
    """One block of a run, at the network's width multiplier."""
    act = run.act or model.act
    options |= {'out_features': model.rounded(run.features), 'kernel_size': run.kernel_size, 'act': act}
    options |= {'skip': run.skip, 'drop_rate': drop_rate}
    if run.block is ConvBnAct:
        return ConvBnAct(width, **options)
    source = model.rounded(run.expand_from) if run.expand_from else width
    mid = width if run.block is DepthwiseSeparable else divisible(source * run.expand)
    if run.se and isinstance(model, MobileNetV3):
        options['squeeze'] = Squeeze(divisible(mid * run.se), relu, hard_sigmoid)
    elif run.se:
        options['squeeze'] = Squeeze(int(width * run.se), act, sigmoid)
    if run.block is DepthwiseSeparable:
        padding = ((0, 1), (0, 1)) if model.pad_end and options['stride'] > 1 else None
        return DepthwiseSeparable(width, act_last=run.act_last, padding=padding, **options)
    if run.block is EdgeResidual:
        return EdgeResidual(width, mid_features=mid, stride_in_projection=model.stride_in_projection, **options)
    options |= {'expand_kernel': (1, 1) if run.grouped_expand else 1}
    options |= {'project_kernel': (1, 1) if run.grouped_project else 1}
    return InvertedResidual(width, mid_features=mid, **options)


def divisible(value: float, divisor: int = 8, limit: float = 0.9) -> int:
    """The multiple of `divisor` nearest to `value`, but never less than the share `limit` of it."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < limit * value else rounded


def scaled_repeats(stage: tuple[Run, ...], depth: float, rounding: Callable) -> list[int]:
    """Repeats of the runs of a stage at a depth multiplier; the last runs grow first."""
    repeats, left = [], sum(run.repeats for run in stage)
    total = max(1, rounding(left * depth))
    for run in reversed(stage):
        repeats.insert(0, max(1, round(run.repeats / left * total)))
        left, total = left - run.repeats, total - repeats[0]
    return repeats


def strides(stages: Stages, output_stride: int) -> list[tuple[int, int, int, int]]:
    """Per stage: stride and dilation of the first block, dilation of the rest, total stride.

    Where the total would exceed `output_stride`, the stride becomes a dilation of the blocks that follow.
    """
    found, total, dilation = [], 2, 1
    for stage in stages:
        stride, before = stage[0].stride, dilation
        if total * stride > output_stride:
            stride, dilation = 1, dilation * stride
        total *= stride
        found.append((stride, before, dilation, total))
    return found


MULTIPLIERS = {  # width, depth
    'b0': (1.0, 1.0), 'b1': (1.0, 1.1), 'b2': (1.1, 1.2), 'b3': (1.2, 1.4), 'b4': (1.4, 1.8), 'b5': (1.6, 2.2),
    'b6': (1.8, 2.6), 'b7': (2.0, 3.1), 'b8': (2.2, 3.6), 'l2': (4.3, 5.3),
}  # fmt: skip

_mnasnet = partial(EfficientNet, scale_head=False)
_mobilenetv1 = partial(EfficientNet, table.MOBILENETV1, features=0, act=relu6)
_v2 = partial(EfficientNet, act=silu)
_mobilenetv2 = partial(EfficientNet, table.MOBILENETV2, act=relu6)
_lite = partial(EfficientNet, table.LITE, act=relu6, fixed_ends=True, scale_head=False)
_edge = partial(EfficientNet, table.EDGE)
_mixnet = partial(EfficientNet, features=1536, scale_head=False, depth_rounding=round)
_v3 = partial(MobileNetV3, stem=16, scale_head=False)

VARIANTS = {
    **{f'efficientnet_{k}': partial(EfficientNet, table.EFFICIENTNET, width=w, depth=d, act=silu)
       for k, (w, d) in MULTIPLIERS.items()},
    **{f'efficientnet_lite{i}': partial(_lite, width=w, depth=d)
       for i, (w, d) in enumerate(list(MULTIPLIERS.values())[:5])},
    **{f'efficientnetv2_{k}': partial(_v2, table.EFFICIENTNETV2_BASE, width=w, depth=d, width_limit=0)
       for k, (w, d) in list(MULTIPLIERS.items())[:4]},
    'efficientnetv2_s': partial(_v2, table.EFFICIENTNETV2_S, stem=24),
    'efficientnetv2_m': partial(_v2, table.EFFICIENTNETV2_M, stem=24),
    'efficientnetv2_l': partial(_v2, table.EFFICIENTNETV2_L),
    'efficientnet_es': _edge,
    'efficientnet_em': partial(_edge, depth=1.1),
    'efficientnet_el': partial(_edge, width=1.2, depth=1.4),
    'mobilenetv1_025': partial(_mobilenetv1, width=0.25),
    'mobilenetv1_050': partial(_mobilenetv1, width=0.5),
    'mobilenetv1_075': partial(_mobilenetv1, width=0.75),
    'mobilenetv1_100': _mobilenetv1,
    'mobilenetv1_125': partial(_mobilenetv1, width=1.25),
    'mobilenetv2_035': partial(_mobilenetv2, width=0.35, scale_head=False),
    'mobilenetv2_050': partial(_mobilenetv2, width=0.5, scale_head=False),
    'mobilenetv2_075': partial(_mobilenetv2, width=0.75, scale_head=False),
    'mobilenetv2_100': _mobilenetv2,
    'mobilenetv2_110d': partial(_mobilenetv2, width=1.1, depth=1.2, fixed_ends=True, scale_head=False),
    'mobilenetv2_120d': partial(_mobilenetv2, width=1.2, depth=1.4, fixed_ends=True, scale_head=False),
    'mobilenetv2_130': partial(_mobilenetv2, width=1.3),
    'mobilenetv2_140': partial(_mobilenetv2, width=1.4),
    'mnasnet_100': partial(_mnasnet, table.MNASNET_B1),
    'semnasnet_100': partial(_mnasnet, table.MNASNET_A1),
    'mnasnet_small': partial(_mnasnet, table.MNASNET_SMALL, stem=8),
    'fbnetc_100': partial(EfficientNet, table.FBNETC, stem=16, features=1984, scale_head=False),
    'spnasnet_100': partial(EfficientNet, table.SPNASNET, scale_head=False),
    'mixnet_s': partial(_mixnet, table.MIXNET_S, stem=16),
    'mixnet_m': partial(_mixnet, table.MIXNET_M, stem=24),
    'mixnet_l': partial(_mixnet, table.MIXNET_M, stem=24, width=1.3),
    'mixnet_xl': partial(_mixnet, table.MIXNET_M, stem=24, width=1.6, depth=1.2),
    'mobilenetv3_large_075': partial(_v3, table.MOBILENETV3_LARGE, act=hard_swish, width=0.75),
    'mobilenetv3_large_100': partial(_v3, table.MOBILENETV3_LARGE, act=hard_swish),
    'mobilenetv3_large_minimal_100': partial(_v3, table.MOBILENETV3_LARGE_MINIMAL),
    'mobilenetv3_small_075': partial(_v3, table.MOBILENETV3_SMALL, features=1024, act=hard_swish, width=0.75),
    'mobilenetv3_small_100': partial(_v3, table.MOBILENETV3_SMALL, features=1024, act=hard_swish),
    'mobilenetv3_small_minimal_100': partial(_v3, table.MOBILENETV3_SMALL_MINIMAL, features=1024),
}  # fmt: skip

# timm's names that the general rule does not give: its MixConv is itself the list of its convolutions.
WEIGHT_NAMES = ((r'\.convs\.(\d+)\.', r'.\1.'),)
