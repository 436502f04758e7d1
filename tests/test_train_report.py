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

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jeffnet.train import plots
from jeffnet.train.hardware import Work, device_memory, host_memory, model_flops_utilisation, peak_flops
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


# -------------------------------------------------------------------------------------------------- plots


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


# ----------------------------------------------------------------------------------------------- hardware


@pytest.mark.parametrize(('kind', 'dtype', 'tflops'), [
    ('NVIDIA H100 80GB HBM3', 'bfloat16', 989), ('NVIDIA H100 PCIe', 'bfloat16', 756), ('NVIDIA H200', 'float16', 989),
    ('NVIDIA A100-SXM4-40GB', 'bfloat16', 312), ('NVIDIA A100 80GB PCIe', 'float32', 156),
    ('Tesla V100-SXM2-16GB', 'float16', 125), ('Tesla V100-SXM2-16GB', 'bfloat16', None), ('Tesla T4', 'float16', 65),
    ('NVIDIA L4', 'bfloat16', 121), ('NVIDIA L40S', 'bfloat16', 362), ('NVIDIA GeForce RTX 3090', 'bfloat16', 71),
    ('NVIDIA GeForce RTX 4090', 'float32', 82.6), ('NVIDIA GeForce RTX 5090', 'bfloat16', 209.5),
    ('NVIDIA B200', 'bfloat16', 2250), ('TPU v5 lite', 'bfloat16', 197), ('TPU v5', 'bfloat16', 459),
    ('NVIDIA GeForce RTX 4090 Laptop GPU', 'float32', None), ('NVIDIA H100 80GB HBM3 MIG 3g.40gb', 'bfloat16', None),
    ('cpu', 'float32', None), ('TPU v4', 'float64', None),
])  # fmt: skip
def test_peak_flops_by_the_names_that_devices_have(kind, dtype, tflops):
    assert peak_flops(kind, dtype) == (None if tflops is None else pytest.approx(tflops * 1e12))


@pytest.mark.parametrize('kind', ['TPU v2', 'TPU v3', 'TPU v4', 'TPU v5e', 'TPU v5p', 'TPU v6 lite', 'TPU7x'])
def test_tpu_peaks_agree_with_jax(kind):
    from jax._src.pallas.mosaic import tpu_info  # not public, but the only table there is

    chip = tpu_info.chip_version_from_device_kind(kind)
    cores = 2 if chip.supports_megacore else 1
    peak = tpu_info._get_tpu_info_impl(chip, cores).bf16_ops_per_second * cores
    # jax rounds to two or three digits, and for v3 it has 140 where Google's documentation has 123
    assert peak_flops(kind, 'bfloat16') == pytest.approx(peak, rel=0.15 if kind == 'TPU v3' else 0.03)


def test_utilisation_by_hand():
    assert model_flops_utilisation(Work(3e9, 4, 1e12), 500.0) == pytest.approx(500 * 3e9 / 4e12)
    assert model_flops_utilisation(Work(3e9, 4, None), 500.0) is None
    assert model_flops_utilisation(None, 500.0) is None


def test_memory():
    def device(stats):
        return types.SimpleNamespace(memory_stats=lambda: stats)

    full, fuller = ({'bytes_in_use': n, 'peak_bytes_in_use': 2 * n} for n in (10, 20))
    assert device_memory([device(full), device(fuller), device(None)]) == (20, 40)
    assert device_memory([device(None), device({'bytes_in_use': 5})]) is None
    assert device_memory(jax.devices('cpu')) is None
    before, held = host_memory(), np.ones(2**25)  # 256 MiB
    assert host_memory() - before == pytest.approx(held.nbytes, rel=0.2)  # the process has other things to do too


COUNTED = """
import types
import jax, jax.numpy as jnp
from jeffnet.train import hardware
from jeffnet.train.mesh import data_mesh, everywhere, split
from jeffnet.train.step import zeros

mesh = data_mesh()

def step(state, totals, batch):
    parts = batch['image'].reshape(2, 32, -1)
    add = lambda total, part: (total + (part @ state).sum(), None)
    return jax.lax.scan(add, jnp.float32(0), parts)[0]

step = jax.jit(step, out_shardings=everywhere(mesh))
config = types.SimpleNamespace(batch_size=64, in_chans=3, dtype='float32', accumulation_steps=2)
state = jax.device_put(jnp.ones((48, 100)), everywhere(mesh))
stages = [(0, types.SimpleNamespace(image_size=(4, 4)))]
plan = types.SimpleNamespace(config=config, mesh=mesh, stages=stages, state=state, train_step=step)
assert hardware.work_of(plan) is None  # no peak of a CPU
hardware.PEAK_TFLOPS['cpu'] = (1, 1, 1)
work = hardware.work_of(plan)
batch = split(mesh, {'image': jnp.ones((64, 4, 4, 3)), 'label': jnp.zeros(64, jnp.int32)})
compiled = jax.jit(lambda x: jnp.tanh(x.reshape(64, -1) @ state)).lower(batch['image']).compile().cost_analysis()
print(work.flops_per_image, work.devices, work.peak_flops, compiled['flops'])
plan.stages *= 2
assert hardware.work_of(plan) is None  # images change their size
"""


def test_work_is_of_the_whole_batch_on_any_number_of_devices():
    flags = {'XLA_FLAGS': '--xla_force_host_platform_device_count=8', 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run(
        [sys.executable, '-c', COUNTED], capture_output=True, text=True, cwd=ROOT, env={**os.environ, **flags}
    )
    assert done.returncode == 0, done.stderr
    flops, devices, peak, compiled = map(float, done.stdout.split())
    expected = 2 * 48 * 100  # a product of [1, 48] and [48, 100]; sums and the like come on top
    assert (devices, peak) == (8, 1e12) and flops == pytest.approx(expected, rel=0.02)
    assert compiled == pytest.approx(64 * expected / 8, rel=0.02)  # of one device, why work_of does not take it
