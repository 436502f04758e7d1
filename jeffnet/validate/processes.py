"""The answers of several processes, put together: every one of them then has the whole."""

from collections.abc import Callable

import numpy as np

from jeffnet.distributed import gather, name_bytes, names_of
from jeffnet.validate.outcome import Outcome


def together(evaluate: Callable[[], Outcome]) -> Outcome:
    """This process's outcome, once all have theirs; if one fails, all do, instead of waiting for it.

    Raises the process's own error, or RuntimeError for that of another.
    """
    outcome, error = None, None
    try:
        outcome = evaluate()
    except Exception as caught:
        error = caught
    failed = [bool(found['failed'][0]) for found in gather({'failed': np.array([outcome is None])})]
    if outcome is None:
        raise error or RuntimeError('no outcome')
    if any(failed):
        raise RuntimeError(f'process {failed.index(True)} failed; its own output says why')
    return outcome


def whole(outcome: Outcome, indices: np.ndarray) -> Outcome:
    """The outcome on the whole set; `indices` are the images that this process had."""
    mine = {
        'index': indices.astype(np.int32),
        'label': outcome.label[indices],
        'top': outcome.top[indices],
        'confidence': outcome.confidence[indices],
        'loss': outcome.loss[indices],
    }
    complete = Outcome.empty(len(outcome), outcome.top.shape[1])
    for found in gather(mine):
        for name in ('label', 'top', 'confidence', 'loss'):
            getattr(complete, name)[found['index']] = found[name]
    return complete


def all_names(names: dict[int, str]) -> dict[int, str]:
    """Image names by index, of all processes."""
    places = np.array(sorted(names), np.int32)
    found = gather({'index': places, 'name': name_bytes([names[int(i)] for i in places])})
    return {int(i): name for part in found for i, name in zip(part['index'], names_of(part['name']), strict=True)}


def all_texts(texts: list[str]) -> list[str]:
    """Lines of text of all processes, one process after the other."""
    return [line for part in gather({'text': name_bytes(texts)}) for line in names_of(part['text'])]
