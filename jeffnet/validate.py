"""The command of the validate scripts: accuracy of models on labelled images, every image counted exactly once.

Nothing heavy is imported at the top: DataLoader workers import the script again, and need neither jax nor a framework.
"""

import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import jeffnet
from jeffnet.command_line import InputError, Parser, at_least, guarded, input_errors
from jeffnet.data import import_reader
from jeffnet.data.folder import ClassFolder
from jeffnet.data.order import EvaluationBatches
from jeffnet.data.preprocessing import INTERPOLATIONS, KINDS, Preprocessing

COLUMNS: list[str] = [
    'model', 'framework', 'pipeline', 'top1', 'top5', 'images', 'img_size', 'crop_pct', 'interpolation',
    'preprocessing', 'parameters', 'seconds',
]  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One model to validate: the keywords of `create_model`, and how its images are prepared."""

    model: str
    options: dict[str, Any]
    preprocessing: Preprocessing


def main(framework: str, pipeline: str, argv: list[str] | None = None) -> int:
    """Validates models in 'linen', 'objax' or 'nnx' with the reader 'tf' or 'pt', as the command line says.

    Returns the exit status: 0 done; 2 bad arguments or input, one line on standard error; 1 failed while running.
    """
    return guarded(lambda: run(framework, pipeline, argv))


def run(framework: str, pipeline: str, argv: list[str] | None) -> int:
    """Runs all jobs that the command line asks for; raises what `guarded` turns into an exit status."""
    with input_errors():
        args = parser().parse_args(argv)
        jobs, classes = plan(args)
        if args.results_file:
            check_results_file(args.results_file)
        source = open_data(args, pipeline, classes)
        reader = import_reader(pipeline)
    for job in jobs:
        row = validate(job, framework, reader, source, args)
        if args.results_file:
            add_row(args.results_file, {'framework': framework, 'pipeline': pipeline, **row})
    return 0


def parser() -> Parser:
    """The arguments of all validate scripts."""
    p = Parser(description='Top-1 and top-5 accuracy of models on labelled images.', allow_abbrev=False)
    p.add_argument('data', metavar='DATA', help='folder of class folders, parent of such a validation/, or TFDS folder')
    p.add_argument('--model', help="a name, a shell glob, or 'all'; not needed with a checkpoint folder")
    p.add_argument('--checkpoint', help='a checkpoint folder, a weights file, or hf-hub:owner/repo')
    p.add_argument('--use-ema', action=argparse.BooleanOptionalAction, default=True, help='averaged weights, if there')
    p.add_argument('--pretrained', action=argparse.BooleanOptionalAction, help='default: unless --checkpoint is given')
    p.add_argument('--dataset', metavar='NAME[:SPLIT]', help='the TFDS set in DATA; default: imagenet2012, if there')
    p.add_argument('--split', help='default: validation')
    p.add_argument('--batch-size', type=at_least(1), default=64, metavar='N', help='default: 64')
    p.add_argument('--preprocessing', choices=KINDS, help="default: the model's own, as for the next five")
    p.add_argument('--img-size', type=at_least(1), nargs='+', metavar='N', help='one side, or height and width')
    p.add_argument('--crop-pct', type=float, metavar='SHARE')
    p.add_argument('--interpolation', choices=INTERPOLATIONS)
    p.add_argument('--mean', type=float, nargs='+', metavar='X', help='of values in 0..1')
    p.add_argument('--std', type=float, nargs='+', metavar='X')
    p.add_argument(
        '--num-classes', type=at_least(1), metavar='N', help='needed if the weights are not for 1000 classes'
    )
    p.add_argument('--in-chans', type=at_least(1), metavar='N', help='1: grey images, 3: colour')
    p.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32', help='of the computation')
    p.add_argument('--workers', type=at_least(0), metavar='N', help='that read images; default: as many as pay off')
    p.add_argument('--results-file', type=Path, metavar='FILE', help='a .csv or .json file that rows are added to')
    return p


def plan(args: argparse.Namespace) -> tuple[list[Job], list[str] | None]:
    """The jobs that the arguments ask for, and the class names if a checkpoint holds them."""
    found = None if args.checkpoint is None else jeffnet.weights.locate(args.checkpoint)
    config = found.config if found else {}
    if found and not config and args.model is None and found.path.is_dir():
        config = jeffnet.weights.read_config(found.path)  # says what is missing
    names = [checkpoint_model(args, config)] if config else model_names(args)
    pretrained = args.checkpoint is None if args.pretrained is None else args.pretrained
    own = config.get('options', {})
    if config and args.num_classes not in (None, own.get('num_classes')):
        raise ValueError(f'--num-classes {args.num_classes}: {args.checkpoint} has {own.get("num_classes")} classes')
    options = {**own, 'pretrained': pretrained, 'weights': found and found.path, 'dtype': args.dtype}
    options['use_ema'] = args.use_ema
    options['in_chans'] = args.in_chans or own.get('in_chans', 3)
    if not config and not pretrained:
        options['num_classes'] = args.num_classes
    settings = {
        'kind': args.preprocessing,
        'image_size': args.img_size if args.img_size is None or len(args.img_size) > 1 else args.img_size[0],
        'in_chans': options['in_chans'],
        **{name: getattr(args, name) for name in ('crop_pct', 'interpolation', 'mean', 'std')},
    }
    sources = [(name, config.get('preprocessing') or jeffnet.model_info(name)) for name in names]
    return [Job(name, options, Preprocessing.of(source, **settings)) for name, source in sources], config.get('classes')


def checkpoint_model(args: argparse.Namespace, config: dict) -> str:
    """The model of a checkpoint folder, which --model may repeat."""
    if config['model'] is None:
        raise ValueError(f'{args.checkpoint} holds the timm architecture {config["architecture"]}, unknown to jeffnet')
    if args.model is not None and jeffnet.model_info(args.model).name != config['model']:
        raise ValueError(f'--model {args.model}: {args.checkpoint} is a checkpoint of {config["model"]}')
    return config['model']


def model_names(args: argparse.Namespace) -> list[str]:
    """The models that --model names."""
    if args.model is None:
        raise ValueError('--model is missing: a name, a shell glob or all (jeffnet.list_models() gives the names)')
    if args.model != 'all' and not set(args.model) & set('*?['):
        return [jeffnet.model_info(args.model).name]
    published = True if args.checkpoint is None and args.pretrained is not False else None
    names = jeffnet.list_models(None if args.model == 'all' else args.model, pretrained=published)
    if not names:
        raise ValueError(f'--model {args.model}: no model{" with published weights" if published else ""} matches')
    if args.checkpoint and len(names) > 1:
        raise ValueError(f'--model {args.model}: {len(names)} models match, and --checkpoint has the weights of one')
    return names


def open_data(args: argparse.Namespace, pipeline: str, classes: list[str] | None) -> Any:
    """The labelled images of DATA: a ClassFolder, or a prepared TFDS set with the `tf` pipeline."""
    dataset = args.dataset
    if pipeline == 'tf' and dataset is None and (Path(args.data) / 'imagenet2012').is_dir():
        dataset = 'imagenet2012'
    if dataset is None:
        return ClassFolder.open(args.data, args.split, classes)
    if pipeline != 'tf':
        raise ValueError('--dataset reads a TFDS set, which only the tf_ scripts can; give a folder of class folders')
    name, _, split = dataset.partition(':')
    source = import_reader('tf').open_tfds(args.data, name, split or args.split or 'validation')
    if classes is not None and source.classes != classes:
        raise ValueError(f'{dataset} has other classes than the checkpoint, or the same in another order')
    return source


def validate(job: Job, framework: str, reader: ModuleType, source: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Runs one job, prints its line and returns its row; the seconds leave out building and compiling."""
    preprocessing = job.preprocessing
    print(f'{job.model} ({framework}, {args.dtype}) {preprocessing.describe()}', flush=True)
    batch_size = min(args.batch_size, len(source))
    with input_errors():
        predict, parameters = build(job, framework)
        zeros = np.zeros((batch_size, *preprocessing.image_size, preprocessing.in_chans), np.float32)
        check_classes(job.model, np.asarray(predict(zeros)).shape[-1], len(source.classes), args.num_classes)
    start = time.perf_counter()
    batches = reader.evaluation_batches(source, preprocessing, batch_size, args.workers)
    figures = evaluate(predict, batches, job.model)
    seconds = time.perf_counter() - start
    accuracy = f'top-1 {figures["top1"]:.3f} %, top-5 {figures["top5"]:.3f} %'
    speed = f'{len(source)} images, {seconds:.1f} s, {len(source) / seconds:.1f} images/s'
    print(f'{job.model} ({framework}): {accuracy}, {speed}', flush=True)
    return {
        'model': job.model, 'top1': round(figures['top1'], 4), 'top5': round(figures['top5'], 4), 'images': len(source),
        'img_size': 'x'.join(map(str, dict.fromkeys(preprocessing.image_size))), 'crop_pct': preprocessing.crop_pct,
        'interpolation': preprocessing.interpolation, 'preprocessing': preprocessing.kind,
        'parameters': parameters, 'seconds': round(seconds, 2),
    }  # fmt: skip


