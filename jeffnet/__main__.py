"""The command `jeffnet`, or `python -m jeffnet`: what the scripts of the repository do, wherever it is installed.

    jeffnet models 'tf_efficientnet_b*'
    jeffnet validate DATA --model tf_efficientnet_b0_ns [--reader pt] [--framework objax]
    jeffnet train --config finetune --config.data_dir DIR [--reader pt] [--framework nnx]
    jeffnet weights inspect FILE
    jeffnet doctor

`jeffnet COMMAND --help` lists the arguments. `--config` takes a file, or the name of a recipe that comes along.
"""

import argparse
import importlib
import sys

import jeffnet
from jeffnet.command_line import InputError, Parser, guarded
from jeffnet.data import EXTRAS


def main() -> int:
    """Runs one command; returns the exit status, as each of them documents it."""
    return guarded(lambda: run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Hands what follows the command's name to the command."""
    commands = {'models': models, 'validate': validate, 'train': train, 'weights': weights, 'doctor': doctor}
    if argv[:1] == ['--version']:
        print(f'jeffnet {jeffnet.__version__}')
        return 0
    if not argv or argv[0] in ('-h', '--help'):
        print((__doc__ or '').strip())
        return 0 if argv else 2
    if argv[0] not in commands:
        raise InputError(f'{argv[0]!r} is no command; there are {", ".join(commands)}')
    sys.argv[0] = f'jeffnet {argv[0]}'  # as usage and errors are to name it
    return commands[argv[0]](argv[1:])


def models(argv: list[str]) -> int:
    """Lists models with what is known of them."""
    parser = Parser(prog='jeffnet models', description='Lists models.')
    parser.add_argument('pattern', nargs='?', help="a shell glob, such as 'tf_efficientnet_b*'")
    parser.add_argument('--pretrained', action='store_true', help='only those with published weights')
    args = parser.parse_args(argv)
    names = jeffnet.list_models(args.pattern, pretrained=args.pretrained or None)
    if not names:
        raise InputError(f'no model matches {args.pattern}')
    print(f'{"name":<34}{"parameters":>12}{"multiply-adds":>15}  {"image":<10}{"top-1 %":>7}  weights')
    for name in names:
        info = jeffnet.model_info(name)
        size, top1 = 'x'.join(map(str, info.input_size)), '' if info.top1 is None else f'{info.top1:.2f}'
        counts = f'{info.parameters / 1e6:>10.2f} M{info.multiply_adds / 1e9:>13.2f} G'
        print(f'{name:<34}{counts}  {size:<10}{top1:>7}  {(info.weights or "").rpartition("/")[2]}'.rstrip())
    return 0


def validate(argv: list[str]) -> int:
    """Validates, as the scripts `{tf,pt}_{linen,objax,nnx}_validate.py`."""
    from jeffnet.validate import main

    chosen, rest = choice('validate', argv)
    return main(chosen.framework, chosen.reader, rest)


def train(argv: list[str]) -> int:
    """Trains, as the scripts `{tf,pt}_{linen,objax,nnx}_train.py`."""
    from jeffnet.train.command import main

    chosen, rest = choice('train', argv)
    sys.argv[1:] = rest
    main(chosen.reader, chosen.framework)
    return 0


def choice(command: str, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The reader and the framework that a command is to use, and its other arguments."""
    parser = Parser(prog=f'jeffnet {command}', add_help=False, allow_abbrev=False)
    parser.add_argument('--reader', choices=tuple(EXTRAS), default='tf')
    parser.add_argument('--framework', choices=jeffnet.FRAMEWORKS, default='linen')
    if {'-h', '--help'} & set(argv):  # what follows is the help of the command itself
        print(f'{parser.format_usage()}which {command}s with the reader and the framework asked for; then\n')
    return parser.parse_known_args(argv)


def weights(argv: list[str]) -> int:
    """Looks into weights files, converts, proves and fetches them."""
    return importlib.import_module('jeffnet.weights.__main__').main(argv)


def doctor(argv: list[str]) -> int:
    """Tells what works on this machine."""
    return importlib.import_module('jeffnet.doctor.__main__').main(argv)


if __name__ == '__main__':
    sys.exit(main())
