"""MobileNetV4 without attention: universal inverted residuals between EfficientNet's stem and MobileNetV3's head.

Paper: MobileNetV4 (Qin et al., arXiv 2404.10518).
"""

from functools import partial

from jeffnet.models.efficientnet import MobileNetV3
from jeffnet.models.efficientnet_stages import Run, cn, er
from jeffnet.models.mobile_blocks import UniversalInvertedResidual, dark_blur_pool, mean_pool


def uir(repeats: int, start: int, middle: int, stride: int, expand: float, features: int) -> Run:
    """Universal inverted residuals in a row; `start` and `middle` are kernel sizes, 0 for none."""
    return Run(UniversalInvertedResidual, repeats, middle, stride, expand, features, start_kernel=start)


# uir: repeats, two kernel sizes, stride, expand, features; cn, er: repeats, kernel size, stride, expand, features

SMALL = (
    (cn(1, 3, 2, 1, 32), cn(1, 1, 1, 1, 32)),
    (cn(1, 3, 2, 1, 96), cn(1, 1, 1, 1, 64)),
    (uir(1, 5, 5, 2, 3, 96), uir(4, 0, 3, 1, 2, 96), uir(1, 3, 0, 1, 4, 96)),
    (
        uir(1, 3, 3, 2, 6, 128),
        uir(1, 5, 5, 1, 4, 128),
        uir(1, 0, 5, 1, 4, 128),
        uir(1, 0, 5, 1, 3, 128),
        uir(2, 0, 3, 1, 4, 128),
    ),
    (cn(1, 1, 1, 1, 960),),
)
MEDIUM = (
    (er(1, 3, 2, 4, 48),),
    (uir(1, 3, 5, 2, 4, 80), uir(1, 3, 3, 1, 2, 80)),
    (
        uir(1, 3, 5, 2, 6, 160),
        uir(2, 3, 3, 1, 4, 160),
        uir(1, 3, 5, 1, 4, 160),
        uir(1, 3, 3, 1, 4, 160),
        uir(1, 3, 0, 1, 4, 160),
        uir(1, 0, 0, 1, 2, 160),
        uir(1, 3, 0, 1, 4, 160),
    ),
    (
        uir(1, 5, 5, 2, 6, 256),
        uir(1, 5, 5, 1, 4, 256),
        uir(2, 3, 5, 1, 4, 256),
        uir(1, 0, 0, 1, 4, 256),
        uir(1, 3, 0, 1, 4, 256),
        uir(1, 3, 5, 1, 2, 256),
        uir(1, 5, 5, 1, 4, 256),
        uir(2, 0, 0, 1, 4, 256),
        uir(1, 5, 0, 1, 2, 256),
    ),
    (cn(1, 1, 1, 1, 960),),
)
LARGE = (
    (er(1, 3, 2, 4, 48),),
    (uir(1, 3, 5, 2, 4, 96), uir(1, 3, 3, 1, 4, 96)),
    (
        uir(1, 3, 5, 2, 4, 192),
        uir(3, 3, 3, 1, 4, 192),
        uir(1, 3, 5, 1, 4, 192),
        uir(5, 5, 3, 1, 4, 192),
        uir(1, 3, 0, 1, 4, 192),
    ),
    (
        uir(4, 5, 5, 2, 4, 512),
        uir(1, 5, 0, 1, 4, 512),
        uir(1, 5, 3, 1, 4, 512),
        uir(2, 5, 0, 1, 4, 512),
        uir(1, 5, 3, 1, 4, 512),
        uir(1, 5, 5, 1, 4, 512),
        uir(3, 5, 0, 1, 4, 512),
    ),
    (cn(1, 1, 1, 1, 960),),
)

_small = partial(MobileNetV3, SMALL, stem=32, head_norm=True)
_medium = partial(MobileNetV3, MEDIUM, stem=32, head_norm=True)
_large = partial(MobileNetV3, LARGE, stem=24, head_norm=True)

VARIANTS = {
    'mobilenetv4_conv_small_035': partial(_small, width=0.35, fixed_stem=True),
    'mobilenetv4_conv_small_050': partial(_small, width=0.5, fixed_stem=True),
    'mobilenetv4_conv_small': _small,
    'mobilenetv4_conv_medium': _medium,
    'mobilenetv4_conv_aa_medium': partial(_medium, pool=mean_pool),
    'mobilenetv4_conv_blur_medium': partial(_medium, pool=dark_blur_pool),
    'mobilenetv4_conv_large': _large,
    'mobilenetv4_conv_aa_large': partial(_large, pool=mean_pool),
}
WEIGHT_NAMES = ()
