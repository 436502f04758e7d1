"""Operations on pixels: Pillow's side against timm and torchvision, TensorFlow's bit for bit against Pillow's.

conftest.py has imported torchvision before: after TensorFlow, it would abort the process.
"""

from functools import lru_cache

import numpy as np
import pytest
import tensorflow
from PIL import Image, ImageFilter
from timm.data import auto_augment
from torchvision.transforms import functional

from jeffnet.data import Augmentation, image_ops, policies, tf_image_ops
from jeffnet.data.augmentation import CODES, RESAMPLE

FILL = (124, 116, 104)
SIZES = [(33, 47), (24, 24), (3, 5), (1, 1), (2, 9)]  # (height, width)


def pictures(height, width):
    """Noise, dim noise, one value, black, white, and a picture of two values."""
    rng = np.random.default_rng(height * width)
    shape = (height, width, 3)
    dim, two = rng.integers(60, 130, shape), rng.integers(0, 2, shape) * 200 + 20
    found = [rng.integers(0, 256, shape), dim, two, np.full(shape, 77), np.zeros(shape), np.full(shape, 255)]
    return [image.astype(np.uint8) for image in found]


PICTURES = [image for size in SIZES for image in pictures(*size)]


def arguments_of(table, name):
    """All arguments of an operation: levels 0 to 10, both signs, for geometric ones all three filters."""

    class Sign:
        def __init__(self, value):
            self.value = value

        def random(self):
            return self.value

        def uniform(self, low, high):
            return low + (high - low) * self.value

    operation, level = table[name]
    filters = (0, *RESAMPLE.values()) if operation in policies.GEOMETRIC else (0,)
    found = {
        (operation, *(*level(x / 10, Sign(sign)), kind, 0, 0)[:3])
        for x in (*range(11), 15)
        for sign in (0.1, 0.9)
        for kind in filters
    }
    return sorted(found)


ALL = sorted(
    {entry for table in (policies.LEVELS, policies.TF_LEVELS) for name in table for entry in arguments_of(table, name)}
    | {('Hue', turn / 20, 0.0, 0.0) for turn in range(-10, 11)}
    | {(name, factor, 0.0, 0.0) for name in ('Color', 'Contrast', 'Brightness') for factor in (0, 0.37, 1, 1.37, 3)}
    | {('Cutout', half, y, x) for half in (0, 1, 7, 60) for y, x in ((0, 0), (0.5, 0.3), (0.99, 0.99))}
)
NAMES = sorted(set(policies.OPERATIONS) - {'Nothing'})


def by_pillow(name, arguments, image):
    """An operation of `image_ops` on an array."""
    grey = image.shape[2] == 1
    picture, fill = Image.fromarray(image[:, :, 0] if grey else image), FILL[:1] if grey else FILL
    found = image_ops.BY_NAME[name](picture, arguments, fill)
    return np.asarray(found).reshape(image.shape)


@lru_cache
def by_tensorflow(size, channels):
    """`tf_image_ops.operation` for a size."""
    return tf_image_ops.operation(tensorflow.TensorShape([*size, channels]), FILL[:channels])


@pytest.mark.parametrize('channels', [3, 1])
@pytest.mark.parametrize('name', NAMES)
def test_tensorflow_equals_pillow(name, channels):
    cases = [entry[1:] for entry in ALL if entry[0] == name]
    assert cases
    for size in SIZES if channels == 3 else SIZES[:2]:
        step = by_tensorflow(size, channels)
        for image in pictures(*size):
            image = image[:, :, :channels]
            all_cases = size == SIZES[0] and CODES[name] <= CODES['Cutout']  # from there on, Pillow itself
            for arguments in cases if all_cases else cases[::7]:
                ours = step(image, np.int32(CODES[name]), np.float64(arguments)).numpy()
                assert (ours == by_pillow(name, arguments, image)).all(), (size, arguments)


# --- Pillow's side against timm


