"""The wheel, installed in a clean environment outside the checkout; `make wheel` tries every extra."""

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[1] / 'tools' / 'check_wheel.py'


def test_the_wheel_works_with_core_dependencies_alone_and_with_objax():
    run = subprocess.run([sys.executable, TOOL, '--extras', 'objax'], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert [line.split()[:2] for line in run.stdout.splitlines()] == [['core', 'ok,'], ['objax', 'ok,']]
