"""Augmentation as data, and the random numbers of one example: drawn here once, carried out by both readers."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jeffnet.data import policies, policy_strings
from jeffnet.data.settings import INTERPOLATIONS, Box, check, is_number

CROP_ATTEMPTS = 10  # random crops drawn for one example; the first that fits into the image is taken
RESAMPLE = {'bilinear': 2, 'bicubic': 3}  # numbers of Pillow's filters
CODES = {name: code for code, name in enumerate(policies.OPERATIONS)}
JITTERED = ('Brightness', 'Contrast', 'Color', 'Hue')
GREY = 128  # the TensorFlow releases fill with it


class Operations(NamedTuple):
    """Operations one after the other, as numbers; the places that are left over hold 'Nothing'."""

    codes: Any  # int32 [..., K], places in policies.OPERATIONS
    arguments: Any  # float64 [..., K, 3]


class Draw(NamedTuple):
    """The random numbers of one example; tensors, in TensorFlow's reader."""

    crops: Any  # float64 [10, 4]: area share, ratio, top share, left share
    hflip: Any  # bool
    vflip: Any  # bool
    bicubic: Any  # bool: else the crop is resized with bilinear interpolation
    operations: Operations  # [K]
    chains: Operations  # [W, D], of AugMix: before the operations
    weights: Any  # float32 [W]
    share: Any  # float32


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image at random, in the order of the fields; bad values raise ValueError.

    Random resized crop and flip: Szegedy et al. 2014 (arXiv:1409.4842).
    """

    scale: tuple[float, float] = (0.08, 1.0)  # share of the image's area
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of the crop
    hflip: float = 0.5  # probability of mirroring left and right
    interpolation: str | None = None  # 'random': bilinear or bicubic; None: that of the preprocessing
    vflip: float = 0.0  # probability of mirroring top and bottom
    auto: str | None = None  # a policy, such as 'rand-m9-mstd0.5-inc1'; see policy_strings.FORMS
    color_jitter: float | tuple[float, ...] = 0.0  # torchvision's, of brightness, contrast, saturation and perhaps hue

    def __post_init__(self) -> None:
        for name, most in (('scale', 1.0), ('ratio', math.inf)):
            value = getattr(self, name)
            pair = isinstance(value, (tuple, list)) and len(value) == 2 and all(is_number(v) for v in value)
            fits = pair and 0 < value[0] <= value[1] <= most
            check(name, value, fits, '(low, high) with 0 < low <= high' + (' <= 1' if most == 1 else ''))
            object.__setattr__(self, name, tuple(float(v) for v in value))
        for name in ('hflip', 'vflip'):
            value = getattr(self, name)
            check(name, value, is_number(value) and 0 <= value <= 1, 'a probability, 0 to 1')
        choices = (None, *INTERPOLATIONS, 'random')
        check('interpolation', self.interpolation, self.interpolation in choices, ', '.join(map(str, choices)))
        object.__setattr__(self, 'color_jitter', jitter_ranges(self.color_jitter))
        if self.auto is not None:
            check('auto', self.auto, isinstance(self.auto, str), f'None, or {policy_strings.FORMS}')
            policy_strings.parse(self.auto)

    @property
    def jitter(self) -> tuple[float, ...]:
        """The four ranges of colour jitter: brightness, contrast, saturation, hue."""
        return jitter_ranges(self.color_jitter)

    @property
    def policy(self) -> policies.Policy | None:
        """That which `auto` names."""
        return None if self.auto is None else policy_strings.parse(self.auto)

    @property
    def mix(self) -> policies.AugMix | None:
        """The policy, if it mixes chains of operations."""
        return self.policy if isinstance(self.policy, policies.AugMix) else None

    @property
    def changes_values(self) -> bool:
        """Whether there is anything but crop and flips; it works on whole numbers, 0 to 255."""
        return self.auto is not None or any(self.jitter)

    @property
    def sizes(self) -> tuple[int, tuple[int, int]]:
        """How many operations a draw holds at most, and the size of its chains."""
        in_policy = 0 if self.policy is None else self.policy.length
        jittered = sum(most > 0 for most in self.jitter)
        return in_policy + jittered, (self.mix.width, self.mix.longest) if self.mix else (0, 0)

    def fill(self, preprocessing: Any) -> tuple[int, ...]:
        """The colour outside of a moved image, uint8 [C]: the model's mean as in timm, or grey as in TensorFlow."""
        if preprocessing.kind == 'tf' or isinstance(self.policy, policies.TfRandAugment):
            return (GREY,) * preprocessing.in_chans
        colour = tuple(max(0, min(255, round(255 * mean))) for mean in preprocessing.mean)
        return colour[::-1] if preprocessing.bgr else colour  # images are turned round at the very end

    def draw(self, seed: int, position: int, interpolation: str = 'bicubic') -> Draw:
        """The random numbers of one example; `interpolation` is that of the preprocessing.

        They depend on (seed, position in the data order) alone: not on the worker, the batch size or the reader.
        """
        philox = np.random.Philox(key=[seed, position], counter=[0, 0, 0, 1])  # counter 0 belongs to the data order
        random = np.random.Generator(philox)
        uniform = random.random(4 * CROP_ATTEMPTS + 3)
        crops = uniform[:-3].reshape(CROP_ATTEMPTS, 4)
        crops[:, 0] = self.scale[0] + crops[:, 0] * (self.scale[1] - self.scale[0])
        low, high = np.log(self.ratio)
        crops[:, 1] = np.exp(low + crops[:, 1] * (high - low))  # uniform in the logarithm: 3:4 is as likely as 4:3
        hflip, vflip = uniform[-3] < self.hflip, uniform[-2] < self.vflip
        chosen = self.interpolation or interpolation
        if chosen == 'random':
            bicubic = uniform[-1] < 0.5
        else:
            bicubic = chosen == 'bicubic'
        return Draw(crops, bool(hflip), bool(vflip), bool(bicubic), *self.draw_operations(random, chosen))

    def draw_operations(self, random: np.random.Generator, interpolation: str) -> tuple:
        """The last four fields of a draw."""

        def resample() -> int:
            if interpolation == 'random':
                return RESAMPLE[INTERPOLATIONS[random.integers(2)]]
            return RESAMPLE[interpolation]

        length, (width, depth) = self.sizes
        operations, chains, weights, share, policy = [], [], np.zeros(0, np.float32), np.float32(0), self.policy
        if isinstance(policy, policies.AugMix):
            chains, weights, share = policy.draw_mix(random, resample)
        elif policy:
            operations = policy.draw(random, resample)
        if any(self.jitter):
            operations = operations + draw_jitter(self.jitter, random)
        codes, arguments = np.zeros((width, depth), np.int32), np.zeros((width, depth, 3))
        for row, chain in enumerate(chains):
            codes[row], arguments[row] = pack(chain, depth)
        return pack(operations, length), Operations(codes, arguments), weights, share


