"""Strings such as 'rand-m9-mstd0.5-inc1' to policies: timm's strings, and 'tf-randaug' for the TensorFlow releases."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from jeffnet.data.policies import (
    MAGNITUDES,
    RAND,
    RAND_INCREASING,
    AugMix,
    AutoAugment,
    Noise,
    Policy,
    RandAugment,
    TfRandAugment,
)

# Weights of a choice without replacement. timm's old `w0` goes by the order of RAND, the others name what they choose.
W0 = (0.025, 0.005, 0, 0.3, 0, 0.005, 0.005, 0.025, 0.005, 0.005, 0.025, 0.2, 0.2, 0.1, 0.1)
WEIGHTS = {
    'weights': {
        'Rotate': 3, 'ShearX': 2, 'ShearY': 2, 'TranslateXRel': 1, 'TranslateYRel': 1, 'ColorIncreasing': 0.25,
        'SharpnessIncreasing': 0.25, 'AutoContrast': 0.25, 'SolarizeIncreasing': 0.05, 'SolarizeAdd': 0.05,
        'ContrastIncreasing': 0.05, 'BrightnessIncreasing': 0.05, 'Equalize': 0.05, 'PosterizeIncreasing': 0.05,
        'Invert': 0.05,
    },
    '3aw': {
        'SolarizeIncreasing': 6, 'Desaturate': 6, 'GaussianBlur': 6, 'Rotate': 3, 'ShearX': 2, 'ShearY': 2,
        'PosterizeIncreasing': 1, 'AutoContrast': 1, 'ColorIncreasing': 1, 'SharpnessIncreasing': 1,
        'ContrastIncreasing': 1, 'BrightnessIncreasing': 1, 'Equalize': 1, 'Invert': 1,
    },
}  # fmt: skip

# Pairs of (operation, probability, magnitude), of which an image gets one, Cubuk et al. 2018 (arXiv:1805.09501);
# `v0` is what EfficientNet's weights with AutoAugment were trained with.
ORIGINAL = """
PosterizeOriginal 0.4 8 Rotate 0.6 9, Solarize 0.6 5 AutoContrast 0.6 5, Equalize 0.8 8 Equalize 0.6 3,
PosterizeOriginal 0.6 7 PosterizeOriginal 0.6 6, Equalize 0.4 7 Solarize 0.2 4, Equalize 0.4 4 Rotate 0.8 8,
Solarize 0.6 3 Equalize 0.6 7, PosterizeOriginal 0.8 5 Equalize 1 2, Rotate 0.2 3 Solarize 0.6 8,
Equalize 0.6 8 PosterizeOriginal 0.4 6, Rotate 0.8 8 Color 0.4 0, Rotate 0.4 9 Equalize 0.6 2,
Equalize 0 7 Equalize 0.8 8, Invert 0.6 4 Equalize 1 8, Color 0.6 4 Contrast 1 8, Rotate 0.8 8 Color 1 2,
Color 0.8 8 Solarize 0.8 7, Sharpness 0.4 7 Invert 0.6 8, ShearX 0.6 5 Equalize 1 9, Color 0.4 0 Equalize 0.6 3,
Equalize 0.4 7 Solarize 0.2 4, Solarize 0.6 5 AutoContrast 0.6 5, Invert 0.6 4 Equalize 1 8, Color 0.6 4 Contrast 1 8,
Equalize 0.8 8 Equalize 0.6 3
"""
V0 = """
Equalize 0.8 1 ShearY 0.8 4, Color 0.4 9 Equalize 0.6 3, Color 0.4 1 Rotate 0.6 8, Solarize 0.8 3 Equalize 0.4 7,
Solarize 0.4 2 Solarize 0.6 2, Color 0.2 0 Equalize 0.8 8, Equalize 0.4 8 SolarizeAdd 0.8 3, ShearX 0.2 9 Rotate 0.6 8,
Color 0.6 1 Equalize 1 2, Invert 0.4 9 Rotate 0.6 0, Equalize 1 9 ShearY 0.6 3, Color 0.4 7 Equalize 0.6 0,
Posterize 0.4 6 AutoContrast 0.4 7, Solarize 0.6 8 Color 0.6 9, Solarize 0.2 4 Rotate 0.8 9,
Rotate 1 7 TranslateYRel 0.8 9, ShearX 0 0 Solarize 0.8 4, ShearY 0.8 0 Color 0.6 4, Color 1 0 Rotate 0.6 2,
Equalize 0.8 4 Equalize 0 8, Equalize 1 4 AutoContrast 0.6 2, ShearY 0.4 7 SolarizeAdd 0.6 7,
Posterize 0.8 2 Solarize 0.6 10, Solarize 0.6 8 Equalize 0.6 1, Color 0.8 6 Rotate 0.4 5
"""
# 3-Augment, Touvron et al. 2022 (arXiv:2204.07118)
THREE = 'Solarize 1 5, Desaturate 1 10, GaussianBlurRand 1 10'
SUB_POLICIES = {
    'original': ORIGINAL,
    'originalr': ORIGINAL.replace('PosterizeOriginal', 'PosterizeIncreasing'),
    'v0': V0,
    'v0r': V0.replace('Posterize ', 'PosterizeIncreasing '),
    '3a': THREE,
}

FORMS = (
    'rand with n, m, p, mstd, mmax, inc, w0, tweights, t3a or t3aw, such as rand-m9-mstd0.5-inc1; '
    'original, originalr, v0, v0r, 3a with mstd, such as v0-mstd0.5; '
    'augmix with m, w, d, a, b, mstd, such as augmix-m5-w4-d2; tf-randaug with n, m, such as tf-randaug-n2-m15'
)


def number(text: str, low: float = 0.0, high: float = math.inf) -> float:
    """A number in its bounds."""
    value = float(text)
    if not low <= value <= high:
        raise ValueError
    return value


def count(text: str) -> int:
    """A whole number from 1 on."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def switch(text: str) -> bool:
    """0 or 1."""
    return {'0': False, '1': True}[text]


