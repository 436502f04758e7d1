"""The strict merge: names and shapes, one error for all faults; what is adapted and what is reported."""

import json
import logging

import numpy as np
import pytest
import torch
from timm.layers import resample_abs_pos_embed

import jeffnet
from benchmarks import torch_reference
from jeffnet import weights
from jeffnet.weights import adapt
from tests.conftest import SMALL as NAME


def test_one_error_lists_every_missing_unexpected_and_misshapen_array(state, write, tmp_path):
    bad = {
        **state,
        'extra.weight': np.zeros(3, np.float32),
        '../escape.weight': np.ones(1),
        'bn1.bias': np.zeros(9, np.float32),
    }
    del bad['conv_head.weight'], bad['blocks.1.0.bn1.running_var']
    path = write(bad, tmp_path / 'bad.safetensors')
    with pytest.raises(ValueError) as caught:
        jeffnet.create_model(NAME, weights=path)
    head, *listed = str(caught.value).splitlines()
    assert head.startswith(
        f'{path} does not fit {NAME}: 2 missing from the file, 2 unexpected in the file, 1 of another'
    )
    assert 'strict=False' in head
    assert listed == [
        '  missing from the file:', '    blocks_1_0.bn1.var', '    conv_head.kernel',
        '  unexpected in the file:', '    ../escape.weight', '    extra.weight',
        '  of another shape:', '    bn1.bias: (9,) in the file, (8,) in the model',
    ]  # fmt: skip


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_not_strict_loads_what_fits_and_logs_the_rest(framework, state, write, tmp_path, caplog):
    bad = dict(state)
    del bad['conv_head.weight']
    made = jeffnet.create_model(NAME, framework, weights=write(bad, tmp_path / 'bad.safetensors'), strict=False)
    flat = jeffnet.flat_variables(made[1] if framework == 'linen' else made)
    np.testing.assert_array_equal(flat['classifier.bias'], state['classifier.bias'])
    fresh = jeffnet.flat_variables(jeffnet.create_model(NAME)[1])
    np.testing.assert_array_equal(flat['conv_head.kernel'], fresh['conv_head.kernel'])
    assert 'conv_head.kernel' in caplog.text


def test_another_number_of_classes_gives_a_fresh_classifier_and_says_so(state, write, tmp_path, caplog):
    path = write(state, tmp_path / 'model.safetensors')
    flat = jeffnet.flat_variables(jeffnet.create_model(NAME, weights=path, num_classes=4)[1])
    assert flat['classifier.kernel'].shape == (1280, 4)
    np.testing.assert_array_equal(flat['conv_stem.kernel'], state['conv_stem.weight'].transpose(2, 3, 1, 0))
    assert 'fresh classifier of 4 classes' in caplog.text and caplog.records[0].levelno == logging.WARNING


def test_a_file_of_other_classes_needs_the_number(state, write, tmp_path):
    other = {**state, 'classifier.weight': np.zeros((6, 1280), np.float32), 'classifier.bias': np.zeros(6, np.float32)}
    path = write(other, tmp_path / 'model.safetensors')
    with pytest.raises(ValueError, match='its classifier has 6 classes: pass num_classes=6'):
        jeffnet.create_model(NAME, weights=path)
    flat = jeffnet.flat_variables(jeffnet.create_model(NAME, weights=path, num_classes=6)[1])
    assert not np.any(flat['classifier.kernel'])


@pytest.mark.parametrize('options', [{'num_classes': 0}, {'num_classes': -1}, {'features_only': True}])
@pytest.mark.parametrize('name', [NAME, 'tf_mobilenetv3_small_minimal_100'])
def test_the_head_of_a_file_may_stay_unused(name, options, tmp_path):
    path = torch_reference.save_weights(torch_reference.reference(name), tmp_path / 'model.safetensors')
    flat = jeffnet.flat_variables(jeffnet.create_model(name, weights=path, **options)[1])
    assert 'classifier.kernel' not in flat and 'conv_stem.kernel' in flat


