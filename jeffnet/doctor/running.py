"""Runs the live checks, each in a process of its own."""

import json
import os
import re
import subprocess
import sys
from typing import Any

TIMEOUT = 300  # seconds for one check, compilation included
READERS = {'tf': 'tf.data', 'torch': "PyTorch's DataLoader"}  # by extra
RESULT = 'result of the check: '  # begins the line that counts, whatever else a process prints
ERROR = re.compile(r'[\w.]*(Error|Exception)\b')  # begins what went wrong; hints of JAX follow it


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
    results = [line for line in run.stdout.splitlines() if line.startswith(RESULT)]
    if run.returncode == 0 and results:
        return json.loads(results[-1].removeprefix(RESULT))
    lines = [line.strip() for line in run.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if ERROR.match(line)] or lines or [f'exit status {run.returncode}']
    ended = f'the process was ended by signal {-run.returncode}: ' if run.returncode < 0 else ''
    error = (errors if run.returncode > 0 else lines or errors)[-1]
    if ERROR.fullmatch(error):  # an exception without a word, such as that of `assert`: the line that raised it
        code = [line for line in lines[: lines.index(error)] if line.strip('~^ ')]
        error += f' in {code[-1]}' if code else ''
    return {'error': ended + error}
