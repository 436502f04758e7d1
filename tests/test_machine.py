"""What the scripts set for their process, memory that is kept and programs that stay, and who may say otherwise."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jeffnet import machine

ROOT = Path(__file__).parents[1]

FAULTS = """
import resource, sys
import numpy as np
from jeffnet import machine

told = machine.keep_memory() if sys.argv[1] == 'kept' else None
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(48 * 2**20, np.uint8).fill(1)  # above the largest size that glibc would keep by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(told, faults())
"""


def run(code, *arguments, **environment):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(('MALLOC_', 'GLIBC_', 'JAX_', 'XDG_'))}
    command = [sys.executable, '-c', code, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='of glibc')
def test_freed_memory_is_handed_out_again():
    told, kept = run(FAULTS, 'kept').split()
    _, usual = run(FAULTS, 'usual').split()
    assert told == 'True'
    assert int(kept) < 10 < 20 < int(usual)  # 24 pages of 2 MiB, or 12,288 of 4 KiB


def test_the_environment_decides_about_memory(monkeypatch):
    monkeypatch.setenv('MALLOC_TOP_PAD_', '65536')
    assert not machine.keep_memory()


PROGRAMS = """
import json, os, sys
from pathlib import Path
import jeffnet
jeffnet.machine.keep_programs()
import jax, jax.numpy as jnp
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
jax.jit(lambda x: x @ x + 1)(jnp.ones((3, 3)))
folder = jax.config.jax_compilation_cache_dir
print(json.dumps([folder, len(os.listdir(folder)) if folder else 0]))
"""


def test_programs_stay_in_a_folder_of_this_kind_of_processor(tmp_path):
    folder, files = json.loads(run(PROGRAMS, XDG_CACHE_HOME=str(tmp_path)))
    assert Path(folder).parent == tmp_path / 'jeffnet' and Path(folder).name.startswith('programs-') and files
    assert json.loads(run(PROGRAMS, XDG_CACHE_HOME=str(tmp_path))) == [folder, files]  # nothing was compiled anew


@pytest.mark.parametrize('chosen', ['', 'elsewhere'])
def test_the_environment_decides_about_programs(tmp_path, chosen):
    place = str(tmp_path / chosen) if chosen else ''
    folder, _ = json.loads(run(PROGRAMS, XDG_CACHE_HOME=str(tmp_path / 'xdg'), JAX_COMPILATION_CACHE_DIR=place))
    assert (folder or '') == place and not (tmp_path / 'xdg').exists()


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / 'file').write_text('')
    folder, _ = json.loads(run(PROGRAMS, XDG_CACHE_HOME=str(tmp_path / 'file')))
    assert folder is None


def test_other_processors_have_other_folders(monkeypatch):
    here = machine.programs_folder()
    monkeypatch.setattr(machine, 'processor', lambda: 'aarch64 sve')
    assert machine.programs_folder() != here
