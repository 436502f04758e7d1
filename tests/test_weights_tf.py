"""TensorFlow checkpoints of the original releases: the right value in every variable; errors that say what is wrong.

data/tf_names.txt holds the names that the original code gives its variables; the layers they stand for are written
down here a second time, as calls in the order of that code and TensorFlow's rules for naming them.
"""

import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import jeffnet
from jeffnet import create
from jeffnet.core.block import declarations
from jeffnet.models.efficientnet import MobileNetV3, build_stages
from jeffnet.models.efficientnet_tf_names import from_tensorflow, tensorflow_arrays
from jeffnet.models.mobile_blocks import ConvBnAct, DepthwiseSeparable, EdgeResidual, InvertedResidual
from jeffnet.weights import tf_checkpoint
from jeffnet.weights.stored import StoredArray

EMA = '/ExponentialMovingAverage'
NORM = {'gamma': 'scale', 'beta': 'bias', 'moving_mean': 'mean', 'moving_variance': 'var'}
SMALLEST = 'tf_mobilenetv3_small_minimal_100'


def recorded() -> dict[str, dict[str, tuple[int, ...]]]:
    """Shape by variable name, for each of our models in the file."""
    found, shapes, scope = {}, {}, ''
    for line in (Path(__file__).parent / 'data' / 'tf_names.txt').read_text().splitlines():
        if line[0] == ' ':
            layer, leaves, shape = line.split()
            shapes |= {f'{scope}/{layer}/{leaf}': tuple(map(int, shape.split('x'))) for leaf in leaves.split(',')}
        elif line[0] != '#':
            model, scope = line.split()
            shapes = found[model] = {}
    return found


RECORDED = recorded()


def network(model, **options):
    return create.plan(model, **options).block


# What a block calls, in order; a MixConv calls each of its convolutions.
CALLS = {
    DepthwiseSeparable: 'conv_dw bn1 se.conv_reduce se.conv_expand conv_pw bn2',
    InvertedResidual: 'conv_pw bn1 conv_dw bn2 se.conv_reduce se.conv_expand conv_pwl bn3',
    EdgeResidual: 'conv_exp bn1 conv_pwl bn2',
    ConvBnAct: 'conv bn1',
}


def calls(block) -> list[str]:
    """Modules with arrays of a network's block, in the order of its calls."""
    modules = {name.rpartition('.')[0] for name in declarations(block)}
    return [m for call in CALLS[type(block)].split() for m in sorted(modules) if m == call or m.startswith(f'{call}.')]


def tpu_layers(net, model: str, scope: str):
    """(layer, our module, whether depthwise, whether normalisation) as tensorflow/tpu names them."""
    keras = 'mixnet' in model  # its convolutions are keras layers, numbered through the network as they are constructed
    parts = [
        (f'blocks_{s}_{i}', calls(block)) for s, stage in enumerate(build_stages(net)) for i, block in enumerate(stage)
    ]
    scopes = [f'blocks_{n}' for n in range(len(parts))] + ['stem', 'head']
    parts += [('', ['conv_stem', 'bn1']), ('', ['conv_head', 'bn2', 'classifier'])]
    used = Counter()
    for place, (ours, modules) in zip(scopes, parts, strict=True):
        for module in modules:
            depthwise, norm = 'conv_dw' in module, module.startswith('bn')
            kind = 'depthwise_conv2d' if depthwise else 'dense' if module == 'classifier' else 'conv2d'
            if norm:
                kind = 'batch_normalization' if keras else 'tpu_batch_normalization'
            inner = f'{place}/se' if module.startswith('se.') else place
            counter = kind if keras and not norm else (inner, kind)
            number = f'_{used[counter]}' if used[counter] else ''
            used[counter] += 1
            model_scope = f'{scope}/mixnet_model' if keras and not norm else scope
            yield f'{model_scope}/{inner}/{kind}{number}', f'{ours}.{module}'.strip('.'), depthwise, norm


def slim_layers(net, scope: str):
    """The same as slim names them."""
    names = {'conv_dw': 'depthwise', 'se.conv_reduce': 'squeeze_excite/Conv', 'se.conv_expand': 'squeeze_excite/Conv_1'}
    yield f'{scope}/Conv', 'conv_stem', False, False
    yield f'{scope}/Conv/BatchNorm', 'bn1', False, True
    blocks = [(f'blocks_{s}_{i}', b) for s, stage in enumerate(build_stages(net)) for i, b in enumerate(stage)]
    for n, (ours, block) in enumerate(blocks):
        inside = f'{scope}/expanded_conv' + f'_{n}' * (n > 0)
        for module in calls(block):
            norm = module.startswith('bn')
            if isinstance(block, ConvBnAct):
                layer = f'{scope}/Conv_1'
            elif not norm:
                last = module in ('conv_pwl', 'conv_pw') and module == calls(block)[-2]
                layer = f'{inside}/{names.get(module, "project" if last else "expand")}'
            yield f'{layer}/BatchNorm' if norm else layer, f'{ours}.{module}', 'conv_dw' in module, norm
    yield f'{scope}/Conv_2', 'conv_head', False, False
    yield f'{scope}/Logits/Conv2d_1c_1x1', 'classifier', False, False


