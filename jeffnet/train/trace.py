"""The profiler's trace of some steps of a run."""

from pathlib import Path
from typing import Any

import jax

from jeffnet.train.config import steps_range
from jeffnet.train.report import Report


class Trace:
    """Traces the steps FIRST:LAST of `steps` into `folder`, once; what a run has not of them is left out."""

    def __init__(self, steps: str, folder: Path, report: Report):
        self.window, self.folder, self.report = steps_range(steps), folder, report
        self.first = 0  # the step that the trace begins with; 0 while there is none

    def before(self, step: int) -> None:
        """Is called before each step: starts the trace in time."""
        if self.window and not self.first and self.window[0] <= step <= self.window[1]:
            jax.profiler.start_trace(self.folder)
            self.first = step

    def after(self, step: int, results: Any) -> None:
        """Is called after each step, with what it computes: ends the trace when the last step is done."""
        if self.window and self.first and step >= self.window[1]:
            jax.block_until_ready(results)
            self.end(step)

    def end(self, step: int) -> None:
        """Ends the trace if there is one, also where a run ends within the window."""
        if self.first and self.window:
            jax.profiler.stop_trace()
            self.report.event(step, 'profiled', f'trace of the steps {self.first}:{step} in {self.folder}')
            self.window = None