def test_checkpoint_folder_round_trip(tmp_path):
    _, variables = jeffnet.create_model(NAME, num_classes=3, in_chans=1, seed=5)
    folder = tmp_path / 'runs' / 'best'
    preprocessing = {'kind': 'pil', 'image_size': [32, 32]}
    for step in (1, 2):  # the second replaces the first
        weights.save(
            folder, model=NAME, options={'num_classes': 3, 'in_chans': 1}, variables=jeffnet.flat_variables(variables),
            preprocessing=preprocessing, classes=['a', 'b', 'c'], metrics={'step': step},
        )  # fmt: skip
    config = weights.read_config(folder)
    assert (config['model'], config['classes'], config['metrics']) == (NAME, ['a', 'b', 'c'], {'step': 2})
    assert [p.name for p in folder.parent.iterdir()] == ['best']
    for framework in ('objax', 'nnx'):
        model = jeffnet.create_model(config['model'], framework, weights=folder, **config['options'])
        loaded = jeffnet.flat_variables(model)
        for name, array in jeffnet.flat_variables(variables).items():
            np.testing.assert_array_equal(loaded[name], array)


def test_a_checkpoint_folder_brings_its_options_and_refuses_another_model(tmp_path):
    options = {'num_classes': 3, 'in_chans': 1, 'output_stride': 8}
    made, variables = jeffnet.create_model(NAME, **options)
    flat = jeffnet.flat_variables(variables)
    weights.save(tmp_path / 'best', model=NAME, options=options, variables=flat, preprocessing={})
    for path in (tmp_path / 'best', str(tmp_path / 'best'), tmp_path / 'best' / 'model.safetensors'):
        assert jeffnet.create_model(NAME, weights=path)[0] == made
    assert jeffnet.create_model(NAME, weights=tmp_path / 'best', output_stride=32)[0].output_stride == 32
    with pytest.raises(ValueError, match='is a checkpoint of pt_mnasnet_small, not of pt_mnasnet_100'):
        jeffnet.create_model('pt_mnasnet_100', weights=tmp_path / 'best')


def test_a_file_of_another_architecture_is_recognised(state, write, tmp_path):
    path = write(state, tmp_path / 'model.safetensors')
    with pytest.raises(ValueError, match=r'does not fit pt_fbnetc_100.*its arrays are those of pt_mnasnet_small: use'):
        jeffnet.create_model('pt_fbnetc_100', weights=path)
    with pytest.raises(ValueError, match=r'none of its names are known'):
        jeffnet.create_model(NAME, weights=write({'a': np.ones(2)}, path))


@pytest.mark.parametrize('kind', ['float16', 'bfloat16', 'float64'])
def test_other_float_types_are_cast_and_reported(kind, state, write, tmp_path, caplog):
    import ml_dtypes

    dtype = np.dtype(getattr(ml_dtypes, kind, kind))
    cast = {k: v.astype(dtype) if v.dtype == np.float32 else v for k, v in state.items()}
    _, variables = jeffnet.create_model(NAME, weights=write(cast, tmp_path / 'model.safetensors'))
    flat = jeffnet.flat_variables(variables)
    assert flat['bn1.scale'].dtype == np.float32
    np.testing.assert_array_equal(flat['bn1.scale'], state['bn1.weight'].astype(dtype).astype(np.float32))
    assert f'{len(flat)} {kind} arrays are cast to float32' in caplog.text and caplog.records[0].levelname == 'WARNING'


def test_whole_numbers_are_no_weights(state, write, tmp_path):
    quantised = {**state, 'conv_stem.weight': state['conv_stem.weight'].astype(np.int8)}
    with pytest.raises(ValueError, match=r'conv_stem\.kernel holds int8 values'):
        jeffnet.create_model(NAME, weights=write(quantised, tmp_path / 'model.safetensors'))


def test_values_that_are_no_numbers_are_named(state, write, tmp_path, caplog):
    bad = {k: v.copy() for k, v in state.items()}
    bad['bn1.bias'][2], bad['blocks.1.0.conv_dw.weight'][0] = np.nan, np.inf
    path = write(bad, tmp_path / 'model.safetensors')
    jeffnet.create_model(NAME, weights=path)
    assert f'{path}: NaN or infinite values in blocks_1_0.conv_dw.kernel, bn1.bias' in caplog.text
    with pytest.raises(ValueError, match='NaN or infinite'), weights.Incomplete():
        jeffnet.create_model(NAME, weights=path)


