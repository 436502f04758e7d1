"""What a run shows and writes: a progress bar on a terminal, plain lines elsewhere, and log.jsonl in any case."""

import json
import sys
import time
from pathlib import Path

from tqdm import tqdm


class Report:
    """Shows and writes the figures of a run of `steps` steps; `log.jsonl` in `folder` gets one JSON object a line."""

    def __init__(self, folder: Path, steps: int, steps_per_epoch: float):
        self.log = (folder / 'log.jsonl').open('w', buffering=1)  # line by line: a killed run leaves a whole log
        self.steps, self.steps_per_epoch = steps, steps_per_epoch
        self.bar = tqdm(
            total=steps,
            unit='step',
            disable=not sys.stdout.isatty(),
            file=sys.stdout,
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self.start_clock()

    def line(self, text: str) -> None:
        """Shows a line, above the bar if there is one."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def start_clock(self) -> None:
        """Starts a new interval of training; time before it (compilation, validation) does not count as training."""
        self.since, self.images = time.perf_counter(), 0

    def trained(self, images: int) -> None:
        """Counts one step of `images` images."""
        self.images += images
        self.bar.update()

    def interval(self, step: int, figures: dict, rate: float) -> None:
        """Reports the steps since the last interval: mean loss, top-1, learning rate, images/s."""
        speed = self.images / (time.perf_counter() - self.since)
        self.write('train', step, {**figures, 'learning_rate': rate, 'images_per_second': speed})
        text = f'loss {figures["loss"]:.4f}, top-1 {figures["top1"]:.2f} %, {speed:.0f} images/s'
        if self.bar.disable:
            self.line(f'epoch {step / self.steps_per_epoch:.2f}, step {step} of {self.steps}: {text}')
        else:
            self.bar.set_postfix_str(text)
        self.start_clock()

    def validation(self, step: int, figures: dict, best: bool) -> None:
        """Reports an evaluation of the whole validation set."""
        self.write('validation', step, {**figures, 'best': best})
        self.line(
            f'epoch {step / self.steps_per_epoch:.2f}, validation: top-1 {figures["top1"]:.2f} %, top-5 '
            f'{figures["top5"]:.2f} %, loss {figures["loss"]:.4f}{", the best so far" if best else ""}'
        )

    def write(self, kind: str, step: int, figures: dict) -> None:
        """Appends one object to the log."""
        row = {'kind': kind, 'step': step, 'epoch': step / self.steps_per_epoch, **figures}
        self.log.write(json.dumps(row) + '\n')

    def close(self) -> None:
        """Ends the bar and the log."""
        self.bar.close()
        self.log.close()
