"""Curves and schedules as pictures, of whole logs and of broken ones."""

import json
import os

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from jeffnet.train import plots
from jeffnet.train.report import Report


def row(kind, step, **figures):
    return {'kind': kind, 'step': step, 'epoch': step / 10, **figures}


LOGS = {
    'whole': [
        row('train', 5, loss=3.0, top1=10.0, learning_rate=0.1, images_per_second=50.0, data_wait=0.1),
        row('validation', 10, loss=2.0, top1=20.0, weights='raw', best=False),
        row('validation', 10, loss=1.9, top1=22.0, weights='ema', best=True),
        row('resumed', 10, text=''),
        row('train', 15, loss=None, top1=30.0, learning_rate=0.1, images_per_second=None, data_wait=None),
        row('rolled_back', 15, text=''),
        row('train', 12, loss=2.5, top1=12.0, learning_rate=0.1, images_per_second=50.0, data_wait=0.1),
    ],
    'one interval': [row('train', 5, loss=3.0, top1=10.0, learning_rate=0.0, images_per_second=5.0, data_wait=0.0)],
    'only validation': [row('validation', 5, loss=3.0, top1=None, best=True)],
    'nothing finite': [row('train', 5, loss=None, top1=None), row('train', 6, loss=None, top1=None)],
}


@pytest.mark.parametrize('name', LOGS)
def test_curves_of_any_log(tmp_path, name):
    (tmp_path / 'log.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in LOGS[name]))
    plots.draw_curves(tmp_path)
    with Image.open(tmp_path / 'curves.png') as picture:
        assert picture.size == (1440, 840) and len(picture.convert('RGB').getcolors(1 << 20)) > 10


def test_plots_are_drawn_only_of_something(tmp_path):
    plots.draw_curves(tmp_path)
    assert not list(tmp_path.iterdir())
    report = Report(tmp_path, steps=10, steps_per_epoch=5, tensorboard=False)
    report.plots(schedule_points=([0, 5, 9], [0.0, 0.2, float('nan')]))
    report.close()
    assert sorted(os.listdir(tmp_path)) == ['learning_rate.png', 'log.jsonl', 'metrics.csv']


def test_curves_break_at_a_rollback_and_mark_the_best():
    axes = Figure().add_subplot()
    plots.line(axes, LOGS['whole'], 'top1', plots.BLUE, 'training')
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [10, 30, np.nan, 12])
    plots.mark_best(axes, LOGS['whole'], 'top1')
    assert (axes.lines[1].get_xdata()[0], axes.lines[1].get_ydata()[0]) == (1.0, 22.0)
    plots.mark_events(axes, LOGS['whole'])
    assert [line.get_label() for line in axes.lines[2:]] == ['resumed', 'rolled back']


def test_a_peak_does_not_flatten_the_loss():
    axes = Figure().add_subplot()
    axes.plot(range(100), [7 - 0.05 * step for step in range(99)] + [1e6])
    plots.limit(axes)
    low, high = axes.get_ylim()
    assert 1 < low < 7 - 0.05 * 98 and 7 < high < 8
