"""The page on Keras, run: its Python line by line, its commands parsed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from jeffnet.weights import keras_command

PAGE = (Path(__file__).parents[1] / 'docs' / 'keras.md').read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [text for of, text in re.findall(r'^```(\w*)\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL) if of == language]


def test_the_lines_of_python(tmp_path):
    code = "import os; os.environ['KERAS_BACKEND'] = 'numpy'\n" + '\n'.join(blocks('python'))
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert code.count('assert ') >= 7


def test_the_commands_are_those_of_the_script():
    commands = [line for block in blocks('') for line in block.splitlines()]
    assert len(commands) == 5
    for command in commands:
        program, script, *arguments = shlex.split(command)
        assert (program, script) == ('python', 'translate_keras.py')
        keras_command.named(keras_command.parser().parse_args(arguments).model)