@pytest.mark.parametrize('count', [1, 2, 4, 7])
def test_other_channels_give_the_same_sum_on_equal_channels(count, state, write, tmp_path):
    flat = jeffnet.flat_variables(
        jeffnet.create_model(NAME, weights=write(state, tmp_path / 'model.safetensors'), in_chans=count)[1]
    )
    kernel, original = np.asarray(flat['conv_stem.kernel']), state['conv_stem.weight'].transpose(2, 3, 1, 0)
    assert kernel.shape[2] == count
    if count == 1:
        np.testing.assert_array_equal(kernel, original.sum(2, keepdims=True))
    else:
        np.testing.assert_array_equal(kernel, original[:, :, [i % 3 for i in range(count)]] * np.float32(3 / count))


def test_channels_are_adapted_from_any_count(state, write, tmp_path):
    five = {**state, 'conv_stem.weight': np.random.default_rng(0).standard_normal((8, 5, 3, 3)).astype(np.float32)}
    path = write(five, tmp_path / 'model.safetensors')
    kernel = jeffnet.flat_variables(jeffnet.create_model(NAME, weights=path)[1])['conv_stem.kernel']
    expected = five['conv_stem.weight'][:, :3].transpose(2, 3, 1, 0) * np.float32(5 / 3)
    np.testing.assert_array_equal(kernel, expected)


@pytest.mark.parametrize('grid', [(7, 7), (20, 20), (9, 16), (14, 14)])
def test_position_tables_are_resampled_as_timm_does(grid):
    """PyTorch computes places up to 14 in float32 (1e-6 each), which 4 x 4 products of values up to 4 multiply."""
    table = np.random.default_rng(1).standard_normal((1, 2 + 14 * 14, 6)).astype(np.float32)
    theirs = resample_abs_pos_embed(torch.from_numpy(table), list(grid), num_prefix_tokens=2).numpy()
    ours = adapt.positions(table, grid, prefix_tokens=2)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    with pytest.raises(ValueError, match='197 places is no square'):
        adapt.positions(table, grid, prefix_tokens=1)


def test_load_resamples_the_tables_that_a_family_names(state, write, tmp_path, monkeypatch):
    from jeffnet.create import plan
    from jeffnet.models import efficientnet
    from jeffnet.weights import merge
    from jeffnet.weights.stored import StoredArray

    chosen = plan(NAME)
    block = chosen.block
    block.grid_size = (3, 5)
    monkeypatch.setattr(efficientnet, 'POSITION_TABLES', {'pos_embed': 1}, raising=False)
    table = np.random.default_rng(2).standard_normal((1, 17, 4)).astype(np.float32)
    wanted = {'pos_embed': type(next(iter(merge.declarations(block).values())))((1, 16, 4), None)}
    flat = merge.adapted({'pos_embed': StoredArray.of(table)}, chosen.info, block, wanted, False)
    np.testing.assert_array_equal(flat['pos_embed'].read(), adapt.positions(table, (3, 5), 1))
    assert flat['pos_embed'].shape == (1, 16, 4)


def test_batch_norm_settings_are_options(state):
    module, _ = jeffnet.create_model(NAME, bn_eps=1e-3, bn_momentum=0.5)
    assert (module.policy.bn_eps, module.policy.bn_momentum) == (1e-3, 0.5)
    for option in ({'bn_eps': 0}, {'bn_momentum': 2}, {'bn_eps': True}):
        with pytest.raises(ValueError, match=next(iter(option))):
            jeffnet.create_model(NAME, **option)


