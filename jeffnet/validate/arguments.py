"""The arguments of all validate scripts."""

import argparse
import errno
import os
from pathlib import Path
from typing import Any

import jeffnet
from jeffnet import distributed
from jeffnet.command_line import Parser, at_least
from jeffnet.data.opening import KINDS as DATA_KINDS
from jeffnet.data.preprocessing import CROP_MODES, INTERPOLATIONS, KINDS
from jeffnet.data.source import BAD_IMAGE
from jeffnet.validate.labels import SUBSETS


def parser(framework: str = 'linen') -> Parser:
    """The arguments of all validate scripts."""
    p = Parser(description='Top-1 and top-5 accuracy of models on labelled images.', allow_abbrev=False)
    p.add_argument(
        'data',
        metavar='DATA',
        nargs='?',
        default='',
        help='folder of class folders or parent of its validation/, tar files, ...',
    )
    p.add_argument('--framework', choices=jeffnet.FRAMEWORKS, help=f'default: {framework}')
    add_model_arguments(p.add_argument_group('model'))
    add_data_arguments(p.add_argument_group('data'))
    add_preprocessing_arguments(p.add_argument_group('preprocessing', "each by default the model's own"))
    add_run_arguments(p.add_argument_group('run and output'))
    distributed.add_arguments(p)
    return p


def add_model_arguments(p: Any) -> None:
    """Which weights."""
    p.add_argument('--model', help="a name, a shell glob, or 'all'; not needed with a checkpoint folder")
    p.add_argument('--checkpoint', metavar='DIR', help='a checkpoint folder, a weights file, or hf-hub:owner/repo')
    p.add_argument('--weights', metavar='FILE', help='the same, in the word of create_model')
    p.add_argument(
        '--ema', '--use-ema', action=argparse.BooleanOptionalAction, help='averaged weights; default: if there'
    )
    p.add_argument('--pretrained', action=argparse.BooleanOptionalAction, help='default: unless weights are given')
    p.add_argument(
        '--num-classes', type=at_least(1), metavar='N', help='needed if the weights are not for 1000 classes'
    )
    p.add_argument('--in-chans', type=at_least(1), metavar='N', help='1: grey images, 3: colour')


def add_data_arguments(p: Any) -> None:
    """Which images, and what their labels mean."""
    p.add_argument('--dataset', metavar='KIND', help=f'{", ".join(DATA_KINDS)} or NAME[:SPLIT]; default: as it looks')
    p.add_argument('--split', help='default: validation')
    p.add_argument('--class-map', type=Path, metavar='FILE', help='class of each class name: .json, or lines of text')
    p.add_argument('--valid-labels', metavar='WHICH', help=f'answers count among {", ".join(SUBSETS)} or a FILE only')
    p.add_argument('--real-labels', type=Path, metavar='FILE', help='real.json of ImageNet-ReaL')
    p.add_argument('--on-bad-image', choices=BAD_IMAGE, default=BAD_IMAGE[0], help=f'default: {BAD_IMAGE[0]}')


def add_preprocessing_arguments(p: Any) -> None:
    """What overrides the model's own transform."""
    p.add_argument('--preprocessing', choices=KINDS, help='pil: as timm; tf: as the TensorFlow releases')
    p.add_argument('--img-size', type=at_least(1), nargs='+', metavar='N', help='one side, or height and width')
    p.add_argument('--crop-pct', type=float, metavar='SHARE')
    p.add_argument('--crop-mode', choices=CROP_MODES, help='squash: resize to both sides, whatever the shape')
    p.add_argument('--interpolation', choices=INTERPOLATIONS)
    p.add_argument('--mean', type=float, nargs='+', metavar='X', help='of values in 0..1')
    p.add_argument('--std', type=float, nargs='+', metavar='X')


def add_run_arguments(p: Any) -> None:
    """How it is computed, and what is written."""
    p.add_argument('--batch-size', type=at_least(1), default=64, metavar='N', help='of each process; default: 64')
    p.add_argument('--dtype', choices=('float32', 'bfloat16', 'float16'), default='float32', help='of the computation')
    p.add_argument('--half-precision', action='store_const', dest='dtype', const='bfloat16', help='--dtype bfloat16')
    p.add_argument('--no-jit', action='store_true', help='operation by operation, on one device; for debugging')
    p.add_argument(
        '--fuse',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='batch norm folded into convolutions; default: yes',
    )
    p.add_argument('--workers', type=at_least(0), metavar='N', help='that read images; default: as many as pay off')
    p.add_argument(
        '--results-file', type=Path, metavar='FILE', help='.csv or .json; models that are in it are left out'
    )
    p.add_argument('--predictions', type=Path, metavar='FILE', help='.csv of the answers on every image; of one model')
    p.add_argument('--report', type=Path, metavar='DIR', help='an HTML page with charts and the worst errors')


def check_outputs(args: argparse.Namespace) -> None:
    """Raises ValueError for outputs that could not be written."""
    if args.predictions and (args.predictions.suffix != '.csv' or not args.predictions.parent.is_dir()):
        raise ValueError(f'--predictions {args.predictions}: expected a .csv file in a folder that exists')
    if args.report and args.report.exists() and not args.report.is_dir():
        raise ValueError(f'--report {args.report}: is a file; give a folder, or a name for a new one')
    for path, make in ((args.predictions, touch), (args.report, make_folder)):
        try:
            if path:
                make(path)
        except OSError as error:
            raise ValueError(f'{path}: cannot be written ({error.strerror})') from error


def touch(path: Path) -> None:
    """Opens a file for writing, and leaves it as it is."""
    path.open('a').close()


def make_folder(path: Path) -> None:
    """Makes a folder in which a file can be written."""
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
