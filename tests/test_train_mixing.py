"""Mixup, CutMix and random erasing against timm: the same draws give the same batch, and the draws are alike."""

import functools
import random
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm.data.mixup as timm_mixup
import torch
from timm.data.random_erasing import RandomErasing

from jeffnet.train import erasing, mixing
from jeffnet.train.erasing import erase
from jeffnet.train.mixing import Mix, mix

ROOT = Path(__file__).parents[1]
N, SIZE, CLASSES = 8, 12, 5
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(N, SIZE, SIZE, 3)).astype(np.float32)
LABELS = RNG.integers(0, CLASSES, N)
SMOOTH = np.asarray(timm_mixup.mixup_target(torch.tensor(LABELS), CLASSES, 1.0, 0.1), np.float32)
BOTH = {'mixup_alpha': 0.8, 'cutmix_alpha': 1.0, 'prob': 0.8, 'switch_prob': 0.5}
KEYS = jax.random.split(jax.random.key(0), 400)


@functools.cache
def draws(mode, correct_lam=True, mixup_alpha=0.8, cutmix_alpha=1.0, prob=0.8):
    """400 draws for a batch, compiled as one."""

    def draw(key):
        return mixing.draw(
            key, N, SIZE, SIZE, mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha, prob=prob, switch_prob=0.5,
            mode=mode, correct_lam=correct_lam,
        )  # fmt: skip

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(draw))(KEYS))


# ---------------------------------------------------------------------------------------------- mixup and CutMix