def hand_named(net, model: str) -> dict[str, tuple[str, bool]]:
    """By variable name: our flat name, and whether it is a depthwise kernel."""
    scope = next(iter(RECORDED[model])).partition('/')[0]
    slim = isinstance(net, MobileNetV3)
    flat_names, found = declarations(net), {}
    for layer, module, depthwise, norm in slim_layers(net, scope) if slim else tpu_layers(net, model, scope):
        kernel = ('depthwise_' if depthwise else '') + ('weights' if slim else 'kernel')
        leaves = NORM if norm else {kernel: 'kernel', 'biases' if slim else 'bias': 'bias'}
        for theirs, ours in leaves.items():
            if f'{module}.{ours}' in flat_names:
                found[f'{layer}/{theirs}'] = f'{module}.{ours}', depthwise
    return found


@pytest.mark.parametrize('model', RECORDED)
def test_every_recorded_name_finds_its_variable(model):
    net = network(model)
    expected = {theirs: ours for theirs, (ours, _) in hand_named(net, model).items()}
    assert expected.keys() == RECORDED[model].keys()  # the second writing down is right
    assert from_tensorflow(net, RECORDED[model]) == expected
    assert sorted(expected.values()) == sorted(declarations(net))
    for less in ({'features_only': True}, {'num_classes': 0}, {'num_classes': -1}):
        part = network(model, **less)
        assert from_tensorflow(part, RECORDED[model]) == expected  # the head of the file is known, though not wanted


@pytest.mark.parametrize('model', RECORDED)
def test_recorded_shapes_are_ours(model):
    net = network(model)
    arrays = {name: StoredArray(shape, np.dtype('float32'), lambda: None) for name, shape in RECORDED[model].items()}
    found = tensorflow_arrays(net, arrays)
    assert {n: a.shape for n, a in found.items()} == {n: tuple(d.shape) for n, d in declarations(net).items()}


def save(prefix: Path, arrays: dict) -> Path:
    """Writes a checkpoint of one shard."""
    from jeffnet.data.tf_import import tf

    tensors = [tf.constant(array) for array in arrays.values()]
    tf.raw_ops.SaveV2(
        prefix=str(prefix), tensor_names=list(arrays), shape_and_slices=[''] * len(arrays), tensors=tensors
    )
    return prefix


def training_checkpoint(prefix: Path, model: str, raw: dict, averaged: dict) -> Path:
    """Writes what a training of the original code saves; the optimizer's slots are never to be read, so kept tiny."""
    variables = dict(raw) | {name + EMA: array for name, array in averaged.items()}
    for name in raw:
        if not name.endswith(('moving_mean', 'moving_variance')):
            variables |= {f'{name}/RMSProp{number}': np.ones(1, np.float32) for number in ('', '_1')}
    return save(prefix, variables | {'global_step': np.int64(7)})


@pytest.mark.parametrize('model', RECORDED)
def test_every_value_of_a_training_checkpoint_arrives(model, tmp_path):
    net, rng = network(model), np.random.default_rng(0)
    sets = [{n: rng.random(s, np.float32) for n, s in RECORDED[model].items()} for _ in ('raw', 'averaged')]
    prefix = training_checkpoint(tmp_path / 'model.ckpt-7', model, *sets)
    for use_ema, values in zip((False, True), sets, strict=True):
        found = tensorflow_arrays(net, tf_checkpoint.read(prefix, use_ema))
        named = hand_named(net, model)
        assert found.keys() == {ours for ours, _ in named.values()}
        for theirs, (ours, depthwise) in named.items():
            expected = values[theirs]
            if ours.startswith('classifier'):
                expected = np.squeeze(expected)[..., -1000:]
            if depthwise:
                expected = np.moveaxis(expected, 2, 3)
            assert found[ours].shape == expected.shape
            np.testing.assert_array_equal(found[ours].read(), expected)


def test_only_the_background_of_1001_classes_is_dropped():
    arrays = {
        name: StoredArray(shape, np.dtype('float32'), lambda shape=shape: np.arange(np.prod(shape)).reshape(shape))
        for name, shape in RECORDED['tf_efficientnet_es'].items()
    }
    for classes, kept in ((1000, 1000), (1001, 1001), (10, 1001)):
        found = tensorflow_arrays(network('tf_efficientnet_es', num_classes=classes), arrays)
        assert found['classifier.kernel'].shape == (1280, kept)
        np.testing.assert_array_equal(found['classifier.bias'].read(), np.arange(1001)[1001 - kept :])


