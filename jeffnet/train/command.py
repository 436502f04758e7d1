"""The command line of the train scripts."""

import re
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from jeffnet.command_line import stop
from jeffnet.data.folder import DataError
from jeffnet.train.config import Config, unknown_key
from jeffnet.train.loop import run
from jeffnet.train.plan import prepare


def main(pipeline: str) -> None:
    """Trains with the reader `tf` or `pt` as the command line says, and ends the program.

    Exit status 0: done; 2: bad flags, configuration or data, one line on standard error; 1: failed while running;
    130: interrupted.
    """
    config = config_flags.DEFINE_config_file('config', help_string='Configuration; --config.KEY=VALUE changes a key.')
    app.run(lambda _: train(config.value, pipeline), flags_parser=parse)


def parse(arguments: list[str]) -> list[str]:
    """Parses the flags, or ends the program with status 2."""
    try:
        rest = flags.FLAGS(arguments)
        if flags.FLAGS.config is None:
            sys.exit(stop('--config FILE is missing; train_configs/ has some', 2))
        flags.FLAGS.config.keys()  # a file that cannot be read fails here, at its first use
    except flags.Error as error:
        sys.exit(stop(error, 2))
    except OSError as error:
        sys.exit(stop(f'--config: {str(error).splitlines()[-1]}', 2))
    except SyntaxError as error:
        sys.exit(stop(f'--config: {error.filename}, line {error.lineno}: {error.msg}', 2))
    except (AttributeError, KeyError) as error:
        if 'get_config' in str(error):
            sys.exit(stop('--config: the file defines no function get_config(); see train_configs/', 2))
        # Otherwise it is of a --config.KEY that the configuration has not.
        sys.exit(stop(unknown_key(re.findall(r'\w+', str(error.args[0]))[0]), 2))
    if len(rest) > 1:
        sys.exit(stop(f'unexpected argument {rest[1]!r}; a key is changed by --config.KEY=VALUE', 2))
    if flags.FLAGS['verbosity'].using_default_value:
        flags.FLAGS.verbosity = logging.WARNING  # what jax tells at level info is of no use here
    return rest


def train(config: Config, pipeline: str) -> int:
    """Prepares and runs; returns the exit status."""
    try:
        plan = prepare(config, pipeline)
    except ValueError as error:
        return stop(error, 2)
    try:
        run(plan)
    except DataError as error:  # a file that is no image shows only when it is read
        return stop(error, 2)
    except FloatingPointError as error:
        return stop(error, 1)
    except KeyboardInterrupt:
        return stop('interrupted; the last checkpoint, if there is one, is whole', 130)
    return 0