@pytest.mark.parametrize('mode', ['batch', 'pair', 'elem'])
def test_the_same_draws_give_what_timm_gives(mode, monkeypatch):
    count = {'batch': 1, 'pair': N // 2, 'elem': N}[mode]
    lam = np.linspace(0.1, 0.9, count).astype(np.float32)
    cutmix = np.arange(count) % 2 == (mode == 'batch')
    for use_cutmix in (cutmix, ~cutmix):
        boxes = np.stack([np.arange(count) % 3, 4 + np.arange(count), 1 + np.arange(count) % 5, np.full(count, 9)], 1)
        given = iter(boxes[use_cutmix])
        judge = timm_mixup.Mixup(cutmix_alpha=1.0, mode=mode, label_smoothing=0.1, num_classes=CLASSES)
        monkeypatch.setattr(judge, '_params_per_elem', lambda n, cut=use_cutmix: (lam.copy(), cut))
        monkeypatch.setattr(judge, '_params_per_batch', lambda cut=use_cutmix: (float(lam[0]), cut[0]))
        monkeypatch.setattr(timm_mixup, 'rand_bbox', lambda *_, given=given, **__: tuple(next(given)))
        images, wanted = judge(torch.tensor(IMAGES.transpose(0, 3, 1, 2)), torch.tensor(LABELS))

        area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
        corrected = np.where(use_cutmix, 1 - area / SIZE**2, lam).astype(np.float32)
        drawn = Mix(*map(jnp.asarray, (corrected, boxes, use_cutmix)))
        if mode == 'pair':
            drawn = jax.tree.map(lambda half: jnp.concatenate([half, half[::-1]]), drawn)
        found = jax.jit(mixing.apply)(drawn, IMAGES, SMOOTH)
        np.testing.assert_allclose(found[0], images.permute(0, 2, 3, 1), rtol=0, atol=1e-6)
        np.testing.assert_allclose(found[1], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize('mode', ['batch', 'pair', 'elem'])
def test_draws_are_distributed_as_timms(mode):
    drawn = draws(mode)
    np.random.seed(0)
    judge = timm_mixup.Mixup(**BOTH, mode='elem')
    lam, cutmix = judge._params_per_elem(20000)
    mixups = lam[~cutmix]
    # Quantiles of lambda where no box corrects it. The smallest sample, 200 of mode batch, has standard errors of 0.04.
    found = np.quantile(drawn.lam[~drawn.cutmix], [0.1, 0.25, 0.5, 0.7])
    np.testing.assert_allclose(found, np.quantile(mixups, [0.1, 0.25, 0.5, 0.7]), atol=0.12)
    assert np.mean(drawn.cutmix) == pytest.approx(0.5, abs=0.1)
    assert np.mean(drawn.lam == 1) == pytest.approx(0.2, abs=0.08)
    areas = [1 - timm_mixup.cutmix_bbox_and_lam((3, SIZE, SIZE), value)[1] for value in lam[cutmix]]
    assert 1 - np.mean(drawn.lam[drawn.cutmix]) == pytest.approx(np.mean(areas), abs=0.05)


@pytest.mark.parametrize('mode', ['batch', 'pair', 'elem'])
def test_boxes_lie_inside_and_lambda_is_their_area(mode):
    drawn, raw = draws(mode), draws(mode, correct_lam=False)
    top, bottom, left, right = np.moveaxis(drawn.box, -1, 0)
    assert (top >= 0).all() and (bottom <= SIZE).all() and (left >= 0).all() and (right <= SIZE).all()
    assert (bottom >= top).all() and (right >= left).all()
    area = (bottom - top) * (right - left)
    np.testing.assert_allclose(drawn.lam[drawn.cutmix], (1 - area / SIZE**2)[drawn.cutmix], rtol=0, atol=1e-6)
    for low, high in ((top, bottom), (left, right)):
        whole = (low > 0) & (high < SIZE)
        np.testing.assert_array_equal((high - low)[whole], np.floor(SIZE * np.sqrt(1 - raw.lam))[whole])
    # Uncorrected, the box is never larger than its share: the border cuts it, and lengths are rounded down.
    np.testing.assert_array_equal(raw.box, drawn.box)
    assert (drawn.lam >= raw.lam - 1e-6)[drawn.cutmix].all() and (drawn.lam > raw.lam + 0.01)[drawn.cutmix].any()
    if mode == 'pair':
        np.testing.assert_array_equal(drawn.lam, drawn.lam[:, ::-1])
        np.testing.assert_array_equal(drawn.box, drawn.box[:, ::-1])


@pytest.mark.parametrize(('mixup', 'cutmix'), [(0.2, 0.0), (0.0, 1.0)])
def test_one_alpha_alone(mixup, cutmix):
    drawn = draws('elem', mixup_alpha=mixup, cutmix_alpha=cutmix, prob=1.0)
    assert (drawn.cutmix == bool(cutmix)).all() and np.isfinite(drawn.lam).all()
    assert ((drawn.lam >= 0) & (drawn.lam <= 1)).all()


def test_prob_0_leaves_the_batch_and_half_precision_stays():
    images = jnp.asarray(IMAGES, jnp.bfloat16)
    found = jax.jit(lambda key: mix(key, images, SMOOTH, mixup_alpha=0.2, cutmix_alpha=1.0, prob=0.0))(KEYS[0])
    np.testing.assert_array_equal(found[0], images)
    np.testing.assert_array_equal(found[1], SMOOTH)
    assert found[0].dtype == jnp.bfloat16 and found[1].dtype == jnp.float32


DEVICES = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jeffnet.train.erasing import erase
from jeffnet.train.mesh import data_mesh, everywhere
from jeffnet.train.mixing import mix

rng, mesh = np.random.default_rng(0), data_mesh()
assert mesh.size == 4
images, targets = rng.normal(size=(8, 12, 12, 3)).astype(np.float32), rng.random((8, 5), np.float32)

def change(key, images, targets):
    images = erase(key, images, prob=0.7, mode='pixel', max_count=2)
    return mix(key, images, targets, mixup_alpha=0.8, cutmix_alpha=1.0, mode='elem')

one = jax.jit(change)(jax.random.key(0), images, targets)
split = NamedSharding(mesh, PartitionSpec('data'))
key = jax.device_put(jax.random.key(0), everywhere(mesh))
four = jax.jit(change, out_shardings=split)(key, jax.device_put(images, split), jax.device_put(targets, split))
assert all(len(array.sharding.device_set) == 4 for array in four)
assert all((array != old).any() for array, old in zip(one, (images, targets)))
for found, expected in zip(four, one):  # fused elsewhere, rounded elsewhere
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
"""


def test_four_devices_mix_and_erase_as_one():
    # In a process of its own: the number of devices is fixed when JAX starts.
    environment = {'JAX_NUM_CPU_DEVICES': '4', 'JAX_PLATFORMS': 'cpu', 'PATH': '', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(
        [sys.executable, '-c', DEVICES], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ('keywords', 'message'),
    [
        ({'mode': 'all'}, r"mode of mixing is 'all'; allowed: batch, pair, elem"),
        ({'mixup_alpha': 0.0}, r'alphas of mixing are 0\.0, 0\.0; allowed: 0 or more, one of them above 0'),
        ({'mode': 'pair'}, r'a batch of 7 images has no pairs'),
    ],
)
def test_mixing_errors(keywords, message):
    with pytest.raises(ValueError, match=message):
        mix(KEYS[0], IMAGES[:7], SMOOTH[:7], **{'mixup_alpha': 0.2} | keywords)


# ------------------------------------------------------------------------------------------------------- erasing


def timm_boxes(count, height, width, **keywords):
    """Masks [count, H, W] of what timm erases."""
    random.seed(0)
    judge = RandomErasing(probability=1.0, mode='const', device='cpu', **keywords)
    return (judge(torch.ones(count, 1, height, width)) == 0)[:, 0].numpy()


@pytest.mark.parametrize('counts', [(1, 1), (1, 3)])
def test_erased_areas_and_places_like_timm(counts):
    height, width = 40, 60
    keywords = {'min_area': 0.02, 'max_area': 1 / 3, 'min_aspect': 0.3, 'min_count': counts[0], 'max_count': counts[1]}
    ones = jnp.ones((2000, height, width, 1))
    found = np.asarray(jax.jit(lambda key: erase(key, ones, prob=1.0, **keywords))(KEYS[0]))[..., 0] == 0
    expected = timm_boxes(2000, height, width, **keywords)
    # Means over 2000 images: standard errors of areas are 0.002, of the profiles 0.01.
    assert found.mean() == pytest.approx(expected.mean(), abs=0.008)
    np.testing.assert_allclose(
        np.quantile(found.mean((1, 2)), [0.05, 0.5, 0.95]),
        np.quantile(expected.mean((1, 2)), [0.05, 0.5, 0.95]),
        atol=0.02,
    )
    np.testing.assert_allclose(found.mean((0, 1)), expected.mean((0, 1)), atol=0.04)
    np.testing.assert_allclose(found.mean((0, 2)), expected.mean((0, 2)), atol=0.04)
    if counts == (1, 1):
        heights, widths = (mask.any(2).sum(1) / mask.any(1).sum(1) for mask in (found, expected))
        np.testing.assert_allclose(
            np.quantile(np.log(heights), [0.1, 0.5, 0.9]), np.quantile(np.log(widths), [0.1, 0.5, 0.9]), atol=0.1
        )


def test_prob_and_splits():
    ones = jnp.ones((3000, 6, 6, 1))
    found = np.asarray(jax.jit(lambda key: erase(key, ones, prob=0.3, splits=3))(KEYS[0])).reshape(3000, -1)
    touched = (found == 0).any(1)
    assert not touched[:1000].any()
    assert touched[1000:].mean() == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize('mode', erasing.MODES)
def test_fill(mode):
    images = jnp.full((64, 16, 16, 3), 9.0, jnp.bfloat16)
    found = jax.jit(lambda key: erase(key, images, prob=1.0, mode=mode, max_count=2, min_count=2))(KEYS[1])
    assert found.dtype == images.dtype
    fill = np.asarray(found, np.float32)
    box = fill[(fill != 9).all(-1)]  # [pixels, 3]
    assert len(box) > 500
    assert (fill[(fill != 9).any(-1)] != 9).all()
    if mode == 'const':
        assert (box == 0).all()
    else:
        assert box.mean() == pytest.approx(0, abs=0.25) and box.std() == pytest.approx(1, abs=0.2)
    colours = [len(np.unique(image[(image != 9).all(-1)], axis=0)) for image in fill]
    assert max(colours) == {'const': 1, 'rand': 2}.get(mode, max(colours)) and (mode != 'pixel' or min(colours) > 2)


def test_a_box_that_never_fits_is_left_out():
    images = jnp.ones((20, 4, 4, 1))
    found = jax.jit(lambda key: erase(key, images, prob=1.0, min_area=1.0, max_area=1.0, min_aspect=1.0))(KEYS[0])
    np.testing.assert_array_equal(found, images)


@pytest.mark.parametrize(
    ('keywords', 'message'),
    [
        ({'mode': 'noise'}, r"mode of erasing is 'noise'; allowed: const, rand, pixel"),
        ({'min_area': 0.5}, r'min_area and max_area are \(0\.5, 0\.33.*; allowed'),
        ({'min_aspect': 2.0}, r'min_aspect and max_aspect are \(2\.0, 0\.5\)'),
        ({'max_count': 0}, r'min_count and max_count are \(1, 0\)'),
    ],
)
def test_erasing_errors(keywords, message):
    with pytest.raises(ValueError, match=message):
        erase(KEYS[0], jnp.ones((2, 4, 4, 1)), **keywords)
