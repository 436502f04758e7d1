"""What a run shows and writes: a progress bar on a terminal, plain lines elsewhere, and files in its folder."""

import sys
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Literal

from numpy.typing import ArrayLike
from tqdm import tqdm

from jeffnet.train.clock import Clock
from jeffnet.train.hardware import Work, device_memory, host_memory, model_flops_utilisation
from jeffnet.train.log_files import CsvTable, JsonLines, Row
from jeffnet.train.trackers import TensorBoard, WeightsAndBiases
from jeffnet.train.trackers import check_wandb as check_wandb  # for those who make a report

Event = Literal['resumed', 'rolled_back', 'stopped', 'bad_image', 'checkpoint_failed', 'profiled']
BAR = '{percentage:3.0f} %|{bar}| step {n_fmt} of {total_fmt} [{elapsed}{postfix}]'


class Report:
    """Shows the figures of a run of `steps` steps and writes them into `folder`; does nothing unless it is `main`.

    `log.jsonl`, `metrics.csv` and, as asked for, `tensorboard/` and Weights & Biases (`wandb`: 'project' or
    'project/run') get each row as it comes. A run that goes on after `start_step` leaves the rows until then and
    replaces later ones. `config` is shown with the figures; `work` is for the utilisation of the devices.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        steps_per_epoch: float,
        *,
        start_step: int = 0,
        main: bool = True,
        tensorboard: bool = True,
        wandb: str = '',
        config: dict | None = None,
        work: Work | None = None,
    ):
        self.folder, self.steps, self.steps_per_epoch = folder, steps, steps_per_epoch
        self.main, self.work, self.clock, self.outputs = main, work, Clock(), []
        self.trained_steps = 0  # by this process
        if main:
            self.open_outputs(start_step, tensorboard, wandb, config or {})
        self.bar = tqdm(
            total=steps,
            initial=start_step,
            disable=not (main and sys.stdout.isatty()),
            file=sys.stdout,
            dynamic_ncols=True,
            bar_format=BAR,
        )
        self.start_clock()

    def open_outputs(self, start_step: int, tensorboard: bool, wandb: str, config: dict) -> None:
        """Opens what gets the rows."""
        self.outputs += [JsonLines(self.folder, start_step), CsvTable(self.folder, start_step)]
        if tensorboard:
            try:
                self.outputs.append(TensorBoard(self.folder, start_step, config))
            except ImportError as error:
                self.line(f"no TensorBoard files, a package is missing ({error}): pip install 'jeffnet[train]'")
        if wandb:
            self.outputs.append(WeightsAndBiases(self.folder, start_step, config, wandb))

    # --- time

    def start_clock(self) -> None:
        """Starts the time of training anew, for instance after compilation; what was counted until now is dropped."""
        self.clock.start()

    def waiting(self) -> AbstractContextManager[None]:
        """A context for waiting for the next batch."""
        return self.clock.waiting()

    def paused(self) -> AbstractContextManager[None]:
        """A context for what is not training, such as validation and checkpoints; wait for the devices before it."""
        return self.clock.pause()

    def trained(self, images: int) -> None:
        """Counts one step of `images` images, over all processes."""
        self.trained_steps += 1
        self.clock.count(images)
        self.bar.update()

    @property
    def first(self) -> bool:
        """Whether the step counted last was the first of this process, the one that waits for compilation."""
        return self.trained_steps == 1

    # --- figures

    def interval(self, step: int, figures: Row) -> None:
        """Reports the steps since the last interval: `figures`, means over them, with speed and memory."""
        row = {**figures, **self.clock.speed(), **self.resources()}
        left = self.clock.left(self.steps - step)
        self.clock.next_interval()
        self.write('train', step, row)
        text = ', '.join(self.words(row, left))
        if self.bar.disable:
            self.line(f'epoch {step / self.steps_per_epoch:.2f}, step {step} of {self.steps}: {text}')
        else:
            self.bar.n = step  # less than the steps counted where a run was rolled back
            self.bar.set_postfix_str(text)

    def resources(self) -> Row:
        """Utilisation of the devices, 0 to 1, and memory in bytes; None what is not known."""
        if not self.main:
            return {}
        speed, memory = self.clock.speed()['images_per_second'], device_memory()
        return {
            'mfu': None if speed is None else model_flops_utilisation(self.work, speed),
            'device_memory': memory and memory[0],
            'device_memory_peak': memory and memory[1],
            'host_memory': host_memory(),
        }

    def words(self, row: Row, left: float | None) -> list[str]:
        """What a line says of an interval; a figure that is missing is left out."""
        said = [
            ('loss {:.4f}', row.get('loss')),
            ('top-1 {:.2f} %', row.get('top1')),
            ('rate {:.3g}', row.get('learning_rate')),
            ('{} skipped', row.get('skipped') or None),
            ('{:.0f} images/s', row['images_per_second']),
            ('data wait {:.0%}', row['data_wait']),
            ('MFU {:.1%}', row.get('mfu')),
            ('{} left', None if left is None else timedelta(seconds=round(left))),
        ]
        return [form.format(value) for form, value in said if value is not None]

    def validation(self, step: int, figures: Row, best: bool, weights: Literal['raw', 'ema'] = 'raw') -> None:
        """Reports an evaluation of the whole validation set, with the weights as they are or their moving average."""
        self.write('validation', step, {**figures, 'weights': weights, 'best': best})
        self.line(
            f'epoch {step / self.steps_per_epoch:.2f}, validation{" of EMA weights" if weights == "ema" else ""}: '
            f'top-1 {figures["top1"]:.2f} %, top-5 {figures["top5"]:.2f} %, loss {figures["loss"]:.4f}'
            f'{", the best so far" if best else ""}'
        )

    def event(self, step: int, kind: Event, text: str) -> None:
        """Reports what happened to the run after `step`."""
        self.write(kind, step, {'text': text})
        self.line(f'epoch {step / self.steps_per_epoch:.2f}, step {step}: {text}')

    def line(self, text: str) -> None:
        """Shows a line, above the bar if there is one."""
        if self.main:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def write(self, kind: str, step: int, figures: Row) -> None:
        """Gives a row to every output."""
        row = {'kind': kind, 'step': step, 'epoch': step / self.steps_per_epoch, **figures}
        for output in self.outputs:
            output.write(row)

    # --- the end

    def close(self) -> None:
        """Ends the bar and the files."""
        self.bar.close()
        for output in self.outputs:
            output.close()

    def plots(self, schedule_points: tuple[ArrayLike, ArrayLike] | None = None) -> None:
        """Draws `curves.png` from the log, if it has figures, and `learning_rate.png` from (steps, rates)."""
        if not self.main:
            return
        try:
            from jeffnet.train import plots
        except ImportError as error:
            self.line(f"no plots, a package is missing ({error}): pip install 'jeffnet[train]'")
            return
        if schedule_points is not None:
            steps, rates = schedule_points
            plots.draw_schedule(self.folder, steps, rates, self.steps_per_epoch)
        plots.draw_curves(self.folder)
