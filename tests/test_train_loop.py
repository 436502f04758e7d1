"""Whole runs of the loop in this process: what it does at a step that is not finite, at a plateau, at another size."""

import dataclasses
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jeffnet.data.source import DataError
from jeffnet.train import prepare, run
from tests import training_runs
from tests.tiny_model import register

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return training_runs.write_images(tmp_path_factory.mktemp('data'))


def configuration(data, folder, **changes):
    """That of `training_runs`: 2.5 steps an epoch, here 20 in all."""
    config = runpy.run_path(str(data / 'config.py'))['get_config']()
    config.update(data_dir=str(data), output_dir=str(folder), epochs=8.0, log_every_steps=1)
    config.mixing.update(mixup=0.0, cutmix=0.0)  # these two are half of what there is to compile
    config.erasing.prob = 0.0
    config.update(changes)
    return config


def rows(folder, kind):
    """The lines of the log of one kind."""
    lines = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
    return [line for line in lines if line['kind'] == kind]


def broken(plan, wrong):
    """The plan with a NaN in one pixel of the batches whose place in the data order is in `wrong`."""

    def read(stage, first):
        for at, batch in enumerate(plan.read(stage, first), first):
            if at in wrong:
                batch['image'] = batch['image'].copy()
                batch['image'][0, 0, 0, 0] = np.nan
            yield batch

    return dataclasses.replace(plan, read=read)


# ------------------------------------------------------------------------------------------- not finite


def test_a_step_that_is_not_finite_is_skipped_and_counted(data, tmp_path):
    best = run(broken(prepare(configuration(data, tmp_path), 'pt'), {4, 5, 11}))
    train = rows(tmp_path, 'train')
    assert [row['skipped'] for row in train] == [0] * 4 + [1] + [2] * 6 + [3] * 9
    assert [row['step'] for row in train if row['loss'] is None] == [5, 6, 12]  # the steps that were left out
    assert len(train) == 20 and np.isfinite(best['loss'])
    assert not rows(tmp_path, 'rolled_back')


def test_after_some_in_a_row_the_last_good_checkpoint_is_taken(data, tmp_path):
    config = configuration(data, tmp_path, nonfinite_limit=3, checkpoint_every_steps=1)
    best = run(broken(prepare(config, 'pt'), {11, 12, 13}))
    (event,) = rows(tmp_path, 'rolled_back')
    assert '3 steps in a row were not finite: back to the checkpoint after step 11, on with batch 14' in event['text']
    train = rows(tmp_path, 'train')
    # The log has each step once: those after the checkpoint are those that were kept.
    assert [row['step'] for row in train][-9:] == list(range(12, 21))
    assert train[-1]['skipped'] == 0 and np.isfinite(best['loss'])
    state = training_runs.state(tmp_path, 20)
    assert int(state['.step']) == 20 and int(state['.data_step']) == 23  # the broken batches are not read again


def test_a_run_that_stays_not_finite_ends(data, tmp_path):
    limits = {'nonfinite_limit': 2, 'checkpoint_every_steps': 5, 'max_rollbacks': 2}
    never = broken(prepare(configuration(data, tmp_path, **limits), 'pt'), set(range(100)))
    with pytest.raises(FloatingPointError, match=r'2 steps in a row up to step 2 .*no checkpoint before them: lower'):
        run(never)
    later = broken(prepare(configuration(data, tmp_path / 'later', **limits), 'pt'), set(range(6, 100)))
    with pytest.raises(FloatingPointError, match=r'up to step 7 were not finite, after 2 roll-backs: lower config\.le'):
        run(later)
    assert len(rows(tmp_path / 'later', 'rolled_back')) == 2


def test_bad_images_end_the_run_or_are_replaced(data, tmp_path, capsys):
    root = tmp_path / 'data'
    shutil.copytree(data, root)
    (root / 'train/class1/5.png').write_bytes(b'no image')
    with pytest.raises(DataError, match=r'class1.5\.png'):
        run(prepare(configuration(root, tmp_path / 'error', epochs=2.0), 'pt'))
    best = run(prepare(configuration(root, tmp_path / 'run', epochs=2.0, on_bad_image='replace'), 'pt'))
    (event,) = rows(tmp_path / 'run', 'bad_image')
    assert 'another image stands in for' in event['text'] and '5.png' in event['text'] and np.isfinite(best['loss'])


# ------------------------------------------------------------------------------- schedules, sizes, names


def test_plateau_lowers_the_rate_and_resumes_with_it(data, tmp_path):
    config = configuration(data, tmp_path, schedule='plateau', eval_every_epochs=1.6, warmup_epochs=0.0)
    config.plateau.update(patience=0, decay=0.5, threshold=10.0, metric='loss')  # no loss is good enough
    config.learning_rate = 1e-3
    run(prepare(config, 'pt'))
    rates = [row['learning_rate'] for row in rows(tmp_path, 'train')]
    # Evaluations after 4, 8, ...: the first is the best by definition, each later one halves the rate.
    assert rates == pytest.approx([1e-3] * 8 + [5e-4] * 4 + [2.5e-4] * 4 + [1.25e-4] * 4)
    assert float(training_runs.state(tmp_path, 20)['.plateau.factor']) == 0.0625


