"""The evaluation loop by itself: what is counted, out of memory, numbers that are none; NumPy is the judge."""

import jax
import numpy as np
import pytest

from jeffnet.data.order import EvaluationBatches, Rows
from jeffnet.data.source import DataError
from jeffnet.validate import progress
from jeffnet.validate.evaluate import Runner, evaluate
from jeffnet.validate.outcome import Outcome

RNG = np.random.default_rng(0)
CLASSES, IMAGES = 12, 29
LOGITS = RNG.normal(0, 2, (IMAGES, CLASSES)).astype(np.float32)
LABELS = RNG.integers(0, CLASSES, IMAGES).astype(np.int32)


def batches_of(size, batch_size, bad=()):
    """Images [1, 1, 1] that hold their own index."""

    def read():
        for start in range(0, size, batch_size):
            index = np.arange(start, min(start + batch_size, size))
            good = np.flatnonzero(~np.isin(index, bad))
            images = index[good].astype(np.float32).reshape(-1, 1, 1, 1)
            yield Rows(images, LABELS[index[good]], good, [f'{i}: is broken' for i in index if i in bad])

    return EvaluationBatches(read, np.arange(size), batch_size)


def predict(images):
    """The logits of the images' indices."""
    return jax.numpy.asarray(LOGITS)[np.asarray(images)[:, 0, 0, 0].astype(int)]


def by_hand(logits, labels):
    """Top-5 classes, share of the first, and loss, in float64."""
    exact = logits.astype(float)
    shares = np.exp(exact) / np.exp(exact).sum(-1, keepdims=True)
    top = np.argsort(-exact, axis=-1, kind='stable')[:, :5]
    return top, shares.max(-1), -np.log(shares[np.arange(len(labels)), labels])


@pytest.mark.parametrize('batch_size', [1, 4, 29, 64])
def test_answers_and_figures(batch_size):
    outcome = evaluate(Runner(predict, CLASSES), batches_of(IMAGES, batch_size), IMAGES)
    top, confidence, loss = by_hand(LOGITS, LABELS)
    assert (outcome.top == top).all() and (outcome.label == LABELS).all()
    np.testing.assert_allclose(outcome.confidence, confidence, rtol=1e-5)
    np.testing.assert_allclose(outcome.loss, loss, rtol=1e-5, atol=1e-6)  # float32
    figures = outcome.figures()
    assert figures['images'] == IMAGES and figures['top1'] == 100 * (top[:, 0] == LABELS).mean()
    assert figures['top5'] == pytest.approx(100 * (top == LABELS[:, None]).any(-1).mean(), abs=1e-9)
    assert figures['loss'] == pytest.approx(loss.mean(), rel=1e-6)


def test_skipped_images_do_not_count():
    batches = batches_of(IMAGES, 8, bad=(0, 9, 10, 28))
    outcome = evaluate(Runner(predict, CLASSES), batches, IMAGES)
    kept = np.setdiff1d(np.arange(IMAGES), (0, 9, 10, 28))
    assert (np.flatnonzero(outcome.read) == kept).all() and len(batches.faults) == 4
    assert outcome.figures()['top1'] == 100 * (LOGITS[kept].argmax(-1) == LABELS[kept]).mean()


def test_answers_among_some_classes():
    classes = np.array([1, 4, 5, 9, 11], np.int32)
    mapped = np.array([4] * CLASSES, np.int32)
    outcome = evaluate(Runner(predict, CLASSES, classes), batches_of(IMAGES, 8), IMAGES, model_class=mapped)
    top, confidence, loss = by_hand(LOGITS[:, classes], np.full(IMAGES, 1))
    assert (outcome.top == classes[top]).all() and (outcome.label == 4).all()
    np.testing.assert_allclose(outcome.confidence, confidence, rtol=1e-5)
    np.testing.assert_allclose(outcome.loss, loss, rtol=1e-5, atol=1e-6)
    with pytest.raises(DataError, match=r'hold the label .*, but have names for 3 classes'):
        evaluate(Runner(predict, CLASSES), batches_of(IMAGES, 8), IMAGES, model_class=mapped[:3])


def test_equal_logits_rank_by_class_number():
    outcome = evaluate(Runner(lambda images: np.zeros((len(images), 7)), 7), batches_of(3, 2), 3)
    assert outcome.top.tolist() == [[0, 1, 2, 3, 4]] * 3


def test_no_numbers_are_an_error_and_name_the_image():
    def broken(images):
        logits = np.array(predict(images))
        logits[np.asarray(images)[:, 0, 0, 0] == 17, 3] = np.nan
        return logits

    with pytest.raises(FloatingPointError, match=r'image 17 .* is not a number; try --dtype float32'):
        evaluate(Runner(broken, CLASSES), batches_of(IMAGES, 5), IMAGES)


@pytest.mark.parametrize('limit', [1, 3, 8])
def test_out_of_memory_halves_the_batch_and_goes_on(limit):
    said, sizes = [], []

    def narrow(images):
        sizes.append(len(images))
        if len(images) > limit:
            raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.')
        return predict(images)

    outcome = evaluate(Runner(narrow, CLASSES, say=said.append), batches_of(IMAGES, 16), IMAGES)
    assert outcome.figures() == evaluate(Runner(predict, CLASSES), batches_of(IMAGES, 16), IMAGES).figures()
    expected = [16, 8, 4, 2, 1][: next(i for i, size in enumerate([16, 8, 4, 2, 1]) if size <= limit) + 1]
    assert [line.rsplit(maxsplit=1)[1] for line in said] == [str(size) for size in expected[1:]]
    assert sizes[-1] <= limit and max(sizes[-4:]) <= limit


def test_real_memory_that_runs_out():
    def greedy(images):
        if len(images) > 4:
            jax.numpy.zeros((1 << 42,), jax.numpy.float32).block_until_ready()  # 16 TiB
        return predict(images)

    said = []
    outcome = evaluate(Runner(greedy, CLASSES, say=said.append), batches_of(IMAGES, 16), IMAGES)
    assert outcome.figures()['images'] == IMAGES and len(said) == 2


def test_a_single_image_that_does_not_fit_is_an_error():
    def impossible(images):
        raise MemoryError

    with pytest.raises(MemoryError, match='out of memory with a single image'):
        evaluate(Runner(impossible, CLASSES, say=lambda line: None), batches_of(IMAGES, 4), IMAGES)


def test_other_errors_are_not_taken_for_memory():
    def broken(images):
        raise RuntimeError('some fault')

    with pytest.raises(RuntimeError, match='some fault'):
        evaluate(Runner(broken, CLASSES), batches_of(IMAGES, 4), IMAGES)


def test_real_labels():
    outcome = Outcome.empty(4, 5)
    outcome.label[:] = [1, 2, -1, 3]
    outcome.top[:] = [[1, 9, 8, 7, 6], [5, 4, 2, 0, 9], [0, 1, 2, 3, 4], [7, 3, 1, 2, 4]]
    figures = outcome.real_figures([[2, 9], [5], [0], []])  # the third was not read, the fourth has no label
    assert figures['images'] == 2 and figures['top1'] == 50 and figures['top5'] == 100
    assert outcome.figures()['top1'] == pytest.approx(100 / 3)


def test_plain_lines_say_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr(progress, 'SECONDS', 0.0)
    with progress.Progress('net', 10) as shown:
        shown(4)
        shown(4)
        shown(64)  # the last batch, filled up
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(',')[0] for line in lines] == [f'net: {n} of 10 images' for n in (4, 8, 10)]
    with progress.Progress('net', 10, shown=False) as hidden:
        hidden(10)
    assert capsys.readouterr().out == ''
