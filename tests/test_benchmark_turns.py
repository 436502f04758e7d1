"""The harness of the benchmarks: sides in processes of their own that take turns."""

import argparse

import pytest

from benchmarks import (
    bench_cold_start,
    bench_compile,
    bench_inference,
    bench_train,
    bench_train_input,
    bench_weights,
    parity,
)
from benchmarks.table import output, parse, write_table
from benchmarks.turns import compare
from jeffnet.command_line import seconds

SERVE = """
import sys, time
from benchmarks.turns import Side, serve
pause = float(sys.argv[1])
def wait():
    time.sleep(pause)
    return pause
serve(Side({'wait': wait, 'nothing': lambda: float(sys.argv[2])}, {'pause': pause}))
"""


def test_sides_take_turns_and_one_that_does_not_start_is_named(capsys):
    commands = {
        'slow': ['-c', SERVE, '0.03', '1'],
        'broken': ['-c', 'raise ValueError("no such network")'],
        'fast': ['-c', SERVE, '0.01', 'nan'],
    }
    found = compare(commands, ['wait', 'nothing'], rounds=3, length=0.05)
    assert list(found) == ['slow', 'fast']
    assert found['slow'].facts['pause'] == found['slow'].values['wait'] == 0.03
    # A case takes at least its pause; how much more is up to the machine.
    assert found['slow'].seconds['wait'] >= 0.03 and found['fast'].seconds['wait'] >= 0.01
    assert found['slow'].finite and not found['fast'].finite
    assert found['slow'].peak_bytes > 1e6
    assert capsys.readouterr().err == 'broken: ended with status 1: ValueError: no such network\n'


def test_a_child_that_dies_between_turns_says_why_and_the_others_go_on(capsys):
    dying = SERVE.replace('time.sleep(pause)', "sys.stderr.write('out of luck\\n'); sys.exit(3)")
    dying = dying.replace(
        'def wait():\n', 'calls = []\ndef wait():\n    calls.append(1)\n    if len(calls) < 4: return 1.0\n'
    )
    commands = {'dying': ['-c', dying, '0', '1'], 'well': ['-c', SERVE, '0', '1']}
    assert list(compare(commands, ['wait'], rounds=5, length=0.0)) == ['well']
    assert capsys.readouterr().err == 'dying: ended with status 3: out of luck\n'


def test_a_table_without_rows_leaves_the_file_alone(tmp_path, capsys):
    path = tmp_path / 'table.csv'
    path.write_text('kept')
    assert write_table(path, []) == 1
    assert path.read_text() == 'kept' and 'nothing was measured' in capsys.readouterr().err


@pytest.mark.parametrize('place', ['.', 'file/table.csv'])
def test_a_table_that_cannot_be_written_is_told_at_once(tmp_path, place):
    (tmp_path / 'file').touch()
    with pytest.raises(argparse.ArgumentTypeError, match=str(tmp_path)):
        output(str(tmp_path / place))


@pytest.mark.parametrize('text', ['nan', 'inf', '-1', 'soon'])
def test_seconds_are_finite(text):
    assert seconds('0.5') == 0.5
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is not a finite number of seconds"):
        seconds(text)


@pytest.mark.parametrize(
    ('main', 'says'), [(bench_weights.main, 'unknown model'), (parity.main, "no name matches 'resnet_of_nobody'")]
)
def test_models_that_there_are_not(tmp_path, monkeypatch, capsys, main, says):
    out = tmp_path / 'table.csv'
    monkeypatch.setattr('sys.argv', ['benchmark', '--out', str(out), '--models', 'resnet_of_nobody'])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2 and says in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize(
    ('main', 'part'),
    [
        (bench_inference.main, ['--models', 'resnet50']),
        (bench_inference.main, ['--sides', 'timm']),
        (bench_train.main, ['--allocators', 'tuned']),
        (bench_compile.main, ['--models', bench_compile.MODELS[0]]),
        (bench_cold_start.main, ['--sides', 'timm']),
        (bench_train_input.main, ['--cases', '1']),
        (bench_weights.main, ['--models', 'pt_resnet50']),
        (parity.main, ['--models', 'pt_*']),
    ],
)
def test_a_part_of_the_rows_needs_a_file_of_its_own(tmp_path, monkeypatch, capsys, main, part):
    monkeypatch.chdir(tmp_path)  # where the usual table would be written
    monkeypatch.setattr('sys.argv', ['benchmark', *part])
    with pytest.raises(SystemExit) as stopped:
        main()
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and told.count('\n') == 1 and f'with {part[0]}, give --out' in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ([], 'usual.csv'),
        (['--models', 'b', 'a'], 'usual.csv'),  # all of them
        (['--models', 'a', '--out', 'own.csv'], 'own.csv'),
        (['--models', 'a', '--resume'], 'usual.csv'),
    ],
)
def test_the_usual_table_is_of_all_rows(tmp_path, monkeypatch, given, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('sys.argv', ['benchmark', *given])
    parser = argparse.ArgumentParser()
    parser.add_argument('--models', nargs='+', default=['a', 'b'])
    parser.add_argument('--resume', action='store_true')
    assert str(parse(parser, 'usual.csv').out) == expected
