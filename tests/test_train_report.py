"""What a training run shows and writes: speed by a clock that the test turns, files cut on resume, foreign readers."""

import csv
import json
import os
import signal
import subprocess
import sys
import types
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jeffnet.train.hardware import Work
from jeffnet.train.log_files import COLUMNS
from jeffnet.train.report import Report, check_wandb

ROOT = Path(__file__).parents[1]
# The sign by which tensorboard reads files by itself; else its reader imports TensorFlow for that.
sys.modules.setdefault('tensorboard.compat.notf', types.ModuleType('tensorboard.compat.notf'))

FIGURES = {'loss': 2.5, 'top1': 40.0, 'top5': 75.0, 'learning_rate': 0.1, 'grad_norm': 1.5, 'skipped': 0}
EVALUATED = {'loss': 2.0, 'top1': 50.0, 'top5': 80.0}


@pytest.fixture
def clock(monkeypatch):
    """The time, which passes only where a test says so."""
    now = types.SimpleNamespace(seconds=100.0)
    fake = types.SimpleNamespace(perf_counter=lambda: now.seconds)
    monkeypatch.setattr('jeffnet.train.clock.time', fake)
    return now


def log(folder):
    """The rows of log.jsonl, by a strict reader."""

    def never(name):
        raise AssertionError(f'{name} is not JSON')

    return [json.loads(line, parse_constant=never) for line in (folder / 'log.jsonl').read_text().splitlines()]


def table(folder):
    """The rows of metrics.csv."""
    with (folder / 'metrics.csv').open(newline='') as file:
        return list(csv.DictReader(file))


def tensorboard(folder):
    """(step, value) by tag, as TensorBoard itself reads them."""
    events = EventAccumulator(str(folder / 'tensorboard'), size_guidance={'scalars': 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()['scalars']}


def train(report, steps, every=1, **changed):
    """Reports these steps, an interval each."""
    for step in steps:
        for _ in range(every):
            report.trained(8)
        report.interval(step, {**FIGURES, **changed, 'loss': changed.get('loss', float(step))})


# --------------------------------------------------------------------------------------------------- time


def test_speed_counts_waiting_but_no_pauses(tmp_path, clock, capsys):
    report = Report(
        tmp_path, steps=100, steps_per_epoch=10.0, work=Work(flops_per_image=2e9, devices=2, peak_flops=1e12)
    )
    clock.seconds += 60  # compilation
    report.trained(32)
    assert report.first
    report.start_clock()
    for _ in range(5):
        with report.waiting():
            clock.seconds += 0.5
        clock.seconds += 1.5
        report.trained(32)
        assert not report.first
    with report.paused():
        clock.seconds += 30
    report.interval(10, FIGURES)
    report.close()
    (row,) = log(tmp_path)
    assert row['images_per_second'] == pytest.approx(16)
    assert row['step_seconds'] == pytest.approx(2)
    assert row['data_wait'] == pytest.approx(0.25)
    assert row['mfu'] == pytest.approx(16 * 2e9 / 2e12)
    assert row['epoch'] == 1.0
    # 90 steps are left, and 5 steps took 40 s, pauses included
    assert capsys.readouterr().out == (
        'epoch 1.00, step 10 of 100: loss 2.5000, top-1 40.00 %, rate 0.1, 16 images/s, data wait 25%, MFU 1.6%, '
        '0:12:00 left\n'
    )


def test_an_interval_starts_where_the_last_one_ended(tmp_path, clock):
    report = Report(tmp_path, steps=10, steps_per_epoch=10)
    for seconds in (1, 4):
        with report.waiting():
            clock.seconds += seconds / 2
        clock.seconds += seconds / 2
        report.trained(8)
        report.interval(seconds, FIGURES)
    report.interval(5, FIGURES)  # of no steps
    report.close()
    assert [row['images_per_second'] for row in log(tmp_path)] == [8, 2, None]
    assert [row['data_wait'] for row in log(tmp_path)] == [0.5, 0.5, None]


# ------------------------------------------------------------------------------------------------- screen


def test_validations_and_events_are_shown_and_logged(tmp_path, capsys):
    report = Report(tmp_path, steps=100, steps_per_epoch=10, tensorboard=False)
    report.validation(10, EVALUATED, best=False)
    report.validation(10, EVALUATED, best=True, weights='ema')
    report.event(10, 'resumed', 'checkpoint saved')
    report.close()
    assert capsys.readouterr().out.splitlines() == [
        'epoch 1.00, validation: top-1 50.00 %, top-5 80.00 %, loss 2.0000',
        'epoch 1.00, validation of EMA weights: top-1 50.00 %, top-5 80.00 %, loss 2.0000, the best so far',
        'epoch 1.00, step 10: checkpoint saved',
    ]
    assert log(tmp_path) == [
        {'kind': 'validation', 'step': 10, 'epoch': 1.0, **EVALUATED, 'weights': 'raw', 'best': False},
        {'kind': 'validation', 'step': 10, 'epoch': 1.0, **EVALUATED, 'weights': 'ema', 'best': True},
        {'kind': 'resumed', 'step': 10, 'epoch': 1.0, 'text': 'checkpoint saved'},
    ]


def test_a_terminal_gets_a_bar(tmp_path, monkeypatch):
    screen = StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, 'stdout', screen)
    report = Report(tmp_path, steps=20, steps_per_epoch=10, start_step=5)
    train(report, [6])
    report.line('a line above')
    report.close()
    assert 'step 5 of 20' in screen.getvalue() and 'a line above\n' in screen.getvalue()
    assert 'step 6 of 20' in screen.getvalue() and 'loss 6.0000, top-1 40.00 %' in screen.getvalue()


