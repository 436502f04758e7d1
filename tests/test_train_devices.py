"""One step of training means the same on any number of devices, in any framework and precision."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training_runs import QUICKLY

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def found():
    """What tests/train_devices.py prints."""
    flags = f'--xla_force_host_platform_device_count=8 {QUICKLY}'
    environment = {**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run(
        [sys.executable, '-m', 'tests.train_devices'], cwd=ROOT, env=environment, capture_output=True, text=True,
        check=False, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# Sums over devices run in another order; after four steps with momentum that is up to 1e-4 of an array's largest value.
@pytest.mark.parametrize('case', ['8 devices', 'fsdp', 'nnx', 'objax', 'replica', 'remat', 'accumulation'])
def test_same_as_on_one_device(found, case):
    assert found['differences'][case] < 1e-3


def test_groups_and_what_is_frozen_are_what_they_say(found):
    assert found['differences']['groups are not global'] > 1e-2
    assert found['differences']['frozen statistics'] == 0
    assert found['differences']['frozen'] == 0


def test_step_that_is_not_finite_changes_nothing_but_counters(found):
    """Steps, skipped, skipped in a row after the broken one; the last two after two good ones."""
    assert found['not_finite'] == {'untouched': True, 'counts': [2, 1, 1, 1, 0], 'finite': True}


def test_half_precision(found):
    """The state stays float32; float16 skips steps until the scale fits, and then learns as float32 does."""
    half = found['half']
    assert half['float16']['kinds'] == half['bfloat16']['kinds'] == ['float32']
    assert 0 < half['float16']['skipped'] < 20 and half['float16']['scale'] < 2.0**24
    assert half['bfloat16']['skipped'] == 0
    assert half['bfloat16']['loss'] == pytest.approx(half['float32']['loss'], abs=0.1)
    assert half['float16']['loss'] == pytest.approx(half['float32']['loss'], abs=0.3)  # some steps fewer
