"""How far a validation has come: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time

SECONDS = 15.0  # between plain lines


class Progress:
    """Counts images; `with` closes the bar."""

    def __init__(self, title: str, images: int, shown: bool = True):
        self.title, self.images, self.done = title, images, 0
        self.started = self.last = time.perf_counter()
        self.shown, self.bar = shown, None
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=images, desc=title, unit='image', leave=False)

    def __enter__(self) -> 'Progress':
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, images: int) -> None:
        """Counts a batch in; the last one may be counted as a whole."""
        images = min(images, self.images - self.done)
        self.done += images
        if self.bar is not None:
            self.bar.update(images)
        elif self.shown and time.perf_counter() - self.last > SECONDS:
            self.last = time.perf_counter()
            speed = self.done / (self.last - self.started)
            print(f'{self.title}: {self.done} of {self.images} images, {speed:.1f} images/s', flush=True)

    def say(self, text: str) -> None:
        """A line of text that leaves the bar whole."""
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)
