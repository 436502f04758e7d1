"""The pages on models and on Keras, run: their Python line by line, the commands parsed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jeffnet.weights import keras_command

DOCS = Path(__file__).parents[1] / 'docs'


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    found = re.findall(r'^```(\w*)\n(.*?)^```$', (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    return [text for of, text in found if of == language]


@pytest.mark.parametrize('page, assertions', [('keras.md', 7), ('models.md', 3)])
def test_the_lines_of_python(page, assertions, tmp_path):
    code = "import os; os.environ['KERAS_BACKEND'] = 'numpy'\n" + '\n'.join(blocks(page, 'python'))
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert code.count('assert ') >= assertions


def test_the_commands_are_those_of_the_script():
    commands = [line for block in blocks('keras.md', '') for line in block.splitlines()]
    assert len(commands) == 5
    for command in commands:
        program, script, *arguments = shlex.split(command)
        assert (program, script) == ('python', 'translate_keras.py')
        keras_command.named(keras_command.parser().parse_args(arguments).model)
