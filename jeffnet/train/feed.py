"""Batches put on the devices ahead of their turn, by a thread of their own."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Feed:
    """An iterator over what `place` makes of each batch, at most `ahead` of them before their turn.

    `batches` is iterated and closed in the thread alone; what it raises is raised here. `close` ends the thread.
    """

    def __init__(self, batches: Iterator[Any], place: Callable[[Any], Any], ahead: int):
        self.ready: queue.Queue = queue.Queue(maxsize=ahead)
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.fill, args=(batches, place), name='feed', daemon=True)
        self.thread.start()

    def fill(self, batches: Iterator[Any], place: Callable[[Any], Any]) -> None:
        """Runs in the thread."""
        try:
            for batch in batches:
                if not self.put((place(batch), None)):
                    return
            self.put((None, StopIteration()))
        except BaseException as error:  # whatever it is, it belongs to who takes the next batch
            self.put((None, error))
        finally:
            close = getattr(batches, 'close', None)
            if close is not None:
                close()

    def put(self, item: tuple[Any, BaseException | None]) -> bool:
        """Waits for a place; False if nothing is wanted any more."""
        while not self.stopped.is_set():
            try:
                self.ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> 'Feed':
        return self

    def __next__(self) -> Any:
        batch, error = self.ready.get()
        if error is not None:
            raise error
        return batch

    def close(self) -> None:
        """Ends the thread and with it the reader."""
        self.stopped.set()
        self.thread.join()
