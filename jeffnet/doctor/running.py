"""Runs the live checks, each in a process of its own."""

import json
import os
import subprocess
import sys
from typing import Any

TIMEOUT = 300  # seconds for one check, compilation included
READERS = {'tf': 'tf.data', 'torch': "PyTorch's DataLoader"}  # by extra


def live(name: str) -> dict[str, Any]:
    """The result of a live check, or its 'error'."""
    command = [sys.executable, '-m', 'jeffnet.doctor.live', name]
    # Beside a training run that has most of the GPU's memory, this one gets by with what is left.
    environment = os.environ | {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
    if name in READERS:
        environment['JAX_PLATFORMS'] = 'cpu'
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return {'error': f'no answer in {TIMEOUT} s'}
    if run.returncode == 0:
        return json.loads(run.stdout.splitlines()[-1])
    lines = [line for line in run.stderr.splitlines() if line.strip()]
    ended = f'the process was ended by signal {-run.returncode}: ' if run.returncode < 0 else ''
    return {'error': ended + (lines[-1].strip() if lines else f'exit status {run.returncode}')}