def test_other_processes_show_and_write_nothing(tmp_path, capsys):
    report = Report(tmp_path, steps=10, steps_per_epoch=10, main=False, wandb='never imported')
    with report.waiting():
        pass
    train(report, [1])
    report.validation(1, EVALUATED, best=True)
    report.event(1, 'stopped', 'stopped')
    report.line('text')
    report.plots(([0, 1], [0.1, 0.2]))
    report.close()
    assert capsys.readouterr() == ('', '') and not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------------------------- files


def test_csv_has_fixed_columns_whatever_the_figures(tmp_path):
    report = Report(tmp_path, steps=10, steps_per_epoch=10, tensorboard=False)
    train(report, [1], loss_scale=1024.0, something_new=3)
    report.validation(1, EVALUATED, best=True, weights='ema')
    report.event(1, 'resumed', 'saved')
    report.close()
    rows = table(tmp_path)
    assert [tuple(row) for row in rows] == [COLUMNS] * 2
    assert (rows[0]['kind'], rows[0]['loss'], rows[0]['loss_scale'], rows[0]['best']) == ('train', '1.0', '1024.0', '')
    assert (rows[1]['kind'], rows[1]['weights'], rows[1]['best'], rows[1]['mfu']) == ('validation', 'ema', 'True', '')
    assert log(tmp_path)[0]['something_new'] == 3


def test_not_finite_is_null_in_json_and_named_in_csv(tmp_path):
    report = Report(tmp_path, steps=10, steps_per_epoch=10)
    train(report, [1], loss=float('nan'), grad_norm=float('inf'))
    report.close()
    report.plots()
    assert log(tmp_path)[0]['loss'] is None and log(tmp_path)[0]['grad_norm'] is None
    assert (table(tmp_path)[0]['loss'], table(tmp_path)[0]['grad_norm']) == ('nan', 'inf')
    assert np.isnan(tensorboard(tmp_path)['train/loss'][0][1])


def test_a_resumed_run_has_each_step_once(tmp_path):
    first = Report(tmp_path, steps=10, steps_per_epoch=5)
    train(first, range(1, 5), grad_norm=1.0)
    first.validation(4, EVALUATED, best=True)
    train(first, range(5, 7), grad_norm=1.0)
    first.validation(6, EVALUATED, best=True)
    first.close()
    for name in ('log.jsonl', 'metrics.csv'):
        with (tmp_path / name).open('a') as file:
            file.write('\0\0\n')  # what a machine that lost power may leave
            file.write('{"kind": "train", "step": 2' if name == 'log.jsonl' else 'train,,2,0.4,9')  # killed in a line
    second = Report(tmp_path, steps=10, steps_per_epoch=5, start_step=4)
    train(second, range(5, 9), grad_norm=2.0)
    second.close()
    steps = [('train', s) for s in range(1, 5)] + [('validation', 4)] + [('train', s) for s in range(5, 9)]
    assert [(row['kind'], row['step']) for row in log(tmp_path)] == steps
    assert [(row['kind'], int(row['step'])) for row in table(tmp_path)] == steps
    norms = [1.0] * 4 + [2.0] * 4  # of the first run until it was cut off, then of the second
    assert [row['grad_norm'] for row in log(tmp_path) if row['kind'] == 'train'] == norms
    assert [float(row['grad_norm']) for row in table(tmp_path) if row['kind'] == 'train'] == norms
    assert tensorboard(tmp_path)['train/grad_norm'] == [(s, 1.0 if s < 5 else 2.0) for s in range(1, 9)]
    assert tensorboard(tmp_path)['validation/top1'] == [(4, 50.0)]


def test_a_run_from_the_start_replaces_what_was_there(tmp_path):
    for steps in (range(1, 6), range(1, 3)):
        report = Report(tmp_path, steps=10, steps_per_epoch=5)
        train(report, steps)
        report.close()
    assert [row['step'] for row in log(tmp_path)] == [int(row['step']) for row in table(tmp_path)] == [1, 2]
    assert [step for step, _ in tensorboard(tmp_path)['train/loss']] == [1, 2]