def build(job: Job, framework: str) -> tuple[Callable[[np.ndarray], Any], int]:
    """The compiled model, and the number of its trained parameters."""
    with jeffnet.weights.Incomplete():  # a fresh classifier, say: what follows would measure nothing
        model = jeffnet.create_model(job.model, framework, **job.options)
    module, variables = model if framework == 'linen' else (model, None)
    flat = jeffnet.flat_variables(module if variables is None else variables)
    parameters = sum(array.size for name, array in flat.items() if not name.endswith(('.mean', '.var')))
    return jeffnet.predictor(module, variables), parameters


def check_classes(model: str, logits: int, classes: int, asked: int | None) -> None:
    """Raises InputError if labels cannot be the model's; warns if the model has classes that the data has not."""
    if asked not in (None, logits):
        raise InputError(f'--num-classes {asked}: the weights of {model} are for {logits} classes')
    if classes > logits:
        raise InputError(f'the data has {classes} classes, but {model} knows only {logits}')
    if classes < logits:
        print(f'the data has {classes} classes, {model} {logits}: labels mean the first {classes}', file=sys.stderr)


def evaluate(predict: Callable[[np.ndarray], Any], batches: EvaluationBatches, title: str) -> dict[str, float]:
    """Top-1 and top-5 in percent over one pass; FloatingPointError if the model gives numbers that are none."""
    import jax
    from tqdm import tqdm

    from jeffnet.train.losses import cross_entropy
    from jeffnet.train.metrics import count, summary, zeros

    @jax.jit
    def add(totals, logits, labels, mask):
        return jax.tree.map(jax.numpy.add, totals, count(logits, labels, cross_entropy(logits, labels), mask))

    totals = zeros()
    for batch in tqdm(batches, desc=title, unit='batch', disable=None, leave=False):  # None: only on a terminal
        jax.block_until_ready(totals)  # at most one batch is computed while the next one is read
        totals = add(totals, predict(batch['image']), batch['label'], batch['mask'])
    figures = summary(totals)
    if int(totals['images']) != batches.size:
        raise RuntimeError(f'{title}: {int(totals["images"])} images were read of {batches.size}')
    if not math.isfinite(figures['loss']):
        raise FloatingPointError(f'{title}: the loss is {figures["loss"]}; try --dtype float32')
    return figures