def jitter_ranges(value: Any) -> tuple[float, ...]:
    """The four ranges of colour jitter, of one number or of three or four."""
    ranges = tuple(value) if isinstance(value, (tuple, list)) else (value,) * 3
    ranges = (*ranges, 0.0)[:4] if len(ranges) == 3 else ranges
    fits = len(ranges) == 4 and all(is_number(v) and v >= 0 for v in ranges) and ranges[3] <= 0.5
    check('color_jitter', value, fits, '0 or more; one number, 3 (brightness, contrast, saturation), or 4 (hue <= 0.5)')
    return tuple(float(v) for v in ranges)


def draw_jitter(ranges: tuple[float, ...], random: np.random.Generator) -> list[policies.Operation]:
    """Factors of brightness, contrast and saturation and a turn of the hue, in random order."""
    found = []
    for kind in random.permutation(4):
        most, name = ranges[kind], JITTERED[kind]
        middle = 0.0 if name == 'Hue' else 1.0
        low = -most if name == 'Hue' else max(0.0, 1.0 - most)
        if most > 0:
            found.append((name, random.uniform(low, middle + most), 0, 0))
    return found


def pack(operations: list[policies.Operation], length: int) -> Operations:
    """Operations as arrays of `length`."""
    codes, arguments = np.zeros(length, np.int32), np.zeros((length, 3))
    for place, (name, *values) in enumerate(operations):
        codes[place], arguments[place] = CODES[name], values
    return Operations(codes, arguments)


def random_crop(height: int, width: int, crops: np.ndarray, ratio: tuple[float, float]) -> Box:
    """The first crop that fits into the image, else the largest centred one with a ratio inside the limits."""
    for share, aspect, y, x in crops:
        area = height * width * share
        crop_height, crop_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            return int(y * (height - crop_height + 1)), int(x * (width - crop_width + 1)), crop_height, crop_width
    aspect = min(max(width / height, ratio[0]), ratio[1])
    crop_height, crop_width = max(1, min(height, round(width / aspect))), max(1, min(width, round(height * aspect)))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width
