"""ConvNeXt: a convolutional network in the manner of transformers (Liu et al., arXiv 2201.03545), and its V2.

V2 has a global response norm in each block in the place of the learned scale (Woo et al., arXiv 2301.00808). timm's,
torchvision's and Keras' networks are the same; timm's smaller ones spell the linear layers of a block as 1x1
convolutions, all others as dense ones. Among the weights are image towers of CLIP (arXiv 2212.07143) and DINOv3
(arXiv 2508.10104).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import pairwise
from typing import ClassVar

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jeffnet.core import initial
from jeffnet.core.activations import gelu, gelu_tanh, silu
from jeffnet.core.block import Block, Param
from jeffnet.core.inputs import check_images
from jeffnet.core.layers import (
    Conv,
    Dropout,
    GlobalResponseNorm,
    LayerNorm,
    Linear,
    RmsNorm,
    SimpleNorm,
    at_least_float32,
)
from jeffnet.models.network import Network, level

EXPANSION = 4  # hidden width of a block as a multiple of its width
PATCH = 4  # pixels a side
SCALE = 1e-6  # of a new block's residual branch
SMALL_NORMAL = initial.Normal(0.02)  # the reference code cuts it off at -2 and 2, which is at a hundred deviations


def conv(in_features: int, out_features: int, kernel_size: int = 1, stride: int = 1, **options) -> Conv:
    """A convolution with a bias, initialised as in the reference code."""
    options = {'use_bias': True, 'kernel_init': SMALL_NORMAL, **options}
    return Conv(in_features, out_features, kernel_size, stride, **options)


def linear(in_features: int, out_features: int) -> Linear:
    """An affine map of the features, initialised as in the reference code."""
    return Linear(in_features, out_features, kernel_init=SMALL_NORMAL)


@dataclass(frozen=True)
class Form:
    """What all blocks of a network share; for each a field of `ConvNeXt` has the same name."""

    act: Callable = gelu
    norm_layer: type[Block] = LayerNorm
    norm_eps: float = 1e-6
    conv_mlp: bool = False
    use_grn: bool = False
    layer_scale: float = SCALE

    @classmethod
    def of(cls, model) -> 'Form':
        """That of a network."""
        return cls(**{each.name: getattr(model, each.name) for each in fields(cls)})

    def norm(self, features: int) -> Block:
        """A norm of the last axis."""
        return self.norm_layer(features, self.norm_eps)


class Perceptron(Block):
    """Two linear layers, between them an activation and, in V2, a global response norm (Woo et al., 2023)."""

    features: int
    form: Form

    def setup(self):
        hidden = EXPANSION * self.features
        layer = conv if self.form.conv_mlp else linear
        self.fc1 = layer(self.features, hidden)
        self.grn = GlobalResponseNorm(hidden) if self.form.use_grn else None
        self.fc2 = layer(hidden, self.features)

    def __call__(self, x):  # [N, H, W, features]
        x = self.form.act(self.fc1(x))  # [N, H, W, 4 features]
        x = x if self.grn is None else self.grn(x)
        return self.fc2(x)


class ConvNeXtBlock(Block):
    """Depthwise convolution, norm, perceptron, in V1 learned scale, residual connection (Liu et al., 2022)."""

    features: int
    form: Form
    kernel_size: int = 7
    dilation: int = 1
    drop_rate: float = 0.0

    def setup(self):
        width = self.features
        self.conv_dw = conv(width, width, self.kernel_size, dilation=self.dilation, groups=width)
        self.norm = self.form.norm(width)
        self.mlp = Perceptron(width, self.form)
        scale = self.form.layer_scale
        self.gamma = Param((width,), initial.Constant(scale)) if scale else None
        self.drop_path = Dropout(self.drop_rate, per_sample=True)

    def __call__(self, x, training=False):  # [N, H, W, features]
        shortcut = x
        x = self.mlp(self.norm(self.conv_dw(x)))
        x = x if self.gamma is None else x * jnp.asarray(self.gamma, x.dtype)
        return shortcut + self.drop_path(x, training)


class Stage(Block):
    """Blocks of one width, behind a norm and a 2x2 convolution that halves the image (Liu et al., 2022)."""

    in_features: int
    features: int
    form: Form
    drop_rates: tuple[float, ...]  # of each block
    kernel_size: int = 7
    downsampling: bool = True
    first_dilation: int = 1  # of the 2x2 convolution
    dilation: int = 1  # of the blocks; in the place of halving where it is not 1

    def setup(self):
        # Pixels that fill no 2x2 patch are left out; a dilated network keeps them all.
        how = {'stride': 2, 'padding': 'VALID'} if self.dilation == 1 else {'padding': 'SAME'}
        pair = [
            self.form.norm(self.in_features),
            conv(self.in_features, self.features, 2, dilation=self.first_dilation, **how),
        ]
        self.downsample = pair if self.downsampling else []
        same = (self.features, self.form, self.kernel_size, self.dilation)
        self.blocks = [ConvNeXtBlock(*same, rate) for rate in self.drop_rates]

    def __call__(self, x, training=False):  # [N, H, W, in]
        for layer in self.downsample:
            x = layer(x)
        for block in self.blocks:
            x = checkpoint_name(block(x, training), 'block')  # what `remat` keeps
        return x  # [N, H / 2, W / 2, features]


class Hidden(Block):
    """A linear layer with GELU, whatever the activation of the blocks, in front of the classifier."""

    in_features: int
    features: int

    def setup(self):
        self.fc = linear(self.in_features, self.features)

    def __call__(self, x):  # [N, in]
        return gelu(self.fc(x))


class Head(Block):
    """Norm of the pooled features unless the image was normed, perhaps a hidden layer, dropout, classifier."""

    features: int
    num_classes: int
    form: Form
    normed: bool = False
    hidden: int = 0  # width of the hidden layer; 0: there is none
    drop_rate: float = 0.0

    def setup(self):
        self.norm = None if self.normed else self.form.norm(self.features)
        self.pre_logits = Hidden(self.features, self.hidden) if self.hidden else None
        if self.num_classes > 0:
            self.dropout = Dropout(self.drop_rate)
            self.fc = linear(self.hidden or self.features, self.num_classes)

    def __call__(self, x, training=False):  # [N, features]
        for layer in (self.norm, self.pre_logits):
            x = x if layer is None else layer(x)
        if self.num_classes > 0:
            x = self.fc(self.dropout(x, training))
        return x.astype(at_least_float32(x.dtype))


class ConvNeXt(Network):
    """Patches of 4x4 pixels, four stages, pooling, norm, classifier (Liu et al., 2022)."""

    classifier_name: ClassVar[str] = 'head.fc'
    first_conv: ClassVar[str] = 'stem_0'
    depths: tuple[int, ...] = field(repr=False)  # blocks of each stage
    widths: tuple[int, ...] = field(repr=False)
    kernel_sizes: tuple[int, ...] = field(default=(7, 7, 7, 7), repr=False)  # of each stage's depthwise convolutions
    stem_type: str = 'patch'  # or 'overlap', 'overlap_tiered', 'overlap_act': two 3x3 convolutions
    act: Callable = gelu
    norm_layer: type[Block] = LayerNorm
    norm_eps: float = 1e-6
    conv_mlp: bool = False  # the linear layers of a block are spelt as 1x1 convolutions
    use_grn: bool = False  # V2
    layer_scale: float = SCALE  # of new blocks; 0: they have no scales
    head_norm_first: bool = False  # the norm comes before the pooling
    head_hidden_size: int = 0  # width of a hidden layer before the classifier; 0: there is none
    output_stride: int = 32
    drop_path_rate: float = 0.0

    def setup(self):
        self.stem = build_stem(self)
        self.stages = build_stages(self)
        width, form, whole = self.widths[-1], Form.of(self), self.out_indices is None
        self.norm_pre = form.norm(width) if whole and self.head_norm_first else None
        if whole and self.num_classes != 0:
            self.head = Head(width, self.num_classes, form, self.head_norm_first, self.head_hidden_size, self.drop_rate)

    def __call__(self, x, training=False):  # [N, H, W, in_chans]
        x = check_images(x, self.in_chans, smallest=self.output_stride)
        for layer in self.stem:
            x = self.act(x) if layer is None else layer(x)
        x = self.tap('stage_0', x)  # [N, H / 4, W / 4, widths[0]]
        levels = []
        for i, stage in enumerate(self.stages):
            x = stage(x, training)
            levels.append(self.tap(f'stage_{i + 1}', x))
        last = x if self.norm_pre is None else self.norm_pre(x)
        return self.finish([*levels[:-1], last], training)

    def classify(self, x, training=False):
        return self.head(x, training)

    @property
    def levels(self) -> list[dict]:
        return [
            level(i + 1, width, min(PATCH * 2**i, self.output_stride), f'stages.{i}')
            for i, width in enumerate(self.widths)
        ]


def build_stem(model) -> list[Block | None]:
    """A linear map of patches that do not overlap, or two 3x3 convolutions, and a norm; None: the activation.

    Pixels that fill no patch are left out.
    """
    width, norm = model.widths[0], Form.of(model).norm(model.widths[0])
    if model.stem_type == 'patch':
        return [conv(model.in_chans, width, PATCH, PATCH, padding='VALID'), norm]
    mid = (width // 2 + 4) // 8 * 8 if model.stem_type == 'overlap_tiered' else width  # half of it, in eights
    first, second = (conv(*widths, 3, 2, padding=1) for widths in ((model.in_chans, mid), (mid, width)))
    return [first, None, second, norm] if model.stem_type == 'overlap_act' else [first, second, norm]


def build_stages(model) -> list[Stage]:
    """The stages of a network; the drop rates of its blocks grow from 0 to the model's.

    Strides beyond `output_stride` become dilations.
    """
    total, form = sum(model.depths), Form.of(model)
    rates = iter([model.drop_path_rate * i / max(total - 1, 1) for i in range(total)])
    stages = []
    for i, (before, width) in enumerate(pairwise((model.widths[0], *model.widths))):
        own = tuple(next(rates) for _ in range(model.depths[i]))
        reduction = PATCH * 2**i  # of an undilated network
        dilation, earlier = (max(1, full // model.output_stride) for full in (reduction, reduction // 2))
        stages.append(Stage(before, width, form, own, model.kernel_sizes[i], i > 0, earlier, dilation))
    return stages


def sized(depths: tuple[int, ...], width: int, **options) -> partial:
    """A network whose stages are each twice as wide as the one before."""
    return partial(ConvNeXt, depths, tuple(width * 2**i for i in range(4)), **options)


DEEP = (3, 3, 27, 3)
SIZES = {  # blocks of the stages, width of the first
    'atto': ((2, 2, 6, 2), 40), 'femto': ((2, 2, 6, 2), 48), 'pico': ((2, 2, 6, 2), 64), 'nano': ((2, 2, 8, 2), 80),
    'tiny': ((3, 3, 9, 3), 96), 'small': (DEEP, 96), 'base': (DEEP, 128), 'large': (DEEP, 192), 'xlarge': (DEEP, 256),
    'huge': (DEEP, 352),
}  # fmt: skip
SMALL = ('atto', 'femto', 'pico', 'nano')
CONV = {'conv_mlp': True}  # of the small ones, which are timm's own
ZEPTO = partial(sized, (2, 2, 4, 2), 32, norm_layer=SimpleNorm, **CONV)
TIERED = {'stem_type': 'overlap_tiered', **CONV}
TEST = {'norm_eps': 1e-5, 'act': gelu_tanh}  # of timm's networks for tests
VARIANTS = {
    'convnext_zepto_rms': ZEPTO(),
    'convnext_zepto_rms_ols': ZEPTO(stem_type='overlap_act'),
    **{f'convnext_{size}': sized(*SIZES[size], **CONV) for size in SMALL},
    **{f'convnext_{size}_ols': sized(*SIZES[size], **TIERED) for size in SMALL[:3]},
    'convnext_nano_ols': sized(*SIZES['nano'], stem_type='overlap', **CONV),
    'convnext_atto_rms': sized(*SIZES['atto'], norm_layer=RmsNorm, **CONV),
    **{f'convnext_{size}': sized(*SIZES[size]) for size in ('tiny', 'small', 'base', 'large', 'xlarge')},
    'convnext_tiny_hnf': sized(*SIZES['tiny'], head_norm_first=True, **CONV),
    'convnext_large_mlp': sized(*SIZES['large'], head_hidden_size=1536),
    'convnext_xxlarge': sized((3, 4, 30, 3), 384, norm_eps=1e-5),
    **{
        f'convnextv2_{size}': sized(*SIZES[size], use_grn=True, layer_scale=0.0, conv_mlp=size in SMALL)
        for size in SIZES
        if size != 'xlarge'
    },
    'test_convnext': partial(ConvNeXt, (1, 2, 4, 2), (24, 32, 48, 64), **TEST),
    'test_convnext2': partial(ConvNeXt, (1, 1, 1, 1), (32, 64, 96, 128), **TEST),
    'test_convnext3': partial(ConvNeXt, (1, 1, 1, 1), (32, 64, 96, 128), (7, 5, 5, 3), norm_eps=1e-5, act=silu),
}

WEIGHT_NAMES = ()  # timm's names are those of the general rule
