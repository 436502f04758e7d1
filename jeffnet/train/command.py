"""The command line of the train scripts."""

import argparse
import contextlib
import os
import re
import sys
import traceback
from pathlib import Path

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from jeffnet import distributed, machine
from jeffnet.command_line import stop
from jeffnet.data.source import DataError
from jeffnet.train import recipes
from jeffnet.train.config import Config, unknown_key
from jeffnet.train.loop import run
from jeffnet.train.plan import prepare

EPILOG = '--config.KEY=VALUE changes a key of the configuration; jeffnet/train/config.py has them all.'


def main(pipeline: str, framework: str) -> None:
    """Trains with the reader `tf` or `pt` as the command line says, and ends the program.

    Exit status 0: done, or stopped as asked with a checkpoint; 2: bad flags, configuration or data, one line on
    standard error; 1: failed while running; 130: interrupted twice.
    """
    own, rest = arguments().parse_known_args()
    rest = recipes.found(rest)
    config = config_flags.DEFINE_config_file('config', help_string='Configuration; --config.KEY=VALUE changes a key.')
    app.run(lambda _: train(config.value, pipeline, framework, own), argv=[sys.argv[0], *rest], flags_parser=parse)


def arguments() -> argparse.ArgumentParser:
    """The arguments that are not keys of the configuration."""
    parser = argparse.ArgumentParser(
        usage='%(prog)s --config FILE|RECIPE [--config.KEY=VALUE ...] [--resume auto]',
        epilog=EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument(
        '--resume', choices=('auto', 'never'), default='never',
        help='auto: go on from the last checkpoint in config.output_dir if there is one (%(default)s)',
    )  # fmt: skip
    distributed.add_arguments(parser)
    return parser


def parse(arguments: list[str]) -> list[str]:
    """Parses the flags of the configuration, or ends the program with status 2."""
    try:
        rest = flags.FLAGS(arguments)
        if not flags.FLAGS['config'].present:
            sys.exit(stop(f'--config FILE is missing; recipes that come along: {", ".join(recipes.names())}', 2))
        if flags.FLAGS.config is None:
            sys.exit(stop('--config: get_config() of this file returns None, and not a configuration', 2))
        flags.FLAGS.config.keys()  # a file that cannot be read fails here, at its first use
    except SyntaxError as error:
        sys.exit(stop(f'--config: {error.filename}, line {error.lineno}: {error.msg}', 2))
    except Exception as error:
        told = fault_of_file(error) or fault_of_flag(error)
        if told is None:
            raise
        sys.exit(stop(told, 2))
    if len(rest) > 1:
        sys.exit(stop(f'unexpected argument {rest[1]!r}; a key is changed by --config.KEY=VALUE', 2))
    if flags.FLAGS['verbosity'].using_default_value:
        flags.FLAGS.verbosity = logging.WARNING  # what jax tells at level info is of no use here
    return rest


def fault_of_file(error: BaseException | None) -> str | None:
    """What is wrong in the file of a configuration, if the error was raised by what it calls."""
    libraries = [Path(str(module.__file__)).parent for module in (flags, ml_collections)]
    while error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith('<')]
        loaders = [i for i, frame in enumerate(frames) if frame.filename == config_flags.config_flags.__file__]
        called = frames[loaders[-1] + 1 :] if loaders else []
        if called and not {*libraries} & {*Path(called[0].filename).parents}:
            place = [frame for frame in called if frame.filename == called[0].filename][-1]
            return f'--config: {place.filename}, line {place.lineno}: {type(error).__name__}: {error}'
        error = error.__context__  # absl and ml_collections raise errors again, without their place
    return None


def fault_of_flag(error: Exception) -> str | None:
    """What is wrong with the flags of the configuration; None for what they cannot cause."""
    if isinstance(error, flags.Error):
        return str(error)
    if isinstance(error, (AttributeError, KeyError)):
        if 'get_config' in str(error):
            return '--config: the file defines no function get_config(); see train_configs/'
        text = str(error.args[0])  # of --config.KEY: the key, or a sentence that ends in it
        return unknown_key(re.findall(r'[\w.]+', text)[-1 if 'lookup: ' in text else 0])
    if isinstance(error, (OSError, TypeError, ValueError)):
        return f'--config: {str(error).splitlines()[-1]}'
    return None


def train(config: Config, pipeline: str, framework: str, own: argparse.Namespace) -> int:
    """Prepares and runs; returns the exit status."""
    machine.set_up()
    try:
        distributed.start(own)
    except ValueError as error:
        return stop(error, 2)
    except (RuntimeError, ConnectionError) as error:
        return stop(error, 1)
    try:
        status = checked_run(config, pipeline, framework, own.resume)
    except Exception as error:
        if own.num_processes in (None, 1) and not own.distributed:
            raise
        cause = (str(error).splitlines() or [type(error).__name__])[0][:300]
        with contextlib.suppress(OSError):
            Path(config.output_dir, f'error-{distributed.rank()}.txt').write_text(traceback.format_exc())
        status = stop(
            f'process {distributed.rank()}: failed, or another process ended ({cause}); go on from the last checkpoint '
            'with --resume auto, on any number of processes', 1
        )  # fmt: skip
    if status and distributed.several():
        # Not by the usual way, on which JAX would wait for the others, and they for this one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def checked_run(config: Config, pipeline: str, framework: str, resume: str) -> int:
    """Prepares and runs; returns the exit status of what is expected to go wrong."""
    try:
        plan = prepare(config, pipeline, framework, resume)
    except ValueError as error:
        return stop(error, 2)
    try:
        run(plan)
    except DataError as error:  # a file that is no image shows only when it is read
        return stop(error, 2)
    except FloatingPointError as error:
        return stop(error, 1)
    except OSError as error:
        return stop(error, 1)
    except KeyboardInterrupt:
        return stop('interrupted; the last checkpoint, if there is one, is whole: go on with --resume auto', 130)
    return 0
