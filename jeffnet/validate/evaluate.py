"""One model over one set: what it says of every image, each exactly once, whatever the batches and devices are.

Processes do not wait for each other here: each runs its shard on its own devices, and the answers are put together at
the end (`jeffnet.validate.processes`).
"""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jeffnet.data.order import Batch, EvaluationBatches
from jeffnet.data.source import DataError
from jeffnet.train.losses import cross_entropy
from jeffnet.validate.outcome import Outcome

TOP = 5
IN_FLIGHT = 2  # batches: one is computed while the next one is read
OUT_OF_MEMORY = ('RESOURCE_EXHAUSTED', 'Out of memory', 'out of memory')

Predict = Callable[[np.ndarray], Any]
Answers = tuple[Any, Any, Any]  # top [N, K], confidence [N], loss [N]


def evaluate(
    run: 'Runner',
    batches: EvaluationBatches,
    size: int,
    *,
    model_class: np.ndarray | None = None,
    progress: Callable[[int], None] = lambda images: None,
    names: dict[int, str] | None = None,
) -> Outcome:
    """The answers on a set of `size` images, of which `batches` may be one process's shard: the rest stays empty.

    `model_class` [data classes] gives the model's class of each label. `names` receives the names that only the reader
    knows. Raises DataError for a label without a class, FloatingPointError for logits that are no numbers.
    """
    outcome = Outcome.empty(size, run.top)
    waiting: deque = deque()
    for batch, batch_names in batches.named():
        if len(waiting) == IN_FLIGHT - 1:
            progress(record(outcome, run, *waiting.popleft()))
        labels = batch['label'] if model_class is None else model_class[checked_labels(batch['label'], model_class)]
        waiting.append((batch, labels, run.start(batch['image'], labels)))
        if names is not None and batch_names is not None:
            names.update(zip(batch['index'].tolist(), batch_names, strict=False))  # the rows that fill up have none
    while waiting:
        progress(record(outcome, run, *waiting.popleft()))
    return outcome


def checked_labels(labels: np.ndarray, model_class: np.ndarray) -> np.ndarray:
    """The labels themselves; DataError if there is no class for one of them."""
    known = len(model_class)
    if labels.min() < 0 or labels.max() >= known:
        wrong = labels[(labels < 0) | (labels >= known)][0]
        raise DataError(f'the data hold the label {wrong}, but have names for {known} classes; check its class list')
    return labels


def record(outcome: Outcome, run: 'Runner', batch: Batch, labels: np.ndarray, started: Any) -> int:
    """Writes the answers on one batch to their places, and returns their number; waits for the devices."""
    top, confidence, loss = run.finish(started, batch['image'], labels)
    rows = batch['mask']
    places, loss = batch['index'][rows], loss[rows]
    if not np.isfinite(loss).all():
        bad = places[~np.isfinite(loss)][0]
        raise FloatingPointError(f'the loss of image {bad} of the set is not a number; try --dtype float32')
    outcome.label[places], outcome.top[places] = labels[rows], top[rows]
    outcome.confidence[places], outcome.loss[places] = confidence[rows], loss
    return len(places)


class Runner:
    """Runs a model over batches, whole at first; in halves, quarters, ... once a batch did not fit into memory.

    `outputs` is the number of the model's classes; `classes` restricts the answers to some of them. `say` tells when
    batches get smaller.
    """

    def __init__(
        self, predict: Predict, outputs: int, classes: np.ndarray | None = None, say: Callable[[str], None] = print
    ):
        self.predict, self.say = predict, say
        self.top = min(TOP, outputs if classes is None else len(classes))
        self.judge = jax.jit(partial(judge, self.top, None if classes is None else jnp.asarray(classes)))
        self.parts = 1

    def warm_up(self, images: np.ndarray) -> None:
        """Compiles for batches of this shape, in parts if they do not fit into memory."""
        labels = np.zeros(len(images), np.int32)
        self.finish(self.start(images, labels), images, labels)

    def start(self, images: np.ndarray, labels: np.ndarray) -> list[Answers] | None:
        """Hands a batch to the devices; None if memory ran out, which `finish` deals with."""
        try:
            return [self.judge(self.predict(images[at]), labels[at]) for at in self.slices(len(labels))]
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None

    def finish(self, started: list[Answers] | None, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
        """The answers on a batch as arrays; tries again in smaller parts as long as memory runs out."""
        while True:
            try:
                if started is not None:
                    return tuple(np.concatenate([np.asarray(a) for a in each]) for each in zip(*started, strict=True))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            started = None
            self.halve(len(labels))
            started = self.start(images, labels)

    def halve(self, batch_size: int) -> None:
        """Doubles the number of parts; MemoryError if they are single images already."""
        part = -(-batch_size // self.parts)
        if part == 1:
            raise MemoryError('out of memory with a single image; try --dtype bfloat16 or a smaller --img-size')
        self.parts *= 2
        self.say(f'out of memory with {part} images at once; going on with {-(-batch_size // self.parts)}')

    def slices(self, batch_size: int) -> Iterator[slice]:
        """The parts of a batch, all of one size but the last."""
        part = -(-batch_size // self.parts)
        return (slice(at, at + part) for at in range(0, batch_size, part))


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that host or device memory ran out; the devices have no type of their own for it."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY)


def judge(count: int, classes: jax.Array | None, logits: jax.Array, labels: jax.Array) -> Answers:
    """The `count` likeliest classes [N, count], the softmax share of the first [N], the cross entropy [N].

    Equal logits rank by class number. A row with a NaN names no class, and its loss is NaN.
    """
    logits = logits.astype(jnp.float32)
    if classes is not None:  # the others count as if the model did not have them
        logits, labels = logits[:, classes], jnp.argmax(classes == labels[:, None], axis=-1)
    best, top = jax.lax.top_k(logits, count)
    confidence = jnp.exp(best[:, 0] - jax.nn.logsumexp(logits, axis=-1))
    if classes is not None:
        top = classes[top]
    unknown = jnp.isnan(logits).any(axis=-1)
    loss = jnp.where(unknown, jnp.nan, cross_entropy(logits, labels))
    return jnp.where(unknown[:, None], -1, top).astype(jnp.int32), confidence, loss
