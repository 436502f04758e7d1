"""Worker processes end with the main process, however it ends."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
SCRIPT = """
import os, sys, time
from jeffnet.data import ClassFolder, Preprocessing, pt
if __name__ == '__main__':
    batches = pt.evaluation_batches(ClassFolder.open(sys.argv[1]), Preprocessing('pil', 32), 1, workers=1)
    for batch in batches:
        children = open(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read().split()
        below = [open(f'/proc/{child}/task/{child}/children').read().split() for child in children]
        print(*children, *sum(below, []), flush=True)
        time.sleep(60)
"""


def is_there(pid):
    """Whether a process runs."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


@pytest.mark.parametrize('how', [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_main_process(how, tmp_path):
    (tmp_path / 'a').mkdir()
    for index in range(4):
        Image.new('RGB', (40, 40)).save(tmp_path / 'a' / f'{index}.png')
    script = tmp_path / 'script.py'
    script.write_text(SCRIPT)
    main = subprocess.Popen([sys.executable, script, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert main.stdout is not None
    workers = main.stdout.readline().split()
    assert len(workers) >= 2 and all(is_there(pid) for pid in workers)
    main.send_signal(how)
    assert main.wait(timeout=20) == -how
    main.stdout.close()
    until = time.monotonic() + 20
    while any(is_there(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.2)
    assert not any(is_there(pid) for pid in workers)
