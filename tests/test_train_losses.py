"""Losses and targets against torch, timm and closed forms."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from timm.data.mixup import mixup_target
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy

from jeffnet.train.losses import binary_cross_entropy, cross_entropy, l2_loss, softmax_cross_entropy, targets

RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(size=(4, 5)).astype(np.float32) * 3, np.array([0, 4, 2, 2])
SOFT = RNG.dirichlet(np.ones(5), size=4).astype(np.float32)
SOFT[0] = [0.25, 0.25, 0.5, 0, 0]  # some are just at a threshold


def test_cross_entropy_by_hand():
    log_p = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    soft = 0.9 * np.eye(5)[LABELS] + 0.1 / 5
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS, 0.1), -(soft * log_p).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(
        cross_entropy(LOGITS, LABELS), optax.softmax_cross_entropy_with_integer_labels(LOGITS, LABELS), rtol=1e-5
    )
    assert cross_entropy(jnp.asarray(LOGITS, jnp.bfloat16), LABELS).dtype == jnp.float32


def test_soft_targets_like_timm():
    found = softmax_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(SOFT))
    assert found.shape == (4,)
    expected = SoftTargetCrossEntropy()(torch.tensor(LOGITS), torch.tensor(SOFT))
    np.testing.assert_allclose(found.mean(), expected, rtol=1e-5)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_targets_like_timm(smoothing):
    found = targets(jnp.asarray(LABELS), 5, smoothing)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, mixup_target(torch.tensor(LABELS), 5, 1.0, smoothing), rtol=1e-6)


@pytest.mark.parametrize('threshold', [None, 0.0, 0.25])
@pytest.mark.parametrize('sum_classes', [False, True])
def test_binary_cross_entropy_like_timm(threshold, sum_classes):
    judge = BinaryCrossEntropy(target_threshold=threshold, sum_classes=sum_classes)
    found = binary_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(SOFT), threshold=threshold, sum_classes=sum_classes)
    assert found.shape == (4,) and found.dtype == jnp.float32
    np.testing.assert_allclose(found.mean(), judge(torch.tensor(LOGITS), torch.tensor(SOFT)), rtol=1e-5)


def test_smoothed_binary_cross_entropy_like_timm():
    found = binary_cross_entropy(jnp.asarray(LOGITS), targets(jnp.asarray(LABELS), 5, 0.1))
    expected = BinaryCrossEntropy(smoothing=0.1, reduction='none')(torch.tensor(LOGITS), torch.tensor(LABELS))
    np.testing.assert_allclose(found, expected.mean(-1), rtol=1e-5)


def test_losses_of_half_precision_are_float32():
    logits = jnp.asarray(LOGITS, jnp.bfloat16)
    np.testing.assert_array_equal(
        binary_cross_entropy(logits, jnp.asarray(SOFT)), binary_cross_entropy(logits.astype(jnp.float32), SOFT)
    )
    np.testing.assert_array_equal(
        softmax_cross_entropy(logits, SOFT), softmax_cross_entropy(logits.astype(jnp.float32), SOFT)
    )


def test_l2_loss_is_half_the_sum_of_squares_like_tensorflow():
    params = {'conv.kernel': jnp.full((2, 3), 2.0), 'bn.scale': jnp.ones(3), 'bn.bias': jnp.ones(3)}
    params |= {'se.bias': jnp.array([3.0])}
    assert float(l2_loss(params)) == 12.0
    assert float(l2_loss(params, 'no_norm')) == 16.5
    assert float(l2_loss(params, 'all')) == 19.5
    assert float(l2_loss(params, '^se')) == 4.5
