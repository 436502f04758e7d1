"""Augmentation policies: which operations an image gets, with which arguments. The distributions are timm's.

Nothing here touches an image: an operation is a name and numbers, carried out by `image_ops` (Pillow) and
`tf_image_ops`. `policy_strings` makes policies from strings.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator

Operation = tuple[str, float, float, float]  # a name of OPERATIONS, its argument and two more
Resample = Callable[[], int]  # draws the filter of one geometric operation, a number of Pillow's `Resampling`
Arguments = Callable[[float, Generator], tuple[float, ...]]  # from the tenth of a magnitude

# A draw holds the number of an operation. Those up to Cutout exist in TensorFlow too, see `tf_image_ops`.
OPERATIONS = (
    'Nothing', 'AutoContrast', 'Equalize', 'Invert', 'Posterize', 'Solarize', 'SolarizeAdd', 'Color', 'Contrast',
    'Brightness', 'Sharpness', 'Cutout', 'Rotate', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'TranslateXRel',
    'TranslateYRel', 'GaussianBlur', 'Hue',
)  # fmt: skip
GEOMETRIC = OPERATIONS[OPERATIONS.index('Rotate') : OPERATIONS.index('GaussianBlur')]
NEAREST = 0
MAGNITUDES = 10.0  # the scale of magnitudes


def either(value: float, random: Generator) -> float:
    """The value or its negative."""
    return -value if random.random() > 0.5 else value


def signed(factor: float) -> Arguments:
    """In proportion to the magnitude, in both directions."""
    return lambda x, random: (either(x * factor, random),)


def between(low: float, high: float, x: float) -> float:
    """Between two bounds, whatever the magnitude."""
    return max(low, min(high, low + (high - low) * x))


def enhance(x: float, random: Generator) -> tuple[float, ...]:
    """0.1 to 1.9, of which 1 changes nothing."""
    return (x * 1.8 + 0.1,)


def enhance_increasing(x: float, random: Generator) -> tuple[float, ...]:
    """Farther from 1 with the magnitude, to either side."""
    return (max(0.1, 1.0 + either(x * 0.9, random)),)


# What timm calls an operation: its name here, and the arguments that follow from a tenth of the magnitude.
LEVELS: dict[str, tuple[str, Arguments]] = {
    'AutoContrast': ('AutoContrast', lambda x, random: ()),
    'Equalize': ('Equalize', lambda x, random: ()),
    'Invert': ('Invert', lambda x, random: ()),
    'Rotate': ('Rotate', signed(30.0)),  # degrees
    'Posterize': ('Posterize', lambda x, random: (int(x * 4),)),  # bits that are kept
    'PosterizeIncreasing': ('Posterize', lambda x, random: (4 - int(x * 4),)),
    'PosterizeOriginal': ('Posterize', lambda x, random: (int(x * 4) + 4,)),
    'Solarize': ('Solarize', lambda x, random: (min(256, int(x * 256)),)),  # the lowest value that is inverted
    'SolarizeIncreasing': ('Solarize', lambda x, random: (256 - min(256, int(x * 256)),)),
    'SolarizeAdd': ('SolarizeAdd', lambda x, random: (min(128, int(x * 110)),)),
    'Color': ('Color', enhance),
    'ColorIncreasing': ('Color', enhance_increasing),
    'Contrast': ('Contrast', enhance),
    'ContrastIncreasing': ('Contrast', enhance_increasing),
    'Brightness': ('Brightness', enhance),
    'BrightnessIncreasing': ('Brightness', enhance_increasing),
    'Sharpness': ('Sharpness', enhance),
    'SharpnessIncreasing': ('Sharpness', enhance_increasing),
    'ShearX': ('ShearX', signed(0.3)),
    'ShearY': ('ShearY', signed(0.3)),
    'TranslateXRel': ('TranslateXRel', signed(0.45)),  # share of the side
    'TranslateYRel': ('TranslateYRel', signed(0.45)),
    'Desaturate': ('Color', lambda x, random: (1.0 - between(0.5, 1.0, x),)),
    'GaussianBlur': ('GaussianBlur', lambda x, random: (between(0.1, 2.0, x),)),  # standard deviation in pixels
    'GaussianBlurRand': ('GaussianBlur', lambda x, random: (random.uniform(0.1, 2.0 * between(0.0, 1.0, x)),)),
}
AUGMIX_LEVELS = LEVELS | {
    'TranslateXRel': ('TranslateXRel', signed(0.3)),
    'TranslateYRel': ('TranslateYRel', signed(0.3)),
}
TF_LEVELS = LEVELS | {
    'SolarizeAdd': ('SolarizeAdd', lambda x, random: (int(x * 110),)),
    'TranslateX': ('TranslateX', signed(100.0)),  # pixels
    'TranslateY': ('TranslateY', signed(100.0)),
    'Cutout': ('Cutout', lambda x, random: (int(x * 40), random.random(), random.random())),  # half a side; its centre
}

# --- the operations that a policy chooses from

RAND = (
    'AutoContrast', 'Equalize', 'Invert', 'Rotate', 'Posterize', 'Solarize', 'SolarizeAdd', 'Color', 'Contrast',
    'Brightness', 'Sharpness', 'ShearX', 'ShearY', 'TranslateXRel', 'TranslateYRel',
)  # fmt: skip
INCREASING = {'Posterize', 'Solarize', 'Color', 'Contrast', 'Brightness', 'Sharpness'}  # have such a variant
RAND_INCREASING = tuple(name + 'Increasing' if name in INCREASING else name for name in RAND)
TF_RAND = (*(name.removesuffix('Rel') for name in RAND), 'Cutout')
AUGMIX = tuple(name for name in RAND_INCREASING if name not in ('Invert', 'SolarizeAdd'))


# --- policies


@dataclass(frozen=True)
class Noise:
    """How a magnitude varies: normal with this deviation, or uniform below the magnitude if that is infinite."""

    deviation: float = 0.0
    most: float = MAGNITUDES

    def tenth(self, magnitude: float, random: Generator) -> float:
        """A tenth of a drawn magnitude."""
        if self.deviation == math.inf:
            magnitude = magnitude * random.random()
        elif self.deviation > 0:
            magnitude = random.normal(magnitude, self.deviation)
        return max(0.0, min(magnitude, self.most)) / MAGNITUDES


def operation(level: tuple[str, Arguments], x: float, random: Generator, resample: Resample) -> Operation:
    """One operation with arguments; the second one of a geometric operation is its filter."""
    name, arguments = level
    drawn = arguments(x, random)
    if name in GEOMETRIC:
        drawn = (*drawn, resample())
    a, b, c = (*drawn, 0, 0, 0)[:3]
    return name, a, b, c


@dataclass(frozen=True)
class RandAugment:
    """So many operations, each done with a probability, Cubuk et al. 2019 (arXiv:1909.13719)."""

    names: tuple[str, ...] = RAND
    weights: tuple[float, ...] | None = None  # of a choice without replacement; None: all alike, with replacement
    length: int = 2
    magnitude: float = 10.0
    probability: float = 0.5
    noise: Noise = Noise()

    def draw(self, random: Generator, resample: Resample) -> list[Operation]:
        """The operations of one image, at most `length`."""
        chosen = random.choice(len(self.names), self.length, replace=self.weights is None, p=self.weights)
        found = []
        for name in (self.names[i] for i in chosen):
            if random.random() < self.probability:
                found.append(operation(LEVELS[name], self.noise.tenth(self.magnitude, random), random, resample))
        return found


@dataclass(frozen=True)
class TfRandAugment:
    """RandAugment of the TensorFlow releases: magnitudes beyond 10 go on in proportion, pixels are the nearest ones."""

    length: int = 2
    magnitude: float = 10.0

    def draw(self, random: Generator, resample: Resample) -> list[Operation]:
        """The operations of one image, `length` of them."""
        chosen = random.choice(len(TF_RAND), self.length)
        x = self.magnitude / MAGNITUDES
        return [operation(TF_LEVELS[TF_RAND[i]], x, random, lambda: NEAREST) for i in chosen]


@dataclass(frozen=True)
class AutoAugment:
    """One of several fixed sequences of operations, Cubuk et al. 2018 (arXiv:1805.09501)."""

    sequences: tuple[tuple[tuple[str, float, float], ...], ...]  # of (operation, probability, magnitude)
    noise: Noise = Noise()

    @property
    def length(self) -> int:
        """The most operations that an image gets."""
        return max(map(len, self.sequences))

    def draw(self, random: Generator, resample: Resample) -> list[Operation]:
        """The operations of one image, at most `length`."""
        return [
            operation(LEVELS[name], self.noise.tenth(magnitude, random), random, resample)
            for name, probability, magnitude in self.sequences[random.integers(len(self.sequences))]
            if random.random() < probability
        ]


@dataclass(frozen=True)
class AugMix:
    """Several chains of operations mixed with each other and the image, Hendrycks et al. 2019 (arXiv:1912.02781)."""

    magnitude: float = 3.0
    width: int = 3
    depth: int | None = None  # None: 1 to 3 for each chain
    alpha: float = 1.0  # of the distribution of weights
    blended: bool = False  # each chain is blended into the image, rather than their sum
    noise: Noise = Noise(math.inf)

    length: ClassVar[int] = 0  # operations outside of chains

    @property
    def longest(self) -> int:
        """The most operations of a chain."""
        return self.depth or 3

    def draw_mix(self, random: Generator, resample: Resample) -> tuple[list[list[Operation]], np.ndarray, np.float32]:
        """The chains, float32 weights [width] of them, and the share of their mix in the image."""
        weights = random.dirichlet([self.alpha] * self.width).astype(np.float32)
        share = np.float32(random.beta(self.alpha, self.alpha))
        chains = []
        for _ in range(self.width):
            names = [AUGMIX[i] for i in random.integers(len(AUGMIX), size=self.depth or random.integers(1, 4))]
            tenths = [self.noise.tenth(self.magnitude, random) for _ in names]
            pairs = zip(names, tenths, strict=True)
            chains.append([operation(AUGMIX_LEVELS[name], x, random, resample) for name, x in pairs])
        return chains, blend_shares(weights * share) if self.blended else weights, share


def blend_shares(weights: np.ndarray) -> np.ndarray:
    """Shares for blending one after the other into an image, so that each ends with its weight, float32 [n]."""
    rest, shares = np.float32(1), []
    for weight in weights[::-1]:
        shares.append(weight / rest)
        rest *= 1 - shares[-1]
    return np.array(shares[::-1], np.float32)


Policy = RandAugment | TfRandAugment | AutoAugment | AugMix
