"""What labels of the data mean to a model."""

import json

import numpy as np
import pytest

from jeffnet.data.imagenet import class_names, subset, synsets
from jeffnet.data.source import DataError
from jeffnet.validate.labels import Labels, read_class_map, readable_names


def test_wordnet_ids_mean_imagenet_classes_in_any_subset():
    names = [synsets()[i] for i in (7, 900, 3)]
    labels = Labels.match(names, 1000)
    assert labels.model_class.tolist() == [7, 900, 3] and labels.classes is None
    assert '3 of the 1000 classes are in the data' in labels.note
    assert Labels.match(synsets(), 1000).note is None


def test_numbers_mean_themselves_where_nothing_has_a_name():
    labels = Labels.match(['a', 'b'], 5)
    assert labels.model_class.tolist() == [0, 1] and 'labels mean the first 2' in labels.note
    assert Labels.match(['a', 'b'], 2).note is None
    # The ids of ImageNet are no better than other names to a model with other classes.
    assert Labels.match(synsets()[5:9], 10).model_class.tolist() == [0, 1, 2, 3]


def test_names_of_a_checkpoint_are_matched_in_any_order():
    assert Labels.match(['cat', 'ant'], ['ant', 'bee', 'cat']).model_class.tolist() == [2, 0]


def test_a_class_map_comes_first(tmp_path):
    for name, text in {
        'a.json': json.dumps({'x': 4, 'y': 2}), 'b.txt': 'x 4\ny 2\n', 'c.txt': 'u\nv\ny\nw\nx\n',
    }.items():  # fmt: skip
        (tmp_path / name).write_text(text)
        found = read_class_map(tmp_path / name)
        assert Labels.match(['x', 'y'], 5, found).model_class.tolist() == [4, 2]
    with pytest.raises(DataError, match='goes up to class 4, the model has 3'):
        Labels.match(['x', 'y'], 3, found)
    with pytest.raises(DataError, match="class map does not know 1 of 2 classes of the data, such as 'z'"):
        Labels.match(['x', 'z'], 5, found)


@pytest.mark.parametrize('content', ['', '[1, 2]', '{"a": "b"}', '{', '{"a": -1}', '{"a": 2.7}', '{}'])
def test_bad_class_maps_are_named(content, tmp_path):
    path = tmp_path / 'map.json'
    path.write_text(content)
    with pytest.raises(DataError, match=r'--class-map .*map\.json: expected names and numbers'):
        read_class_map(path)
    with pytest.raises(DataError, match='no such file'):
        read_class_map(tmp_path / 'none.txt')
    (tmp_path / 'twice.txt').write_text('a 1\na 2\n')
    with pytest.raises(DataError, match='names a class twice'):
        read_class_map(tmp_path / 'twice.txt')


def test_answers_can_be_restricted(tmp_path):
    names = [synsets()[i] for i in subset('imagenet-a')]
    labels = Labels.match(names, 1000, valid='imagenet-a')
    assert labels.classes.tolist() == subset('imagenet-a') == labels.model_class.tolist() and labels.note is None
    assert Labels.match(names, 1000, valid='present').classes.tolist() == subset('imagenet-a')
    (tmp_path / 'v.txt').write_text(f'7\n{synsets()[3]}\n')
    assert Labels.match([synsets()[3]], 1000, valid=str(tmp_path / 'v.txt')).classes.tolist() == [3, 7]


@pytest.mark.parametrize(
    ('data', 'model', 'valid', 'says'),
    [
        (['a', 'b', 'c'], 2, None, 'the data has 3 classes, but the model knows only 2'),
        (['a', 'z'], ['a', 'b'], None, "the model does not know 1 of 2 classes of the data, such as 'z'"),
        ([*synsets()[:3], 'n99999999'], 1000, None, "ImageNet does not know 1 of 4 classes .*'n99999999'"),
        (['a'], 10, 'imagenet-a', 'needs a model of ImageNet, this one has 10 classes'),
        (synsets()[:2], 1000, 'imagenet-a', 'leaves out class 0, which is in the data'),
        (['a'], 10, 'nowhere.txt', r'nowhere\.txt: no such file; allowed: imagenet-a, imagenet-r, present'),
        (['a'], 10, __file__, 'expected one class number or WordNet id per line'),
    ],
)
def test_what_does_not_fit_is_said(data, model, valid, says):
    with pytest.raises(DataError, match=says):
        Labels.match(data, model, valid=valid)


def test_names_for_people():
    assert readable_names(synsets(), 1000) == class_names()
    assert readable_names(['x'], ['a', 'b']) == ['a', 'b'] and readable_names(['x'], 7) == ['x']
    assert np.unique(class_names()).size == 1000
