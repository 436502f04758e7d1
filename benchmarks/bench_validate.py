"""The evaluation loop keeps the slower of reader and model busy: images per second of reader, model and both together.

    python -m benchmarks.bench_validate --out results/bench-validate.csv [--images 1792] [--rounds 3]

Reader and model have a core each, so that neither takes time from the other: a pass of the reader whose batches are
dropped, a pass of the model over one batch that is in memory, and a pass of `evaluate` take turns in one process. Each
case is a fresh process; the reader's threads or worker are started while the process is bound to the first core, those
of JAX while it is bound to the second. The bar: together at least 0.9 of the slower alone.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from benchmarks.pictures import CLASSES, write
from benchmarks.table import output, say, write_table
from jeffnet.command_line import at_least

BAR = 0.9
MODEL = 'pt_mnasnet_small'
BATCH = 32
SIZES = {'pt': (96, 320), 'tf': (96, 320)}  # the smaller is faster for the model than for the reader


def on_core(read: Callable[[], Iterable], reader_core: int, model_core: int) -> Callable[[], Iterator]:
    """`read` with its threads on a core of its own; whoever consumes the batches runs on the other."""

    def bound():
        os.sched_setaffinity(0, {reader_core})
        batches = iter(read())
        batch = next(batches)
        os.sched_setaffinity(0, {model_core})
        yield batch
        yield from batches

    return bound


def measure(pipeline: str, framework: str, size: int, data: str, rounds: int) -> dict[str, float]:
    """Images per second of each part, in this process."""
    reader_core, model_core = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {reader_core})
    from jeffnet.data import ClassFolder, Preprocessing, import_reader

    source, preprocessing = ClassFolder.open(data), Preprocessing('pil', size)
    batches = import_reader(pipeline).evaluation_batches(source, preprocessing, BATCH, workers=1)
    batches.read = on_core(batches.read, reader_core, model_core)  # tf.data starts threads in each pass
    first = next(iter(batches))

    import jeffnet
    from jeffnet.validate.evaluate import Runner, evaluate

    model = jeffnet.create_model(MODEL, framework, num_classes=CLASSES)
    predict = jeffnet.predictor(*model) if framework == 'linen' else jeffnet.predictor(model)
    run = Runner(predict, CLASSES)
    run.warm_up(first['image'])

    def read():
        for _ in batches:
            pass

    def compute(enough=lambda done: done == len(batches)):
        waiting = []
        for done in itertools.count():
            if enough(done):
                break
            waiting.append(run.start(first['image'], first['label']))
            if len(waiting) == 2:
                run.finish(waiting.pop(0), first['image'], first['label'])
        run.finish(waiting.pop(), first['image'], first['label'])
        return done

    def beside() -> tuple[float, float]:
        """Images per second of reader and model while both are at work, with nothing between them."""
        reading, done = threading.Thread(target=read), 0
        start = time.perf_counter()
        reading.start()
        done = compute(lambda _: not reading.is_alive())
        seconds = time.perf_counter() - start
        return len(source) / seconds, done * BATCH / seconds

    parts = {'reader': read, 'model': compute, 'together': lambda: evaluate(run, batches, len(source))}
    found = {name: [] for name in (*parts, 'reader_beside', 'model_beside')}
    for _ in range(rounds):
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            found[name].append(len(source) / (time.perf_counter() - start))
        for name, rate in zip(('reader_beside', 'model_beside'), beside(), strict=True):
            found[name].append(rate)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=output, default='results/bench-validate.csv')
    parser.add_argument('--images', type=at_least(1), default=1792)
    parser.add_argument('--rounds', type=at_least(1), default=3)
    parser.add_argument('--case', nargs=4, help=argparse.SUPPRESS)  # the child processes
    arguments = parser.parse_args()
    if arguments.case:
        pipeline, framework, size, data = arguments.case
        print(json.dumps(measure(pipeline, framework, int(size), data, arguments.rounds)))
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = write(Path(folder), arguments.images)
        for pipeline, framework in (('pt', 'linen'), ('tf', 'linen'), ('pt', 'objax'), ('tf', 'nnx')):
            for size in SIZES[pipeline]:
                command = [sys.executable, '-m', 'benchmarks.bench_validate', '--rounds', str(arguments.rounds)]
                command += ['--case', pipeline, framework, str(size), str(data)]
                told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
                rows.append(row(pipeline, framework, size, json.loads(told.splitlines()[-1])))
                say(rows[-1])
    return write_table(arguments.out, rows)


def row(pipeline: str, framework: str, size: int, found: dict[str, float]) -> dict:
    """One line of the table."""
    slower = min(('reader', 'model'), key=lambda name: found[name])
    share = found['together'] / found[slower]
    return {
        'pipeline': pipeline,
        'framework': framework,
        'image_size': size,
        **{name: f'{found[name]:.1f}' for name in ('reader', 'model', 'reader_beside', 'model_beside', 'together')},
        'of_the_slower': f'{share:.3f}',
        'of_the_slower_beside': f'{found["together"] / found[f"{slower}_beside"]:.3f}',
        'bound_by': slower,
        'ok': share >= BAR,
    }


if __name__ == '__main__':
    sys.exit(main())