def check_results_file(path: Path) -> None:
    """Raises InputError if rows cannot be added to this file."""
    if path.suffix not in ('.csv', '.json'):
        raise InputError(f'--results-file {path}: the name must end in .csv or .json')
    if not path.parent.is_dir():
        raise InputError(f'--results-file {path}: there is no folder {path.parent}')
    if path.suffix == '.csv' and path.exists() and path.read_text().partition('\n')[0] != ','.join(COLUMNS):
        raise InputError(f'--results-file {path}: exists with other columns; give another name')
    if path.suffix == '.json' and path.exists() and not is_list(path):
        raise InputError(f'--results-file {path}: exists and is not a list of rows; give another name')


def is_list(path: Path) -> bool:
    """Whether a file holds a list in JSON."""
    try:
        return isinstance(json.loads(path.read_text()), list)
    except json.JSONDecodeError:
        return False


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Adds a row to a .csv or .json file, at once: a failure of a later model loses nothing."""
    ordered = {column: row[column] for column in COLUMNS}
    if path.suffix == '.json':
        rows = json.loads(path.read_text()) if path.exists() else []
        path.write_text(json.dumps([*rows, ordered], indent=2) + '\n')
        return
    fresh = not path.exists()
    with path.open('a', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator='\n')
        if fresh:
            writer.writeheader()
        writer.writerow(ordered)
