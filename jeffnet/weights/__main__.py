"""Looks into weights files, converts, proves and fetches them.

    python -m jeffnet.weights inspect FILE
    python -m jeffnet.weights convert FILE --model NAME --output FILE.safetensors
    python -m jeffnet.weights verify FILE --model NAME --against timm
    python -m jeffnet.weights download NAME...

FILE is any file, folder or `hf-hub:owner/repo` that `create_model(weights=...)` takes. Exit status 0: done; 2: bad
arguments or input, one line on standard error; 1: failed while running, or verified and found different.
"""

import argparse
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import jeffnet
from jeffnet.command_line import InputError, Parser, at_least, guarded, input_errors
from jeffnet.models.table import list_models
from jeffnet.weights import Incomplete, files, judges, recognise, source


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    return guarded(lambda: run(argv))


def run(argv: list[str] | None) -> int:
    """Parses the command line and runs its command."""
    args = parser().parse_args(argv)
    return args.run(args)


def parser() -> Parser:
    """The commands and their arguments."""
    p = Parser(prog='python -m jeffnet.weights', description='Looks into weights files, converts and proves them.')
    commands = p.add_subparsers(title='commands', required=True, metavar='COMMAND', parser_class=Parser)
    one = commands.add_parser('inspect', help='what a file holds, and which models it fits')
    one.add_argument('file', metavar='FILE')
    one.set_defaults(run=inspect)
    one = commands.add_parser('convert', help="write a file or folder in timm's names and layout")
    add_network(one)
    one.add_argument('--output', type=Path, required=True, help='FILE.safetensors, or a folder (with a config.json)')
    one.set_defaults(run=convert)
    one = commands.add_parser('verify', help='load a file strictly, and compare logits with a reference')
    add_network(one)
    one.add_argument('--against', choices=judges.JUDGES, help='the reference implementation, given the same arrays')
    one.set_defaults(run=verify)
    one = commands.add_parser('download', help="fetch published weights into the hub's cache")
    one.add_argument('names', nargs='+', metavar='NAME', help='a model name, a shell glob, or hf-hub:owner/repo')
    one.set_defaults(run=download)
    return p


def add_network(p: argparse.ArgumentParser) -> None:
    """The arguments that say which network a file is of."""
    p.add_argument('file', metavar='FILE')
    p.add_argument('--model', metavar='NAME', help='not needed if the file or folder says it')
    p.add_argument('--num-classes', type=at_least(1), metavar='N', help='as the file has them, if not as published')
    p.add_argument('--in-chans', type=at_least(1), metavar='N', help='default: 3; others adapt the first convolution')
    p.add_argument('--use-ema', action=argparse.BooleanOptionalAction, default=True, help='averaged weights, if there')


def inspect(args: argparse.Namespace) -> int:
    """Prints what is in a file: format, sizes, types, models that it fits, values that are no numbers, all arrays."""
    with input_errors():
        found = source.locate(args.file)
        file = files.read(found.path)
        files.check_values(file)
        fits = recognise.models_of(file)
        bad = [name for name, array in file.arrays.items() if not np.isfinite(array.read().astype(np.float32)).all()]
    sizes = Counter()
    for array in file.arrays.values():
        sizes[array.dtype.name] += math.prod(array.shape)
    print(f'{file.path}: names and axes of {LAYOUTS[file.layout]}')
    print(f'  {len(file.arrays)} arrays: {", ".join(f"{n:,} {kind} values" for kind, n in sorted(sizes.items()))}')
    for key, value in sorted(file.metadata.items()):
        print(f'  {key}: {value}')
    print(f'  model named in it: {found.model or "none"}')
    print(f'  models of the same arrays: {", ".join(fits) or "none"}')
    print(f'  NaN or infinite values: {", ".join(bad) or "none"}')
    width = max(map(len, file.arrays), default=0)
    for name, array in file.arrays.items():
        print(f'{name:<{width}}  {array.dtype.name:<8}  {"x".join(map(str, array.shape)) or "scalar"}')
    return 0


LAYOUTS = {
    'jeffnet': 'jeffnet', 'pytorch': 'PyTorch (timm, torchvision)', 'predecessor': "efficientnet-jax's zoo",
    'tensorflow': 'TensorFlow', 'keras': 'Keras', 'keras places': 'Keras, without names of layers',
}  # fmt: skip


def convert(args: argparse.Namespace) -> int:
    """Writes the weights of a file in timm's names and layout."""
    with input_errors():
        module, variables, found = load(args)
        extras = {key: found.config.get(key) for key in ('preprocessing', 'classes', 'metrics')}
        written = jeffnet.weights.save_weights(module, args.output, variables, **extras)
    print(f'{written}: {module.variant}, {len(jeffnet.flat_variables(variables))} arrays')
    return 0


def verify(args: argparse.Namespace) -> int:
    """Loads a file strictly; with `--against`, compares the logits with those of a reference implementation."""
    with input_errors():
        if args.against:
            judges.prepare()
        module, variables, found = load(args)
    flat = jeffnet.flat_variables(variables)
    print(f'{found.path} fits {module.variant}: {len(flat)} arrays, none missing, unexpected or misshapen')
    if not args.against:
        return 0
    with input_errors():
        comparison = judges.compare(args.against, found.path, module, variables, args.use_ema)
    print(comparison.describe())
    return 0 if comparison.inside else 1


def load(args: argparse.Namespace) -> tuple[Any, dict, source.Source]:
    """The Linen module and variables of a file, whole; anything that stays fresh is an error."""
    found = source.locate(args.file)
    name = args.model or found.model
    if name is None:
        raise InputError(f'--model is missing: {args.file} does not say which model it is of (inspect shows what fits)')
    own = found.config.get('options', {})
    options = {'num_classes': args.num_classes or own.get('num_classes'), 'in_chans': args.in_chans}
    given = {key: value for key, value in options.items() if value is not None}
    with Incomplete():
        module, variables = jeffnet.create_model(name, weights=found.path, use_ema=args.use_ema, **given)
    return module, variables, found


def download(args: argparse.Namespace) -> int:
    """Fetches weights into the cache; what fails is told, and does not keep the others from being fetched."""
    with input_errors():
        wanted = [name for given in args.names for name in matching(given)]
    failed = False
    for name in wanted:
        try:
            place = source.locate(name).path if source.is_source(name) else source.pinned(jeffnet.model_info(name))
            print(f'{name}: {place}', flush=True)
        except (OSError, ValueError) as error:
            print(f'{name}: {" ".join(str(error).split())}', file=sys.stderr)
            failed = True
    return 2 if failed else 0


def matching(name: str) -> list[str]:
    """The names that an argument of `download` stands for."""
    if source.is_source(name):
        return [name]
    if not set(name) & set('*?['):
        return [jeffnet.model_info(name).name]
    names = list_models(name, pretrained=True)
    if not names:
        raise InputError(f'{name}: no model with published weights matches')
    return names


if __name__ == '__main__':
    sys.exit(main())
