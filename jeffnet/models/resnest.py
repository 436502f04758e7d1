"""ResNeSt: ResNets whose bottlenecks have split attention (Zhang et al., arXiv 2004.08955).

Their strides are in average pools beside the 3x3 convolution. In timm, stochastic depth reaches the shortcuts of these
blocks alone; here it drops branches, as elsewhere.
"""

from dataclasses import field
from functools import partial

from jeffnet.core.channel_attention import SplitAttention, reduced_width
from jeffnet.core.pooling import avg_pool
from jeffnet.models.resnet import FORMS, REPEATS, ResNet
from jeffnet.models.resnet_blocks import Design, Narrowing, conv, last_norm, norm, stages


class SplitDesign(Design):
    """What the blocks of one network have in common."""

    radix: int = field(default=2, kw_only=True)  # maps that attention weighs
    pool_first: bool = field(default=False, kw_only=True)  # before the 3x3 convolution, not behind it


class SplitBottleneck(SplitDesign, Narrowing):
    """1x1 convolution, split attention, 1x1 convolution beside a shortcut (Zhang et al., 2020)."""

    def setup_branch(self):
        first, middle, out = self.widths
        reduced = max(32, reduced_width(first * self.radix / 4, limit=0.9))
        self.conv1, self.bn1 = conv(self, self.in_features, first), norm(self, first)
        options = {'dilation': self.first_dilation, 'groups': self.cardinality, 'act': self.act}
        self.conv2 = SplitAttention(middle, reduced, self.radix, **options)
        self.conv3, self.bn3 = conv(self, middle, out), last_norm(self, out)

    def branch(self, x, training=False):
        x = self.act(self.bn1(self.conv1(x), training))  # [N, H, W, first]
        x = self.conv2(self.shrink(x), training) if self.pool_first else self.shrink(self.conv2(x, training))
        return self.bn3(self.conv3(x), training)

    def shrink(self, x):
        """The stride, an average pool whose padding counts."""
        return x if self.stride == 1 else avg_pool(x, 3, self.stride, padding=1, count_padding=True)


class ResNeSt(SplitDesign, ResNet):
    """A ResNet of split attention (Zhang et al., 2020)."""


def variant(layers: int, form: str = 'd', **options) -> partial:
    """A network of the paper, or of its code's list of ablations."""
    return partial(ResNeSt, stages(SplitBottleneck, *REPEATS[layers]), **FORMS[form], **options)


VARIANTS = {
    'resnest14d': variant(14),
    'resnest26d': variant(26),
    'resnest50d': variant(50),
    'resnest101e': variant(101, 'e'),
    'resnest200e': variant(200, 'e'),
    'resnest269e': variant(269, 'e'),
    'resnest50d_4s2x40d': variant(50, radix=4, cardinality=2, base_width=40, pool_first=True),
    'resnest50d_1s4x24d': variant(50, radix=1, cardinality=4, base_width=24, pool_first=True),
}

WEIGHT_NAMES = ()  # timm's names are those of the general rule