@pytest.mark.parametrize('name', [name for name in policies.LEVELS if name != 'GaussianBlurRand'])
def test_operations_are_timms(name):
    for level in range(11):
        for sign in (1, -1):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(auto_augment, '_randomly_negate', lambda value, sign=sign: sign * value)
                function = auto_augment.LEVEL_TO_ARG[name]
                theirs = function(level, {}) if function else ()
            operation = policies.LEVELS[name][0]
            first = 1 - theirs[0] if name == 'Desaturate' else (*theirs, 0)[0]
            for resample in RESAMPLE.values() if operation in policies.GEOMETRIC else (0,):
                if operation == 'Posterize' and first == 0:
                    continue  # timm fails: Pillow 13 refuses to keep no bits; see the next test
                for image in PICTURES[:12]:
                    options = {'fillcolor': FILL, 'resample': Image.Resampling(resample)}
                    expected = auto_augment.NAME_TO_OP[name](Image.fromarray(image), *theirs, **options)
                    found = by_pillow(operation, (first, resample, 0), image)
                    assert (found == np.asarray(expected)).all(), (level, sign)


def test_what_predecessors_got_wrong():
    image = PICTURES[0]
    assert (by_pillow('Posterize', (0, 0, 0), image) == 0).all()
    assert (by_pillow('Posterize', (11, 0, 0), image) == image).all()
    assert (by_pillow('Solarize', (256, 0, 0), image) == image).all()  # 256 in uint8 would be 0 and invert everything
    assert (by_pillow('Solarize', (0, 0, 0), image) == 255 - image).all()
    stretched = by_pillow('AutoContrast', (0, 0, 0), PICTURES[1])
    assert stretched.min() == 0 and stretched.max() == 255 and 100 < stretched.mean() < 155
    for flat in pictures(9, 9)[3:]:
        assert (by_pillow('AutoContrast', (0, 0, 0), flat) == flat).all()
        assert (by_pillow('Equalize', (0, 0, 0), flat) == flat).all()


def test_cutout_is_a_square_within_the_image():
    image = np.zeros((20, 30, 3), np.uint8)
    found = by_pillow('Cutout', (4, 0.5, 0.1), image)
    filled = (found == FILL).all(axis=2)
    assert filled.sum() == 8 * 7 and filled[6:14, :7].all()  # 3 - 4 is outside
    assert (found[~filled] == 0).all()


@pytest.mark.parametrize('factor', [0.0, 0.3, 1.0, 1.8])
def test_jitter_is_torchvisions(factor):
    for image in PICTURES[:6]:
        picture = Image.fromarray(image)
        for name, function in (
            ('Brightness', functional.adjust_brightness),
            ('Contrast', functional.adjust_contrast),
            ('Color', functional.adjust_saturation),
        ):
            assert (by_pillow(name, (factor, 0, 0), image) == np.asarray(function(picture, factor))).all()
        for turn in (factor / 4, -factor / 4):
            assert (by_pillow('Hue', (turn, 0, 0), image) == np.asarray(functional.adjust_hue(picture, turn))).all()


def test_augmix_is_timms():
    """The chains of a draw, mixed by timm's own code, which is given its random numbers."""
    image = Image.fromarray(pictures(33, 47)[0])
    for text in ('augmix-m9-w4', 'augmix-m9-b1'):
        augmentation = Augmentation(auto=text)
        mix = augmentation.mix
        for position in range(8):
            draw = augmentation.draw(0, position)
            chains = [
                image_ops.one_by_one(image, image_ops.Operations(*chain), FILL)
                for chain in zip(*draw.chains, strict=True)
            ]
            theirs = auto_augment.AugMixAugment([None], depth=1, width=mix.width, blended=mix.blended)
            with pytest.MonkeyPatch.context() as patch:
                queue = iter(chains)
                patch.setattr(np.random, 'choice', lambda *_, queue=queue, **__: [lambda _: next(queue)])
                if mix.blended:
                    patch.setattr(theirs, '_calc_blended_weights', lambda weights, share, draw=draw: draw.weights)
                apply = theirs._apply_blended if mix.blended else theirs._apply_basic
                expected = np.asarray(apply(image, draw.weights, draw.share))
            assert (np.asarray(image_ops.mix(image, draw, mix.blended, FILL)) == expected).all()


def test_blur_is_pillows():
    image = PICTURES[0]
    expected = Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.7))
    assert (by_pillow('GaussianBlur', (1.7, 0, 0), image) == np.asarray(expected)).all()
