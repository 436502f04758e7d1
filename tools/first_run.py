"""A newcomer's first run, timed from the clone: `python -m tools.first_run`.

Clones this repository into an empty folder, says `make demo` there, and writes results/first-run.csv: a row for each
line of its table, with the seconds since the clone began. Packages may come from the caches of uv and pip; nothing else
of this environment helps, such as programs that were compiled before.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.table import write_table

ROOT = Path(__file__).parents[1]
COLUMNS = ('framework', 'pipeline', 'top1', 'top5', 'images_per_second', 'seconds')
OURS = ('JAX_COMPILATION_CACHE_DIR', 'PYTHONPATH', 'VIRTUAL_ENV')  # which a newcomer has not set
LINE = re.compile(r'^(linen|objax|nnx) +(tf|pt) +([\d.]+) +([\d.]+) +(\d+) +([\d.]+)$')


def main() -> int:
    """Returns 0, or the status of what failed."""
    environment = {name: value for name, value in os.environ.items() if name not in OURS}
    start, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(['git', 'clone', '-q', ROOT, folder], check=True)
        demo = subprocess.Popen(['make', 'demo'], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
        for line in demo.stdout or ():
            print(line, end='', flush=True)
            if values := LINE.match(line):
                rows.append(dict(zip(COLUMNS, values.groups(), strict=True)))
                rows[-1] |= {'since_clone': f'{time.perf_counter() - start:.0f}', 'ok': True}
        if status := demo.wait():
            return status
    return write_table(ROOT / 'results' / 'first-run.csv', rows)


if __name__ == '__main__':
    sys.exit(main())