def test_bad_sources_are_named(tmp_path):
    for value in (3, b'x', ''):
        with pytest.raises(ValueError, match='expected the path of a file or folder'):
            jeffnet.create_model(NAME, weights=value)
    with pytest.raises(ValueError, match=r"pretrained=True and weights='a': give one"):
        jeffnet.create_model(NAME, weights='a', pretrained=True)
    with pytest.raises(ValueError, match='has no published weights'):
        jeffnet.create_model('pt_efficientnet_b8', pretrained=True)
    with pytest.raises(ValueError, match='hf-hub:owner/repo'):
        jeffnet.create_model(NAME, weights='hf-hub:nonsense')
    (tmp_path / 'config.json').write_text(json.dumps({'architecture': 'resnet_of_the_future'}))
    with pytest.raises(ValueError, match=r"calls its architecture 'resnet_of_the_future'"):
        jeffnet.create_model(f'local-dir:{tmp_path}')
    (tmp_path / 'config.json').write_text('{')
    with pytest.raises(ValueError, match=r'config\.json is not valid JSON'):
        jeffnet.create_model(f'local-dir:{tmp_path}')


def test_a_second_array_for_one_variable_is_unexpected(state, write, tmp_path):
    """Under our flat name, or with and without a wrapper's prefix: neither may win over the other."""
    for extra in ('bn1.var', 'bn1.scale', 'classifier.kernel', 'module.bn1.bias'):
        path = write({**state, extra: np.zeros(8, np.float32)}, tmp_path / 'model.safetensors')
        with pytest.raises(ValueError, match=f'1 unexpected in the file.*\n.*\n +{extra}'):
            jeffnet.create_model(NAME, weights=path)


def own(options, model=NAME):
    return {'jeffnet': json.dumps({'model': model, 'options': options})}


def test_no_file_relaxes_how_it_is_loaded(state, write, tmp_path):
    path = tmp_path / 'model.safetensors'
    for key in ('strict', 'use_ema', 'pretrained', 'weights', 'new_classifier', 'name', 'seed', 'nonsense'):
        write(state, path, own({key: False}))
        with pytest.raises(ValueError, match=rf'model\.safetensors describes no model .*{key} are none that shape'):
            jeffnet.create_model(NAME, weights=path)
    for said in (own({'output_stride': '8'}), own({}, model='nonsense'), own({}, model=[1]), {'jeffnet': '[' * 99999}):
        write(state, path, said)
        with pytest.raises(ValueError, match=r'model\.safetensors'):
            jeffnet.create_model(NAME, weights=path)
    for config in ({'format': 'jeffnet'}, {'format': 'jeffnet', 'model': NAME, 'options': None}):
        (tmp_path / 'config.json').write_text(json.dumps(config))
        with pytest.raises(ValueError, match=r'config\.json is not as jeffnet writes it'):
            jeffnet.create_model(NAME, weights=tmp_path)


def test_saved_options_hold_however_the_file_is_addressed(tmp_path):
    options = {'num_classes': 3, 'in_chans': 1, 'output_stride': 8, 'bn_eps': 0.05}
    module, variables = jeffnet.create_model(NAME, **options)
    (tmp_path / 'bare').mkdir()
    jeffnet.save_weights(module, tmp_path / 'bare' / 'model.safetensors', variables)
    flat = jeffnet.flat_variables(variables)
    weights.save(tmp_path / 'run', model=NAME, options=options, variables=flat, preprocessing={})
    copy = tmp_path / 'copy.safetensors'
    copy.write_bytes((tmp_path / 'run' / 'model.safetensors').read_bytes())
    for path in (tmp_path / 'bare', tmp_path / 'bare' / 'model.safetensors', copy, tmp_path / 'run'):
        again, _ = jeffnet.create_model(NAME, weights=path, num_classes=3, bn_eps=None)
        assert again == module and again.policy == module.policy
    assert jeffnet.create_model(NAME, weights=tmp_path / 'run', num_classes=None)[0].num_classes == 3


def test_incomplete_holds_in_a_quiet_log_and_leaves_other_threads_alone(state, write, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    path, log = write(state, tmp_path / 'model.safetensors'), logging.getLogger('jeffnet')
    log.setLevel(logging.CRITICAL)
    try:
        with weights.Incomplete():
            with pytest.raises(ValueError, match='fresh classifier'):
                jeffnet.create_model(NAME, weights=path, num_classes=5)
            with ThreadPoolExecutor(1) as other:
                assert other.submit(jeffnet.create_model, NAME, weights=path, num_classes=5).result()
        assert log.level == logging.CRITICAL
    finally:
        log.setLevel(logging.NOTSET)