def named(text: str) -> str:
    """A set of operations to choose from."""
    return {name: name for name in (*WEIGHTS, '3a')}[text]


def magnitude(text: str) -> float:
    """A finite number."""
    return number(text, high=1e6)


Options = dict[str, Callable[[str], Any]]
OPTIONS: dict[str, Options] = {
    'rand': {
        'mstd': number, 'mmax': lambda text: number(text, 1e-6, 1e6), 'inc': switch, 'm': magnitude, 'n': count,
        'p': lambda text: number(text, 0, 1), 'w': {'0': 'w0'}.__getitem__, 't': named,
    },
    'augmix': {
        'mstd': number, 'm': magnitude, 'w': count, 'd': count, 'b': switch,
        'a': lambda text: number(text, 1e-6, 1e6),
    },
    'tf-randaug': {'n': count, 'm': magnitude},
    **{name: {'mstd': number} for name in SUB_POLICIES},
}  # fmt: skip


@lru_cache
def parse(text: str) -> Policy:
    """The policy that a string names; ValueError for any that names none."""
    try:
        return policy(*sections(text))
    except (ValueError, KeyError, StopIteration):  # of a converter, of a table, of a name or key that is not there
        raise ValueError(f'auto is {text!r}; allowed: {FORMS}') from None


def sections(text: str) -> tuple[str, dict[str, Any]]:
    """The name of a policy and the values of its options; longer keys first, since mstd also begins with m."""
    name = next(name for name in OPTIONS if f'{text}-'.startswith(f'{name}-'))
    values: dict[str, Any] = {}
    for section in text[len(name) + 1 :].split('-') if text != name else ():
        key = next(key for key in OPTIONS[name] if section.startswith(key))
        if key in values:
            raise ValueError
        values[key] = OPTIONS[name][key](section[len(key) :])
    return name, values


def policy(name: str, options: dict[str, Any]) -> Policy:
    """The policy of a name and its options."""
    if name == 'rand':
        return rand_augment(**options)
    noise = Noise(options.get('mstd', math.inf if name == 'augmix' else 0.0))
    if name == 'augmix':
        keys = {'m': 'magnitude', 'w': 'width', 'd': 'depth', 'a': 'alpha', 'b': 'blended'}
        return AugMix(**{keys[key]: value for key, value in options.items() if key in keys}, noise=noise)
    if name == 'tf-randaug':
        return TfRandAugment(options.get('n', 2), options.get('m', MAGNITUDES))
    words = [sequence.split() for sequence in SUB_POLICIES[name].split(',')]
    sequences = [tuple((w[i], float(w[i + 1]), float(w[i + 2])) for i in range(0, len(w), 3)) for w in words]
    return AutoAugment(tuple(sequences), noise)


def rand_augment(
    *,
    n: int = 2,
    m: float = MAGNITUDES,
    p: float = 0.5,
    mstd: float = 0.0,
    mmax: float = MAGNITUDES,
    inc: bool = False,
    w: str | None = None,
    t: str | None = None,
) -> RandAugment:
    """RandAugment of timm's options; a deviation above 100 means uniform magnitudes."""
    if w and t:
        raise ValueError
    names, weights = RAND_INCREASING if inc else RAND, W0 if w else None
    if t == '3a':
        names = ('SolarizeIncreasing', 'Desaturate', 'GaussianBlur')
    elif t:
        names, weights = tuple(WEIGHTS[t]), tuple(WEIGHTS[t].values())
    if weights:
        weights = tuple(weight / sum(weights) for weight in weights)
        if n > sum(weight > 0 for weight in weights):
            raise ValueError
    return RandAugment(names, weights, n, m, p, Noise(math.inf if mstd > 100 else mstd, mmax))