def test_unknown_names_stay_and_counts_are_never_guessed():
    b0, mixnet = RECORDED['tf_efficientnet_b0'], RECORDED['tf_mixnet_s']
    lite = from_tensorflow(network('tf_efficientnet_lite0'), b0)
    assert {name for name in b0 if name not in lite} == {name for name in b0 if '/se/' in name}
    larger = from_tensorflow(network('tf_mixnet_m'), mixnet)  # other numbers of convolutions in a MixConv
    assert not any('blocks_1/depthwise' in name for name in larger)
    assert not from_tensorflow(network(SMALLEST), b0)
    assert not from_tensorflow(network('tf_efficientnet_b0'), RECORDED[SMALLEST])
    for other, ends in (
        ('tf_efficientnet_b1', 12),
        ('tf_efficientnet_es', 12),
    ):  # stem and head alone, not shifted blocks
        assert len(from_tensorflow(network(other), b0)) == ends
    twice = {f'{tower}/{name}': shape for tower in 'ab' for name, shape in b0.items()}  # two networks in one file
    assert not from_tensorflow(network('tf_efficientnet_b0'), twice)
    assert len(from_tensorflow(network('tf_efficientnet_b0'), {f'a/b/{name}': s for name, s in b0.items()})) == len(b0)
    torn = {name.replace('efficientnet-b0/blocks_1/conv2d_1/', 'b/blocks_1/conv2d_1/'): s for name, s in b0.items()}
    left = torn.keys() - from_tensorflow(network('tf_efficientnet_b0'), torn).keys()
    assert left == {'efficientnet-b0/blocks_1/conv2d/kernel', 'b/blocks_1/conv2d_1/kernel'}
    extra = {**b0, 'efficientnet-b0/stem/conv2d_1/kernel': (1,), 'efficientnet-b0/head/dense/scale': (1,)}
    left = extra.keys() - from_tensorflow(network('tf_efficientnet_b0'), extra).keys()
    assert left == {'efficientnet-b0/stem/conv2d/kernel', *(extra.keys() - b0.keys())}


def test_numbers_are_counted_not_spelled():
    """conv2d_10 comes after conv2d_9, wherever TensorFlow starts to count."""
    scope = 'mixnet-s/mixnet_model/blocks_1/conv2d_'
    others = [name for name in RECORDED['tf_mixnet_s'] if not name.startswith(scope)]
    names = [f'{scope}{i}/kernel' for i in (9, 10, 99, 100)]
    found = from_tensorflow(network('tf_mixnet_s'), names[::-1] + others)
    parts = ('conv_pw.convs_0', 'conv_pw.convs_1', 'conv_pwl.convs_0', 'conv_pwl.convs_1')
    assert [found[name] for name in names] == [f'blocks_1_0.{part}.kernel' for part in parts]


def test_an_average_replaces_its_variable_where_there_is_one(tmp_path):
    arrays = {'a/kernel': 1, f'a/kernel{EMA}': 2, 'a/bias': 3, f'b/kernel{EMA}': 4, 'c/d/Momentum': 5}
    arrays |= {'a/kernel/Adam_1': 6, 'x/y/kernel/custom_slot': 7, f'x/y/kernel{EMA}': 8, 'm/gamma/custom': 9}
    arrays = {name: np.float32([value]) for name, value in arrays.items()}
    arrays |= {'global_step': np.int64(1), 'beta1_power': np.float32(0.9), 'note': np.array('text')}
    prefix = save(tmp_path / 'model', arrays)

    def values(use_ema):
        return {name: float(array.read()[0]) for name, array in tf_checkpoint.read(prefix, use_ema).items()}

    assert values(True) == {'a/kernel': 2, 'a/bias': 3, 'b/kernel': 4, 'x/y/kernel': 8, 'm/gamma/custom': 9}
    assert values(False) == {'a/kernel': 1, 'a/bias': 3, 'm/gamma/custom': 9}


def test_half_precision_is_read_as_it_is(tmp_path):
    import ml_dtypes

    prefix = save(tmp_path / 'model', {'a/kernel': np.array([1.5, 2], ml_dtypes.bfloat16)})
    array = tf_checkpoint.read(prefix)['a/kernel']
    assert array.dtype == array.read().dtype == ml_dtypes.bfloat16


