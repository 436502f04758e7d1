"""Processes that find each other: by what a cluster tells them."""

import os
import subprocess
import sys

from jeffnet.launch import free_port

CODE = """
import argparse
import numpy as np
from jeffnet import distributed
parser = argparse.ArgumentParser()
distributed.add_arguments(parser)
distributed.start(parser.parse_args(['--distributed']))
import jax
assert jax.local_device_count() == 1 and jax.device_count() == jax.process_count() == 2
found = distributed.gather({'rank': np.array([jax.process_index()])})
assert [int(each['rank'][0]) for each in found] == [0, 1], found
"""


def test_two_tasks_of_slurm_find_each_other():
    # JAX takes the port from the job's number.
    job = {'SLURM_JOB_ID': str(free_port()), 'SLURM_STEP_NODELIST': '127.0.0.1', 'SLURM_NTASKS': '2'}
    command = [sys.executable, '-c', CODE]
    tasks = [
        subprocess.Popen(command, env={**os.environ, **job, 'SLURM_PROCID': str(i), 'SLURM_LOCALID': str(i)})
        for i in range(2)
    ]
    assert [task.wait(timeout=120) for task in tasks] == [0, 0]
