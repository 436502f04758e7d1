"""Whole runs of the train scripts: killed, stopped, cut off from their disk, and gone on with."""

import json
import signal
import time

import numpy as np
import pytest

from tests import training_runs as runs

# Half of what there is to compile, for runs of which only the end matters.
PLAIN = ('mixing.mixup=0.0', 'mixing.cutmix=0.0', 'erasing.prob=0.0')


@pytest.fixture
def data(tmp_path):
    return runs.write_images(tmp_path / 'data')


@pytest.mark.parametrize(
    ('script', 'devices', 'processes', 'changes', 'kills'),
    [
        ('pt_linen_train.py', 8, 1, ('sharding=fsdp', 'fsdp_min_size=200'), (15,)),
        ('pt_objax_train.py', 1, 1, (), (5, 15, 20)),
        ('tf_nnx_train.py', 1, 1, ('dtype=bfloat16', 'repeats=2'), (15,)),
        ('pt_linen_train.py', 2, 2, (), (15,)),
    ],
    ids=['linen-1x8-fsdp', 'objax', 'nnx', 'linen-2x2'],
)
def test_killed_and_resumed_is_bit_for_bit_a_run_without(data, tmp_path, script, devices, processes, changes, kills):
    case = {'script': script, 'devices': devices, 'processes': processes}
    straight, killed = tmp_path / 'straight', tmp_path / 'killed'
    runs.finish(runs.start(data, straight, *changes, **case), straight)
    rng = np.random.default_rng(0)
    for step in kills:
        started = runs.start(data, killed, *changes, **case)
        runs.kill_after(started, killed, step)
        time.sleep(rng.uniform(0, 0.1))
        for process in started:
            process.kill()
            process.wait()
    assert runs.steps(killed)[-1] < runs.STEPS
    runs.finish(runs.start(data, killed, *changes, **case), killed)
    assert runs.state_hash(killed, runs.STEPS) == runs.state_hash(straight, runs.STEPS)
    rows = [[json.loads(line) for line in (f / 'log.jsonl').read_text().splitlines()] for f in (straight, killed)]
    assert rows[0][-1]['top1'] == rows[1][-1]['top1'] and rows[0][-1]['loss'] == rows[1][-1]['loss']
    figures = ('kind', 'step', 'weights', 'loss')
    told = [[[row.get(key) for key in figures] for row in part if row['kind'] == 'validation'] for part in rows]
    assert told[0] == told[1]  # each evaluation once, with the same figures


def test_signal_to_one_of_two_stops_both_at_one_step(data, tmp_path):
    output = tmp_path / 'run'
    changes = (*PLAIN, 'checkpoint_every_steps=10')
    started = runs.start(data, output, *changes, processes=2)
    runs.kill_after(started, output, 10, signal.SIGTERM)
    runs.finish(started, output)
    stopped = runs.steps(output)[-1]
    assert 10 < stopped < runs.STEPS and f'stopped as asked, after step {stopped}' in runs.text(output)
    runs.finish(runs.start(data, output, *changes), output)  # one process goes on
    assert runs.steps(output)[-1] == runs.STEPS and f'resumed after step {stopped}' in runs.text(output)


@pytest.mark.parametrize('victim', [0, 1])
def test_death_of_one_of_two_ends_the_other(data, tmp_path, victim):
    output = tmp_path / 'run'
    started = runs.start(data, output, *PLAIN, processes=2)
    runs.kill_after(started[victim:] + started[:victim], output, 10)
    since = time.monotonic()
    assert started[1 - victim].wait(60) != 0
    started[victim].wait()
    assert time.monotonic() - since < 60
    told = (output.parent / f'run-{1 - victim}.txt').read_text()
    assert 'another process ended' in told or 'another task died' in told  # ours, or JAX's own where it is quicker
    runs.finish(runs.start(data, output, *PLAIN), output)
    assert runs.steps(output)[-1] == runs.STEPS


def test_signal_to_a_single_process_and_then_a_full_disk(data, tmp_path):
    straight, output = tmp_path / 'straight', tmp_path / 'run'
    runs.finish(runs.start(data, straight, *PLAIN), straight)
    (started,) = runs.start(data, output, *PLAIN)
    runs.kill_after([started], output, 10, signal.SIGINT)
    runs.finish([started], output)
    before = runs.steps(output)
    assert 10 <= before[-1] < runs.STEPS and 'stopped as asked' in runs.text(output)
    # From now on no file may have more than 16 kB, as on a disk that is full.
    limited = runs.start(data, output, *PLAIN, limit=16)
    runs.finish(limited, output, expected=1)
    told = runs.text(output)
    assert 'a checkpoint could not be written, going on without it' in told
    assert f'the checkpoint after step {runs.STEPS} could not be written, earlier ones are whole' in told
    assert runs.steps(output) == before
    runs.finish(runs.start(data, output, *PLAIN), output)
    assert runs.state_hash(output, runs.STEPS) == runs.state_hash(straight, runs.STEPS)


def test_memory_stays_flat(data, tmp_path):
    output = tmp_path / 'run'
    changes = (*PLAIN, 'batch_size=8', 'epochs=200.0', 'eval_every_epochs=50.0', 'checkpoint_every_steps=250')
    runs.finish(runs.start(data, output, *changes, 'log_every_steps=50'), output)
    rows = [json.loads(line) for line in (output / 'log.jsonl').read_text().splitlines()]
    memory = [row['host_memory'] for row in rows if row['kind'] == 'train']
    assert len(memory) == 20
    assert max(memory[10:]) - max(memory[5:10]) < 20e6  # a copy of every batch would be 49 MB in 500 steps
