"""The results file: timm's columns first, a row at a time, and a rerun that does not repeat a measurement."""

import csv
import json

import numpy as np
import pytest

import jeffnet
from jeffnet.validate.results import COLUMNS, ResultsFile, weights_hash

ROW = {name: f'v{i}' for i, name in enumerate(COLUMNS)}


def test_timms_columns_come_first():
    # The head of what timm's validate.py writes (1.0.31).
    assert COLUMNS[:9] == [
        'model', 'top1', 'top1_err', 'top5', 'top5_err', 'param_count', 'img_size', 'crop_pct', 'interpolation',
    ]  # fmt: skip


@pytest.mark.parametrize('suffix', ['csv', 'json'])
def test_rows_are_added_and_found_again(suffix, tmp_path):
    path = tmp_path / f'rows.{suffix}'
    file = ResultsFile(path)
    assert not file.has(ROW)
    file.add(ROW)
    file.add({**ROW, 'model': 'other', 'published_top1': None, 'top1': 77.25})
    again = ResultsFile(path)
    assert again.has(ROW) and again.has(ROW, ROW['weights']) and not again.has(ROW, 'others')
    assert again.has({**ROW, 'model': 'other', 'seconds': 3}) and not again.has({**ROW, 'img_size': 'x'})
    again.add({**ROW, 'model': 'third'})
    rows = json.loads(path.read_text()) if suffix == 'json' else list(csv.DictReader(path.read_text().splitlines()))
    assert [row['model'] for row in rows] == ['v0', 'other', 'third'] and list(rows[0]) == COLUMNS
    assert str(rows[1]['top1']) == '77.25'


def test_a_row_cut_off_by_a_crash_is_measured_again(tmp_path):
    path = tmp_path / 'rows.csv'
    ResultsFile(path).add(ROW)
    ResultsFile(path).add({**ROW, 'model': 'other'})
    whole = path.read_text()
    path.write_text(whole[:-20])
    file = ResultsFile(path)
    assert file.has(ROW) and not file.has({**ROW, 'model': 'other'})
    file.add({**ROW, 'model': 'other'})
    assert path.read_text() == whole
    path.write_text(whole[:-1])  # complete, but for the end of the line, which an editor may take
    assert ResultsFile(path).has({**ROW, 'model': 'other'}) and path.read_text() == whole
    path.write_text(whole[:10])  # cut off in the head
    ResultsFile(path).add(ROW)
    assert path.read_text() == '\n'.join(whole.split('\n')[:2]) + '\n'


@pytest.mark.parametrize(
    ('name', 'content', 'says'),
    [
        ('rows.txt', None, 'must end in .csv or .json'),
        ('none/rows.csv', None, 'there is no folder'),
        ('rows.csv', 'a,b\n1,2\n', 'exists with other columns'),
        ('rows.csv', 'a,b\n1,2\n3,4', 'exists with other columns'),
        ('rows.csv', 'model,top1,\xe9', 'exists with other columns'),
        ('rows.json', '{}', 'is not a list of such rows'),
        ('rows.json', '[{"a": 1}]', 'is not a list of such rows'),
        ('rows.json', '[', 'is not a list of such rows'),
    ],
)
def test_files_that_cannot_take_rows(name, content, says, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=says):
        ResultsFile(tmp_path / name)
    if content is not None:
        assert (tmp_path / name).read_text() == content


def test_the_hash_is_of_the_weights_not_of_the_framework():
    options = {'num_classes': 3, 'seed': 5}
    linen = jeffnet.flat_variables(jeffnet.create_model('pt_mnasnet_small', **options)[1])
    others = [
        jeffnet.flat_variables(jeffnet.create_model('pt_mnasnet_small', framework, **options))
        for framework in ('objax', 'nnx')
    ]
    assert {weights_hash(linen)} == {weights_hash(other) for other in others}
    name = next(iter(linen))
    changed = {**linen, name: np.nextafter(np.asarray(linen[name]), np.float32(9))}
    assert weights_hash(changed) != weights_hash(linen) != weights_hash({**linen, 'more': np.zeros(1)})
