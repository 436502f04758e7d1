"""Augmentation as data: strings and random numbers of examples, against timm's policies and torchvision's jitter."""

import json
import math
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
from timm.data import auto_augment
from torchvision.transforms import ColorJitter

from jeffnet.data import Augmentation, Preprocessing, image_ops, policies, policy_strings
from jeffnet.data.augmentation import RESAMPLE


def drawn(augmentation, count, seed=0):
    """The operations of some examples: lists of (name, arguments)."""
    found = []
    for position in range(count):
        codes, arguments = augmentation.draw(seed, position).operations
        pairs = zip(codes.tolist(), arguments.tolist(), strict=True)
        found.append([(policies.OPERATIONS[code], values) for code, values in pairs if code])
    return found


def assert_share(hits, trials, share):
    """A count of independent trials, within five standard deviations: one in a million fails, and the seed is fixed."""
    assert abs(hits - trials * share) <= 5 * math.sqrt(trials * share * (1 - share)) + 1e-9


# --- strings

PLAIN = ['rand-m9-mstd0.5-inc1', 'rand', 'rand-m7-n3-p0.3', 'rand-m12-mmax15-mstd2', 'rand-tweights-n3', 'rand-t3a',
         'rand-m6-n4-t3aw-mstd0.5', 'rand-m9-mstd101', 'rand-m9-mstd100', 'v0', 'v0r', 'original', 'originalr', '3a',
         'v0-mstd0.5', 'original-mstd1']  # fmt: skip


def timms(text, **parameters):
    """timm's own transform of a string."""
    parameters = {'translate_const': 100, 'img_mean': (1, 2, 3), **parameters}
    if text.startswith('rand'):
        return auto_augment.rand_augment_transform(text, parameters)
    if text.startswith('augmix'):
        return auto_augment.augment_and_mix_transform(text, {**parameters, 'translate_pct': 0.3})
    return auto_augment.auto_augment_transform(text, parameters)


def same_entry(name, probability, magnitude, noise, op):
    """Whether an operation of ours is one of timm's."""
    most = op.magnitude_max or 10
    ours = (name, probability, magnitude, noise.deviation, noise.most)
    return ours == (op.name, op.prob, op.magnitude, op.magnitude_std, most)


@pytest.mark.parametrize('text', PLAIN)
def test_strings_mean_what_they_mean_to_timm(text):
    ours, theirs = policy_strings.parse(text), timms(text)
    if isinstance(ours, policies.AutoAugment):
        assert len(ours.sequences) == len(theirs.policy)
        for sequence, ops in zip(ours.sequences, theirs.policy, strict=True):
            assert all(same_entry(*entry, ours.noise, op) for entry, op in zip(sequence, ops, strict=True))
        return
    assert ours.length == theirs.num_layers
    pairs = zip(ours.names, theirs.ops, strict=True)
    assert all(same_entry(name, ours.probability, ours.magnitude, ours.noise, op) for name, op in pairs)
    weights = theirs.choice_weights
    assert (weights is None) == (ours.weights is None)
    assert weights is None or np.allclose(ours.weights, weights, rtol=1e-12)  # the sums are taken in another order


@pytest.mark.parametrize('text', ['augmix', 'augmix-m5-w4-d2', 'augmix-m7-a0.5-b1', 'augmix-mstd0.5'])
def test_augmix_strings_mean_what_they_mean_to_timm(text):
    ours, theirs = policy_strings.parse(text), timms(text)
    found = (ours.width, ours.depth or -1, ours.alpha, ours.blended)
    assert found == (theirs.width, theirs.depth, theirs.alpha, theirs.blended)
    pairs = zip(sorted(policies.AUGMIX), sorted(theirs.ops, key=lambda op: op.name), strict=True)
    assert all(same_entry(name, 1, ours.magnitude, ours.noise, op) for name, op in pairs)


def test_w0_has_the_weights_of_timms_old_table():
    weights = dict(zip(policies.RAND, policy_strings.parse('rand-w0-inc1').weights, strict=True))
    assert weights['Rotate'] == pytest.approx(0.3 / sum(policy_strings.W0)) and weights['Invert'] == 0
    assert policy_strings.parse('rand-mstdinf').noise.deviation == math.inf


