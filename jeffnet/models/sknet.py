"""SKNet: ResNets whose 3x3 convolutions choose between kernels of several sizes (Li et al., arXiv 1903.06586).

timm's basic blocks and plain bottlenecks give each kernel a half of the channels; its ResNeXt is the paper's SKNet-50.
"""

from dataclasses import field
from functools import partial

from jeffnet.core.channel_attention import ConvNorm, SelectiveKernel, reduced_width
from jeffnet.models.resnet import FORMS, REPEATS, ResNet
from jeffnet.models.resnet_blocks import Design, Narrowing, Residual, stages


class SelectiveDesign(Design):
    """What the blocks of one network have in common."""

    sk_ratio: float = field(default=1 / 16, kw_only=True)  # width of the attention, as a share of the output's
    sk_divisor: int = field(default=8, kw_only=True)  # which that width is a multiple of
    split_input: bool = field(default=True, kw_only=True)  # to each kernel its own part of the channels


class SelectiveBasicBlock(SelectiveDesign, Residual):
    """Two 3x3 convolutions, the first selective, beside a shortcut."""

    def setup_branch(self):
        first, out = self.widths
        self.conv1 = selective_kernel(self, self.in_features, first)
        self.conv2 = ConvNorm(first, out, 3, dilation=self.dilation)

    def branch(self, x, training=False):
        return self.conv2(self.conv1(x, training), training)

    @property
    def widths(self) -> tuple[int, ...]:
        return self.features, self.features


class SelectiveBottleneck(SelectiveDesign, Narrowing):
    """1x1, selective 3x3 and 1x1 convolution beside a shortcut (Li et al., 2019)."""

    def setup_branch(self):
        first, middle, out = self.widths
        self.conv1 = ConvNorm(self.in_features, first)
        self.conv2 = selective_kernel(self, first, middle, self.cardinality)
        self.conv3 = ConvNorm(middle, out)

    def branch(self, x, training=False):
        x = self.act(self.conv1(x, training))  # [N, H, W, first]
        return self.conv3(self.conv2(x, training), training)


def selective_kernel(block, in_features: int, out_features: int, groups: int = 1) -> SelectiveKernel:
    """Convolutions of 3x3 and, by dilation, 5x5 pixels."""
    return SelectiveKernel(
        in_features, out_features, reduced_width(out_features * block.sk_ratio, block.sk_divisor, limit=0.9),
        block.stride, (block.first_dilation, 2 * block.first_dilation), groups, block.split_input, block.act,
    )  # fmt: skip


class SKNet(SelectiveDesign, ResNet):
    """A ResNet of selective kernels (Li et al., 2019); its branches are there from the beginning."""

    zero_init_last: bool = field(default=False, kw_only=True)


def variant(block: type[Residual], layers: int, form: str = '', **options) -> partial:
    """A network of timm's."""
    return partial(SKNet, stages(block, *REPEATS[layers]), **FORMS[form], **options)


NARROW = {'sk_ratio': 1 / 8, 'sk_divisor': 16}

VARIANTS = {
    'skresnet18': variant(SelectiveBasicBlock, 26, **NARROW),
    'skresnet34': variant(SelectiveBasicBlock, 50, **NARROW),
    'skresnet50': variant(SelectiveBottleneck, 50),
    'skresnet50d': variant(SelectiveBottleneck, 50, 'd'),
    'skresnext50_32x4d': variant(
        SelectiveBottleneck, 50, cardinality=32, base_width=4, sk_divisor=32, split_input=False
    ),
}

WEIGHT_NAMES = ()  # timm's names are those of the general rule
