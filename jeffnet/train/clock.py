"""The time of a training run: how long steps take, how much of it is waiting for data, how long is left."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Counts steps, images and seconds of training, interval by interval: pauses do not count, waiting does."""

    def __init__(self):
        self.steps_in_all = 0
        self.start()

    def start(self) -> None:
        """Starts the interval anew and, until the first step is done, the time that `left` goes by."""
        if self.steps_in_all <= 1:
            self.began, self.steps_in_all = time.perf_counter(), 0
        self.next_interval()

    def next_interval(self) -> None:
        """Starts a new interval."""
        self.since, self.steps, self.images, self.waited, self.paused = time.perf_counter(), 0, 0, 0.0, 0.0

    def count(self, images: int) -> None:
        """Counts one step of `images` images."""
        self.steps, self.steps_in_all, self.images = self.steps + 1, self.steps_in_all + 1, self.images + images

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for data."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.waited += time.perf_counter() - begin

    @contextmanager
    def pause(self) -> Iterator[None]:
        """The time inside is not training."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.paused += time.perf_counter() - begin

    def speed(self) -> dict[str, float | None]:
        """Of the interval: images per second, seconds per step, and the share of time waiting for data, 0 to 1."""
        seconds = time.perf_counter() - self.since - self.paused
        if not self.steps or seconds <= 0:
            return {'images_per_second': None, 'step_seconds': None, 'data_wait': None}
        return {
            'images_per_second': self.images / seconds,
            'step_seconds': seconds / self.steps,
            'data_wait': min(self.waited / seconds, 1.0),
        }

    def left(self, steps: int) -> float | None:
        """Seconds until `steps` more steps are done if they take, with all pauses, as long as those until now."""
        return steps * (time.perf_counter() - self.began) / self.steps_in_all if self.steps_in_all else None