@pytest.mark.parametrize(
    'text',
    ['', 'rand-', 'rand-x9', 'rand-m', 'rand-mnan', 'rand-m-9', 'rand-m9-m8', 'rand-n0', 'rand-p2', 'rand-tfoo',
     'rand-w1', 'rand-inc2', 'rand-n14-w0', 'random', 'v1', 'v0-m3', 'augmix-w0', 'augmix-a0', 'tf-randaug-p1',
     'tf', 9],
)  # fmt: skip
def test_other_strings_are_refused_in_one_line(text):
    with pytest.raises(ValueError, match=r'^auto is .*; allowed: .*rand-m9-mstd0.5-inc1.*tf-randaug-n2-m15$') as error:
        Augmentation(auto=text)
    assert repr(text) in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('setting', 'allowed'),
    [
        ({'vflip': 1.5}, 'a probability, 0 to 1'),
        ({'interpolation': 'lanczos'}, 'None, bicubic, bilinear, random'),
        ({'color_jitter': -0.1}, '0 or more'),
        ({'color_jitter': (0.4, 0.4)}, '0 or more; one number, 3'),
        ({'color_jitter': (0.4, 0.4, 0.4, 0.6)}, 'hue <= 0.5'),
        ({'color_jitter': None}, '0 or more'),
    ],
)
def test_bad_settings_are_named(setting, allowed):
    with pytest.raises(ValueError, match=f'^{next(iter(setting))} is .*; allowed: .*{allowed}'):
        Augmentation(**setting)


def test_settings_are_plain_data():
    augmentation = Augmentation(auto='rand-m9', color_jitter=0.4, interpolation='random', vflip=0.5)
    assert augmentation.color_jitter == (0.4, 0.4, 0.4, 0.0)
    assert Augmentation(**json.loads(json.dumps(asdict(augmentation)))) == augmentation
    assert Augmentation(color_jitter=(0.1, 0.2, 0.3)).color_jitter == (0.1, 0.2, 0.3, 0.0)


# --- levels: the arguments that follow from a magnitude


@pytest.mark.parametrize('name', [name for name in policies.LEVELS if name != 'GaussianBlurRand'])
def test_levels_are_timms(name):
    def ours(level, sign):
        class Sign:  # the one random number that a level takes
            def random(self):
                return 0.9 if sign < 0 else 0.1

        return policies.LEVELS[name][1](level / 10, Sign())

    function = auto_augment.LEVEL_TO_ARG[name]
    for level in [*range(11), 0.3, 4.99, 9.7, 13]:
        for sign in (1, -1):
            theirs = ()
            if function:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(auto_augment, '_randomly_negate', lambda value, sign=sign: sign * value)
                    theirs = function(level, {})
            if name == 'Desaturate':
                theirs = (1.0 - theirs[0],)  # timm's operation does this
            assert ours(level, sign) == theirs, level


def test_levels_of_tensorflow():
    # tensorflow/tpu, efficientnet/autoaugment.py: 15 is beyond the scale and goes on in proportion
    expected = {'Rotate': 45, 'Posterize': 6, 'Solarize': 256, 'SolarizeAdd': 165, 'Color': 2.8, 'ShearX': 0.45,
                'TranslateY': 150, 'Cutout': 60}  # fmt: skip
    for name, value in expected.items():
        found = policies.TF_LEVELS[name][1](1.5, np.random.default_rng(0))[0]
        assert abs(found) == pytest.approx(value), name
    assert len(policies.TF_RAND) == 16


# --- draws


def test_a_draw_depends_on_seed_and_position_only():
    augmentation = Augmentation(auto='augmix', color_jitter=0.3, interpolation='random', vflip=0.5)

    def numbers(seed, position):
        draw = augmentation.draw(seed, position)
        flat = [draw.crops, *draw[1:4], *draw.operations, *draw.chains, draw.weights, draw.share]
        return np.concatenate([np.ravel(part) for part in flat])

    first = numbers(3, 10**12)
    numbers(3, 5)
    assert (first == numbers(3, 10**12)).all()
    assert (first != numbers(4, 10**12)).any() and (first != numbers(3, 10**12 + 1)).any()


def test_crop_and_flip_stay_the_same_whatever_is_added():
    plain = Augmentation()
    for added in ({'auto': 'rand-m9'}, {'color_jitter': 0.4}, {'vflip': 0.5}, {'interpolation': 'random'}):
        more = Augmentation(**added)
        for position in range(20):
            ours, theirs = plain.draw(0, position), more.draw(0, position)
            assert (ours.crops == theirs.crops).all() and ours.hflip == theirs.hflip
    assert plain.draw(0, 0).crops[0].tolist() == pytest.approx(FIRST_CROP, rel=1e-12)  # never changes with a release


FIRST_CROP = [0.39480816196294793, 1.045007093259672, 0.08665198221933101, 0.635531779794157]


