"""The answers of several processes, put together: every one of them then has the whole."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jeffnet.distributed import gather, gather_texts
from jeffnet.validate.outcome import Outcome


def together(work: Callable[[], Any]) -> Any:
    """The result of this process's work, once all have theirs; if one fails, all do, instead of waiting for it.

    Raises the process's own error, or RuntimeError for that of another.
    """
    result, error = None, None
    try:
        result = work()
    except Exception as caught:
        error = caught
    failed = [bool(found['failed'][0]) for found in gather({'failed': np.array([error is not None])})]
    if error is not None:
        raise error
    if any(failed):
        raise RuntimeError(f'process {failed.index(True)} failed; its own output says why')
    return result


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
    places = sorted(names)
    found = gather({'index': np.array(places, np.int32)})
    texts = gather_texts([names[place] for place in places])
    return {
        int(i): name for part, own in zip(found, texts, strict=True) for i, name in zip(part['index'], own, strict=True)
    }


def all_texts(texts: list[str]) -> list[str]:
    """Lines of text of all processes, one process after the other."""
    return [line for own in gather_texts(texts) for line in own]
