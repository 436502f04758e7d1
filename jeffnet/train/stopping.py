"""Stopping when asked to: SIGTERM, as clusters send it before they take a machine away, and SIGINT from a terminal."""

import os
import signal
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopRequests:
    """Notices the signals while it is entered, and says at which step all processes shall stop.

    One process sets a flag. With several, JAX's preemption service hears SIGTERM at any of them and names a step that
    all reach; SIGINT is turned into SIGTERM for it. A second SIGINT ends the process as usual.
    """

    def __init__(self):
        self.asked = False
        self.kept: dict[int, Any] = {}

    def __enter__(self) -> 'StopRequests':
        numbers = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGINT, signal.SIGTERM]
        self.kept = {number: signal.signal(number, self.notice) for number in numbers}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self.kept.items():
            signal.signal(number, handler)

    def notice(self, number: int, frame: object) -> None:
        """The handler of the signals."""
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def at(self, step: int) -> bool:
        """Whether all processes stop after this step; each must ask after every step."""
        return self.asked if jax.process_count() == 1 else multihost_utils.reached_preemption_sync_point(step)