def test_images_grow_and_a_resumed_run_is_at_the_same_size(data, tmp_path):
    config = configuration(data, tmp_path, progressive_sizes=((0, 32), (0.3, 40), (0.7, 48)), eval_image_size=56)
    config.eval_batch_size = 7
    plan = prepare(config, 'pt')
    whole = list(plan.batches(0, 0))
    assert [batch['image'].shape[1] for batch in whole] == [32] * 6 + [40] * 8 + [48] * 6
    for start in (3, 6, 13):
        for ours, theirs in zip(plan.batches(start, start), whole[start:], strict=True):
            assert np.array_equal(ours['image'], theirs['image']) and np.array_equal(ours['label'], theirs['label'])
    assert [batch['image'].shape for batch in plan.validated()] == [(7, 56, 56, 3)] * 2  # of 10 images
    best = run(plan)
    assert len(rows(tmp_path, 'train')) == 20 and np.isfinite(best['loss'])


def test_a_position_table_is_made_for_the_size_of_the_images(data, tmp_path):
    config = configuration(data, tmp_path, model=register('pt_tiny_vit'), image_size=48)
    plan = prepare(config, 'pt')
    assert plan.options['image_size'] == (48, 48) and plan.state.params['pos_embed'].shape == (1, 10, 32)
    config.progressive_sizes = ((0, 48), (0.5, 64))
    with pytest.raises(ValueError, match=r'config.model is pt_tiny_vit: .*create it with image_size=\(64, 64\)'):
        prepare(config, 'pt')


def test_frozen_parameters_stay_and_multipliers_scale(data, tmp_path):
    frozen = configuration(
        data, tmp_path, freeze=('^conv_stem', '^bn1'), lr_multipliers=(('classifier', 10.0),), layer_decay=0.5,
        optimizer='momentum', learning_rate=0.3, epochs=2.0,
    )  # fmt: skip
    plan = prepare(frozen, 'pt')
    before = jax.device_get(plan.state.params)  # copies: training uses the state up
    run(plan)
    after = training_runs.state(tmp_path, 5)
    moved = {name: not np.array_equal(before[name], after[f".params['{name}']"]) for name in before}
    assert {name for name, has in moved.items() if not has} == {'conv_stem.kernel', 'bn1.scale', 'bn1.bias'}


def test_a_damaged_checkpoint_is_passed_over(data, tmp_path, capsys):
    config = configuration(data, tmp_path, epochs=2.0, checkpoint_every_steps=1)
    whole = run(prepare(config, 'pt'))
    for path in (tmp_path / 'checkpoints/5/state').rglob('*'):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:7])
    assert run(prepare(config, 'pt', resume='auto')) == whole
    assert 'checkpoints/5 is damaged' in (told := capsys.readouterr().out) and 'resumed after step 4 of 5' in told
    for path in (tmp_path / 'checkpoints').glob('*/state/**/*'):
        if path.is_file():
            path.write_bytes(b'')
    with pytest.raises(OSError, match=r'--resume auto: .*checkpoints/5 is damaged.*remove it'):
        run(prepare(config, 'pt', resume='auto'))


def test_a_trace_ends_with_the_run(data, tmp_path):
    run(prepare(configuration(data, tmp_path, profile_steps='4:60', epochs=2.0), 'pt'))
    assert ['4:5' in row['text'] for row in rows(tmp_path, 'profiled')] == [True]
    again = configuration(data, tmp_path, profile_steps='2:60', epochs=2.0)
    run(prepare(again, 'pt', resume='auto'))  # nothing is left to trace
    assert len(rows(tmp_path, 'profiled')) == 1


def test_profile_and_plots(data, tmp_path):
    run(prepare(configuration(data, tmp_path, profile_steps='3:4', epochs=2.0, tensorboard=True), 'pt'))
    assert list((tmp_path / 'profile').rglob('*.xplane.pb'))
    assert [row['step'] for row in rows(tmp_path, 'profiled')] == [4]
    assert (tmp_path / 'curves.png').stat().st_size > 5000 and (tmp_path / 'learning_rate.png').stat().st_size > 5000
    assert list((tmp_path / 'tensorboard').iterdir())


# ------------------------------------------------------------------------------------------- processes


def test_two_processes_with_sharded_arrays_train_as_one(data, tmp_path):
    """Losses of every step, and what the run is judged by; sums are in another order, so not bit for bit."""
    figures = {}
    for processes, more in ((1, ()), (2, ('sharding=fsdp', 'fsdp_min_size=200'))):
        folder = tmp_path / str(processes)
        command = [sys.executable, '-m', 'jeffnet.launch', '--processes', str(processes), 'pt_linen_train.py']
        command += ['--config', str(data / 'config.py'), f'--config.data_dir={data}', f'--config.output_dir={folder}']
        command += ['--config.epochs=2.4', '--config.warmup_epochs=0.4', '--config.log_every_steps=1']
        command += [f'--config.{change}' for change in more]
        environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': training_runs.QUICKLY}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        words = '2 processes, 2 devices' if processes == 2 else '1 process, 1 device '
        assert len(re.findall(words, done.stdout)) == 1  # only process 0 speaks
        figures[processes] = [(row['loss'], row['top1']) for row in rows(folder, 'train')]
        figures[processes] += [(row['loss'], row['top1']) for row in rows(folder, 'validation')]
    assert len(figures[1]) == 8
    assert np.array(figures[2]) == pytest.approx(np.array(figures[1]), rel=1e-3)