def test_what_a_path_means(tmp_path):
    assert tf_checkpoint.find(tmp_path) is None
    old, new = (save(tmp_path / f'model.ckpt-{step}', {'a': np.zeros(2, np.float32)}) for step in (900, 1000))
    for path in (new, *tmp_path.glob('model.ckpt-1000.*')):
        assert tf_checkpoint.find(path) == new
    for path in (*tmp_path.glob('model.ckpt-900.*'), new, tmp_path / 'model.ckpt-1000.index'):
        os.utime(path if path.exists() else f'{path}.index', (1000, 1000))
    assert tf_checkpoint.find(tmp_path) == new  # of one time, the higher step
    os.utime(f'{old}.index', (2000, 2000))
    assert tf_checkpoint.find(tmp_path) == old  # else the newest
    state = tmp_path / 'checkpoint'
    for named in ('model.ckpt-1000', '/where/it/was/trained/model.ckpt-1000'):
        state.write_text(f'model_checkpoint_path: "{named}"\nall_model_checkpoint_paths: "model.ckpt-900"\n')
        assert tf_checkpoint.find(tmp_path) == new
    state.write_text('model_checkpoint_path: "gone"\n')
    assert tf_checkpoint.find(tmp_path) == old
    for path in (state, tmp_path / 'model.ckpt-1', tmp_path / 'model.safetensors', tmp_path / 'none.index'):
        assert tf_checkpoint.find(path) is None


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == 'cut':
        content = content[: len(content) // 2]
    else:
        content[{'flipped': len(content) // 2, 'flipped near its end': -44}[how]] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize('how', ['cut', 'flipped', 'flipped near its end'])
@pytest.mark.parametrize('suffix', ['index', 'data-00000-of-00001'])
def test_a_damaged_file_is_an_error_that_names_it(suffix, how, tmp_path):
    arrays = {f'scope_{i}/kernel': np.full((30, 20), i, np.float32) for i in range(40)}
    prefix = save(tmp_path / 'model.ckpt', arrays)
    damaged(tmp_path / f'model.ckpt.{suffix}', how)
    with pytest.raises(ValueError, match=r'again$') as caught:
        for array in tf_checkpoint.read(prefix).values():
            array.read()
    assert str(caught.value).startswith(f'{prefix}.{suffix} is damaged') and '\n' not in str(caught.value)


def test_missing_files_are_named(tmp_path):
    from jeffnet.data.tf_import import tf

    parts = [save(tmp_path / f'part{i}', {f'{i}/kernel': np.zeros(3, np.float32)}) for i in range(2)]
    prefix = tmp_path / 'model.ckpt'
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=list(map(str, parts)), destination_prefix=str(prefix))
    assert len(tf_checkpoint.read(prefix)) == 2
    shard = tmp_path / 'model.ckpt.data-00001-of-00002'
    shard.unlink()
    with pytest.raises(ValueError, match=r'model\.ckpt\.data-00001-of-00002 is missing; copy it'):
        tf_checkpoint.read(prefix)
    (tmp_path / 'model.ckpt.data-00000-of-00002').unlink()
    with pytest.raises(ValueError, match=r'data-00000-of-00001 is missing; copy it beside model\.ckpt\.index'):
        tf_checkpoint.read(prefix)
    shard.touch()
    (tmp_path / 'model.ckpt.index').unlink()
    assert tf_checkpoint.find(shard) == prefix
    with pytest.raises(ValueError, match=r'model\.ckpt\.index is missing'):
        tf_checkpoint.read(prefix)


def test_without_tensorflow_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    prefix = save(tmp_path / 'model.ckpt', {'a': np.zeros(2, np.float32)})
    monkeypatch.delitem(sys.modules, 'jeffnet.data.tf_import', raising=False)
    monkeypatch.setitem(sys.modules, 'tensorflow', None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jeffnet\[tf\]'"):
        tf_checkpoint.read(prefix)


def test_a_checkpoint_as_weights_of_a_model(tmp_path):
    rng = np.random.default_rng(0)
    raw = {name: rng.random(shape, np.float32) for name, shape in RECORDED[SMALLEST].items()}
    training_checkpoint(tmp_path / 'model.ckpt-7', SMALLEST, raw, {name: array + 1 for name, array in raw.items()})
    kernel = raw['MobilenetV3/Conv/weights']
    for options, expected in (({}, kernel + 1), ({'use_ema': False}, kernel)):
        _, variables = jeffnet.create_model(SMALLEST, weights=tmp_path, **options)
        np.testing.assert_array_equal(jeffnet.flat_variables(variables)['conv_stem.kernel'], expected)
    with pytest.raises(ValueError, match=SMALLEST) as caught:
        jeffnet.create_model('tf_efficientnet_b0', weights=tmp_path)
    assert 'MobilenetV3/expanded_conv_10/project/weights' in str(caught.value)