def test_flips_and_interpolations_have_their_probabilities():
    n = 3000
    draws = [Augmentation(hflip=0.3, vflip=0.2, interpolation='random').draw(1, p) for p in range(n)]
    assert_share(sum(draw.hflip for draw in draws), n, 0.3)
    assert_share(sum(draw.vflip for draw in draws), n, 0.2)
    assert_share(sum(draw.bicubic for draw in draws), n, 0.5)
    assert_share(sum(draw.hflip and draw.vflip and draw.bicubic for draw in draws), n, 0.03)
    assert Augmentation().draw(0, 0, 'bilinear').bicubic is False and Augmentation().draw(0, 0).bicubic is True
    assert Augmentation(interpolation='bilinear').draw(0, 0, 'bicubic').bicubic is False


def test_rand_augment_is_distributed_as_timms():
    n = 4000
    found = drawn(Augmentation(auto='rand-m9-mstd0.5-inc1', interpolation='random'), n)
    operations = [operation for example in found for operation in example]
    assert_share(len(operations), 2 * n, 0.5)
    assert_share(sum(len(example) == 2 for example in found), n, 0.25)
    names = Counter(name for name, _ in operations)
    assert len(names) == 15
    for hits in names.values():
        assert_share(hits, len(operations), 1 / 15)
    rotations = np.array([values[0] for name, values in operations if name == 'Rotate'])
    enhanced = ('Color', 'Contrast', 'Brightness', 'Sharpness')
    up = [values[0] > (name in enhanced) for name, values in operations if name in (*enhanced, *policies.GEOMETRIC)]
    assert_share(sum(up), len(up), 0.5)
    # magnitude 9 +- 0.5 of 10 stands for 27 +- 1.5 of 30 degrees, cut at 30: that takes 0.02 from mean and deviation
    assert abs(np.abs(rotations).mean() - 26.98) < 5 * 1.5 / math.sqrt(len(rotations))
    assert np.abs(rotations).max() <= 30 and 1.2 < np.abs(rotations).std() < 1.8
    filters = Counter(values[1] for name, values in operations if name in policies.GEOMETRIC)
    assert set(filters) == set(RESAMPLE.values())
    assert_share(filters[RESAMPLE['bicubic']], filters.total(), 0.5)


def test_uniform_magnitudes_and_fixed_ones():
    turns = [v[0] for example in drawn(Augmentation(auto='rand-m9-mstd101'), 6000) for n, v in example if n == 'Rotate']
    degrees = np.sort(np.abs(turns)) / 27  # uniform in 0..1
    gap = np.abs(degrees - (np.arange(len(degrees)) + 0.5) / len(degrees)).max()
    assert gap < 1.95 / math.sqrt(len(degrees))  # Kolmogorov and Smirnov, one in a thousand fails; the seed is fixed
    fixed = [v[0] for example in drawn(Augmentation(auto='rand-m9'), 500) for n, v in example if n == 'Rotate']
    assert set(np.abs(fixed)) == {27.0}
    beyond = [v[0] for e in drawn(Augmentation(auto='rand-m12-mmax15'), 500) for n, v in e if n == 'Rotate']
    assert set(np.abs(beyond)) == {36.0}


def test_weighted_choices_are_without_replacement():
    policy = policy_strings.parse('rand-m9-n3-tweights-p1')
    found = [policy.draw(np.random.default_rng(i), lambda: 3) for i in range(3000)]
    assert all(len({name for name, *_ in example}) == 3 for example in found)
    first = Counter(example[0][0] for example in found)
    for name, weight in zip(policy.names, policy.weights, strict=True):
        assert_share(first[policies.LEVELS[name][0]], 3000, weight)


def test_auto_augment_takes_each_sequence_alike():
    n = 6000
    found = drawn(Augmentation(auto='v0'), n)
    # Rotate 1.0 7, then TranslateYRel 0.8 9, is one sequence in 25; nothing else moves up or down.
    moved = [example for example in found if example and example[-1][0] == 'TranslateYRel']
    assert_share(len(moved), n, 0.8 / 25)
    assert {abs(example[0][1][0]) for example in moved} == {21.0}
    assert {round(abs(example[1][1][0]), 12) for example in moved} == {0.405}
    expected = sum(p for sequence in policy_strings.parse('v0').sequences for _, p, _ in sequence) / 25
    assert abs(np.mean([len(example) for example in found]) - expected) < 0.05


