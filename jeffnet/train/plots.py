"""Pictures of a run: the learning rate as planned, and the curves of its log."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from jeffnet.train.log_files import Row, read_log

# Told apart by people with any colour vision (Okabe & Ito, 2008).
BLUE, ORANGE, GREEN, GREY, RED = '#0072B2', '#E69F00', '#009E73', '#8C8C8C', '#D55E00'
EVENTS = {'resumed': (GREY, ':', 'resumed'), 'rolled_back': (RED, '--', 'rolled back')}
WEIGHTS = {'raw': (ORANGE, 'validation'), 'ema': (GREEN, 'validation, EMA')}


def draw_schedule(folder: Path, steps: ArrayLike, rates: ArrayLike, steps_per_epoch: float) -> None:
    """Draws `learning_rate.png`: the planned learning `rates` after so many `steps`."""
    figure = Figure(figsize=(8, 3.5), dpi=120, layout='constrained')
    axes = figure.add_subplot()
    axes.plot(np.asarray(steps) / steps_per_epoch, finite(np.asarray(rates)), color=BLUE, linewidth=1.8)
    style(axes, 'Learning rate, as planned')
    axes.set_ylim(bottom=0)
    axes.set_xlabel('epoch')
    figure.savefig(folder / 'learning_rate.png')


def draw_curves(folder: Path) -> None:
    """Draws `curves.png` from `log.jsonl`: loss, top-1, learning rate, speed; none if nothing was logged."""
    rows = read_log(folder)
    if not any(row['kind'] in ('train', 'validation') for row in rows):
        return
    figure = Figure(figsize=(12, 7), dpi=120, layout='constrained')
    (loss, top1), (rate, speed) = figure.subplots(2, 2, sharex=True)
    for axes, key, title in ((loss, 'loss', 'Loss'), (top1, 'top1', 'Top-1, %')):
        line(axes, rows, key, BLUE, 'training')
        validation_lines(axes, rows, key)
        style(axes, title)
        mark_best(axes, rows, key)
    limit(loss)
    line(rate, rows, 'learning_rate', BLUE, 'learning rate')
    style(rate, 'Learning rate')
    line(speed, rows, 'images_per_second', BLUE, 'images/s')
    style(speed, 'Images/s; data wait, %')
    for axes in (rate, speed):
        axes.set_ylim(bottom=0)
        axes.set_xlabel('epoch')
    draw_wait(speed, rows)
    for axes in (loss, top1, rate, speed):
        mark_events(axes, rows)
    for axes in (loss, top1):
        axes.legend(frameon=False, fontsize=9)
    figure.savefig(folder / 'curves.png')


def line(axes: Axes, rows: list[Row], key: str, colour: str, label: str, scale: float = 1.0) -> None:
    """Draws a figure of the training rows; the line is broken where the run was rolled back."""
    points = [row for row in rows if row['kind'] in ('train', 'rolled_back')]
    values = scale * finite([row.get(key) if row['kind'] == 'train' else None for row in points])
    marker = 'o' if np.isfinite(values).sum() == 1 else ''  # a line of one point cannot be seen
    axes.plot(epochs(points), values, color=colour, linewidth=1.4, label=label, marker=marker)


def validation_lines(axes: Axes, rows: list[Row], key: str) -> None:
    """Draws a figure of the validation rows, with the weights as they are and with their moving average."""
    for weights, (colour, label) in WEIGHTS.items():
        points = [row for row in rows if row['kind'] == 'rolled_back' or is_validation(row, weights)]
        if any(is_validation(row, weights) for row in points):
            axes.plot(epochs(points), finite([row.get(key) for row in points]), 'o-', color=colour, label=label, ms=3.5)


def is_validation(row: Row, weights: str) -> bool:
    """Whether a row has an evaluation with these weights; before there were averages, rows did not say which."""
    return row['kind'] == 'validation' and row.get('weights', 'raw') == weights


def mark_best(axes: Axes, rows: list[Row], key: str) -> None:
    """A star, and the value, at the evaluation that was best."""
    best = [row for row in rows if row['kind'] == 'validation' and row.get('best')]
    if not best or not math.isfinite(value := finite([best[-1].get(key)])[0]):
        return
    label = f'best: {value:.4f}' if key == 'loss' else f'best: {value:.2f} %'
    axes.plot(best[-1]['epoch'], value, '*', color='black', ms=12, zorder=5, label=label)


def mark_events(axes: Axes, rows: list[Row]) -> None:
    """Upright lines where the run was resumed or rolled back; each kind is named once."""
    for kind, (colour, dashes, label) in EVENTS.items():
        for index, epoch in enumerate(epochs([row for row in rows if row['kind'] == kind])):
            axes.axvline(epoch, color=colour, linestyle=dashes, linewidth=1.2, label='' if index else label, zorder=1)


def draw_wait(speed: Axes, rows: list[Row]) -> None:
    """The share of time spent waiting for data, on an axis of its own at the right."""
    wait = speed.twinx()
    line(wait, rows, 'data_wait', ORANGE, 'data wait', scale=100)
    wait.set_ylim(0, 100)
    wait.tick_params(axis='y', colors=ORANGE)
    speed.tick_params(axis='y', colors=BLUE)
    wait.spines[['top', 'left', 'bottom']].set_visible(False)


def limit(axes: Axes) -> None:
    """Cuts off peaks, such as before a rollback, that would flatten the rest of the curves."""
    curves = [values[np.isfinite(values)] for values in (np.asarray(drawn.get_ydata(), float) for drawn in axes.lines)]
    curves = [values for values in curves if len(values)]
    if not curves:
        return
    values = np.concatenate(curves)
    top = 1.1 * max(np.percentile(values, 95), *(curve[0] for curve in curves))  # a loss starts high and falls
    if values.max() > top:
        axes.set_ylim(values.min() - 0.05 * (top - values.min()), top)


def style(axes: Axes, title: str) -> None:
    """A title at the left, a light grid, no frame."""
    axes.set_title(title, loc='left', fontsize=11, fontweight='bold')
    axes.grid(color='#E5E5E5', linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)


def epochs(rows: list[Row]) -> np.ndarray:
    """Where rows lie on the axis."""
    return np.array([row['epoch'] for row in rows], float)


def finite(values: Sequence[float | None] | np.ndarray) -> np.ndarray:
    """Values to draw: NaN, a gap, where there is none or one that is not finite."""
    numbers = np.array(values, float)  # NaN for None
    return np.where(np.isfinite(numbers), numbers, np.nan)