def test_rolled_back_steps_are_replaced_in_tensorboard(tmp_path):
    report = Report(tmp_path, steps=10, steps_per_epoch=5)
    train(report, [1, 2, 3, 4], grad_norm=1.0)
    report.event(4, 'rolled_back', 'back to step 2')
    train(report, [3], grad_norm=2.0)
    report.close()
    assert tensorboard(tmp_path)['train/grad_norm'] == [(1, 1.0), (2, 1.0), (3, 2.0)]


KILLED = """
import os, signal, sys
from pathlib import Path
from jeffnet.train.report import Report
report = Report(Path(sys.argv[1]), steps=9, steps_per_epoch=3, config={'model': 'b0'})
for step in (1, 2):
    report.trained(8)
    report.interval(step, {'loss': 1.5, 'top1': 10.0 * step})
print(*{name.partition('.')[0] for name in sys.modules}, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_leaves_whole_rows_and_never_imports_tensorflow(tmp_path):
    done = subprocess.run([sys.executable, '-c', KILLED, tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    imported = set(done.stdout.splitlines()[-1].split())
    assert 'tensorboard' in imported and not imported & {'tensorflow', 'torch', 'matplotlib', 'wandb'}
    assert [row['step'] for row in log(tmp_path)] == [int(row['step']) for row in table(tmp_path)] == [1, 2]
    assert tensorboard(tmp_path)['train/top1'] == [(1, 10.0), (2, 20.0)]


def test_tensorboard_tags_and_config(tmp_path):
    report = Report(tmp_path, steps=10, steps_per_epoch=5, config={'model': 'b0', 'schedule': {'name': 'cosine'}})
    train(report, [1])
    for weights in ('raw', 'ema'):
        report.validation(5, EVALUATED, best=True, weights=weights)
    report.close()
    read = tensorboard(tmp_path)
    assert read['train/learning_rate'] == [(1, np.float32(0.1))]  # event files hold float32
    assert read['validation/top5'] == read['validation_ema/top5'] == [(5, 80.0)]
    assert not [tag for tag in read if tag.endswith(('best', 'weights', 'step'))]
    events = EventAccumulator(str(tmp_path / 'tensorboard'))
    events.Reload()
    (text,) = events.Tensors('config')[0].tensor_proto.string_val
    assert json.loads(text) == {'model': 'b0', 'schedule': {'name': 'cosine'}}
    assert events.SummaryMetadata('config').plugin_data.plugin_name == 'text'


def test_missing_packages_cost_one_line(tmp_path, monkeypatch, capsys):
    for name in ('tensorboard.compat.proto.event_pb2', 'matplotlib.figure'):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, 'jeffnet.train.plots')
    monkeypatch.delattr('jeffnet.train.plots')
    report = Report(tmp_path, steps=10, steps_per_epoch=5)
    train(report, [1])
    report.close()
    report.plots()
    first, _, last = capsys.readouterr().out.splitlines()
    assert first.startswith('no TensorBoard files') and last.startswith('no plots')
    assert sorted(os.listdir(tmp_path)) == ['log.jsonl', 'metrics.csv']


# --------------------------------------------------------------------------------------- Weights & Biases


@pytest.fixture
def wandb(monkeypatch):
    """A package that notes how it is called."""
    fake = types.ModuleType('wandb')
    fake.started, fake.logged, fake.finished = [], [], []

    def init(**keywords):
        fake.started.append(keywords)
        return types.SimpleNamespace(
            id=keywords['id'] or f'id{len(fake.started)}',
            log=lambda figures, step: fake.logged.append((step, figures)),
            finish=lambda: fake.finished.append(True),
        )

    fake.init = init
    monkeypatch.setitem(sys.modules, 'wandb', fake)
    return fake


def test_wandb_gets_the_figures_and_the_same_run_after_resume(tmp_path, wandb):
    for start in (0, 1):
        report = Report(
            tmp_path, 10, 5, start_step=start, tensorboard=False, wandb='project/name', config={'model': 'b0'}
        )
        train(report, [start + 1])
        report.validation(start + 1, EVALUATED, best=True, weights='ema')
        report.event(start + 1, 'resumed', 'saved')
        report.close()
    first, second = wandb.started
    assert (first['project'], first['name'], first['config']) == ('project', 'name', {'model': 'b0'})
    assert (first['id'], first['resume'], second['id'], second['resume']) == (None, None, 'id1', 'allow')
    assert [step for step, _ in wandb.logged] == [1, 1, 2, 2]
    assert wandb.logged[0][1]['train/loss'] == 1.0 and wandb.logged[1][1]['validation_ema/top1'] == 50.0
    assert wandb.finished == [True, True]


def test_check_wandb(monkeypatch, wandb):
    check_wandb()
    check_wandb('project')
    check_wandb('project/run')
    for bad in ('', '/run', 'project/', 'a/b/c'):
        with pytest.raises(ValueError, match=r"config\.wandb is .*allowed: '', 'project' or 'project/run'"):
            check_wandb(bad)
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(ValueError, match=r"config\.wandb is 'project', but .*wandb.*pip install wandb"):
        check_wandb('project')