def test_three_augment_has_three_ways():
    found = drawn(Augmentation(auto='3a'), 3000)
    assert all(len(example) == 1 for example in found)
    ways = Counter(example[0][0] for example in found)
    for name in ('Solarize', 'Color', 'GaussianBlur'):
        assert_share(ways[name], 3000, 1 / 3)
    arguments = {name: [v[0] for e in found for n, v in e if n == name] for name in ways}
    assert set(arguments['Solarize']) == {128.0} and set(arguments['Color']) == {0.0}
    assert 0.1 <= min(arguments['GaussianBlur']) < 0.15 and 1.95 < max(arguments['GaussianBlur']) <= 2


def test_tensorflows_rand_augment_always_acts():
    found = drawn(Augmentation(auto='tf-randaug-n2-m15'), 3000)
    assert all(len(example) == 2 for example in found)
    operations = [operation for example in found for operation in example]
    names = Counter(name for name, _ in operations)
    assert set(names) == set(policies.TF_RAND)
    for hits in names.values():
        assert_share(hits, len(operations), 1 / 16)
    assert {v[1] for n, v in operations if n == 'Rotate'} == {policies.NEAREST}
    centres = np.array([v[1:] for n, v in operations if n == 'Cutout'])
    assert np.abs(centres.mean(axis=0) - 0.5).max() < 5 * 0.29 / math.sqrt(len(centres))


def test_augmix_chains_and_weights():
    augmentation = Augmentation(auto='augmix-m5-w4')
    draws = [augmentation.draw(0, position) for position in range(1500)]
    weights = np.array([draw.weights for draw in draws])
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-6)  # float32
    assert np.abs(weights.mean(axis=0) - 0.25).max() < 5 * 0.19 / math.sqrt(1500)
    assert abs(np.mean([draw.share for draw in draws]) - 0.5) < 5 * 0.29 / math.sqrt(1500)
    lengths = Counter(int((chain > 0).sum()) for draw in draws for chain in draw.chains.codes)
    assert set(lengths) == {1, 2, 3}
    for hits in lengths.values():
        assert_share(hits, 6000, 1 / 3)
    turns = [v[0] for d in draws for c, v in zip(d.chains.codes.ravel(), d.chains.arguments.reshape(-1, 3), strict=True)
             if policies.OPERATIONS[c] == 'TranslateXRel']  # fmt: skip
    assert 0.14 < np.abs(turns).max() <= 0.15  # magnitude below 5, of which 10 is 0.3


def test_blend_shares_leave_each_chain_its_weight():
    weights, rest = np.float32([0.2, 0.5, 0.1]), 1.0
    theirs = timms('augmix-b1')._calc_blended_weights(weights, np.float32(1))
    shares = policies.blend_shares(weights)
    assert (shares == theirs).all()
    for share, weight in zip(shares[::-1], weights[::-1], strict=True):
        assert rest * share == pytest.approx(weight, rel=1e-6)
        rest *= 1 - share


def test_colour_jitter_is_distributed_as_torchvisions():
    n, ranges = 3000, (0.4, 0.2, 1.5, 0.1)
    found = drawn(Augmentation(color_jitter=ranges), n)
    names = ('Brightness', 'Contrast', 'Color', 'Hue')
    assert {tuple(sorted(name for name, _ in example)) for example in found} == {tuple(sorted(names))}
    orders = Counter(tuple(name for name, _ in example) for example in found)
    assert len(orders) == 24
    for hits in orders.values():
        assert_share(hits, n, 1 / 24)
    reference = ColorJitter(*ranges)
    for name, bounds in zip(names, (reference.brightness, reference.contrast, reference.saturation, reference.hue),
                            strict=True):  # fmt: skip
        values = np.array([v[0] for example in found for other, v in example if other == name])
        low, high = bounds
        assert low <= values.min() < low + 0.01 * (high - low) and high - 0.01 * (high - low) < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 5 * (high - low) * 0.29 / math.sqrt(n)


def test_every_operation_is_there():
    assert set(image_ops.BY_NAME) == set(policies.OPERATIONS) - {'Nothing'}


def test_fill_is_timms_mean_or_tensorflows_grey():
    pil, tf = Preprocessing(), Preprocessing('tf')
    assert Augmentation(auto='rand').fill(pil) == (124, 116, 104) == Augmentation(auto='v0').fill(pil)
    assert Augmentation(auto='v0').fill(tf) == (128, 128, 128) == Augmentation(auto='tf-randaug').fill(pil)
    assert Augmentation(auto='v0').fill(Preprocessing(in_chans=1)) == (114,)
