"""Training: each part against closed forms, and one small run from image files to a checkpoint that validates."""

import json
import math
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from PIL import Image

import jeffnet
from jeffnet.train import (
    checked,
    count,
    cross_entropy,
    decay_mask,
    default_config,
    make_optimizer,
    make_schedule,
    prepare,
    run,
    summary,
    zeros,
)
from jeffnet.train.optimizers import OPTIMIZERS

ROOT = Path(__file__).parents[1]
MODEL = 'tf_mobilenetv3_small_minimal_100'  # the cheapest to compile

# ------------------------------------------------------------------------------------------------ schedules


def test_constant_schedule_rises_then_stays():
    schedule = make_schedule('constant', peak=0.4, total_steps=100, warmup_steps=10)
    assert [float(schedule(step)) for step in (0, 5, 10, 99)] == pytest.approx([0, 0.2, 0.4, 0.4])


@pytest.mark.parametrize('step', [0, 4, 10, 11, 55, 99])
def test_cosine_schedule_after_warmup(step):
    schedule = make_schedule('cosine', peak=0.4, total_steps=100, warmup_steps=10)
    expected = 0.4 * step / 10 if step < 10 else 0.2 * (1 + math.cos(math.pi * (step - 10) / 90))
    assert float(schedule(step)) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert float(schedule(step)) == pytest.approx(
        float(optax.warmup_cosine_decay_schedule(0.0, 0.4, 10, 100)(step)), rel=1e-5, abs=1e-7
    )


def test_schedule_errors():
    with pytest.raises(ValueError, match=r"'cosin'.*constant, cosine"):
        make_schedule('cosin', peak=1, total_steps=10)
    with pytest.raises(ValueError, match='10 steps does not fit into 10'):
        make_schedule('cosine', peak=1, total_steps=10, warmup_steps=10)


# ----------------------------------------------------------------------------------------------- optimizers

PARAMS = {'kernel': jnp.array([[1.0, -2.0]]), 'bias': jnp.array([3.0]), 'scale': jnp.array([0.5])}
GRADS = {'kernel': jnp.array([[0.1, 0.3]]), 'bias': jnp.array([0.2]), 'scale': jnp.array([-0.4])}


def after(optimizer, steps):
    """The parameters after some steps of always the same gradient."""
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(steps):
        updates, state = optimizer.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_decay_mask_leaves_biases_and_norms_alone():
    _, variables = jeffnet.create_model(MODEL)
    mask = jeffnet.flat_variables({'params': decay_mask(variables['params'])})
    assert {name.rpartition('.')[2] for name, decays in mask.items() if decays} == {'kernel'}
    assert {name.rpartition('.')[2] for name, decays in mask.items() if not decays} == {'bias', 'scale'}


def test_sgd_with_weight_decay_by_hand():
    params = after(make_optimizer('sgd', 0.1, weight_decay=0.01), steps=1)
    np.testing.assert_allclose(params['kernel'], [[1 - 0.1 * (0.1 + 0.01), -2 - 0.1 * (0.3 - 0.02)]], rtol=1e-6)
    np.testing.assert_allclose(params['bias'], [3 - 0.1 * 0.2], rtol=1e-6)


@pytest.mark.parametrize(('name', 'distance'), [('momentum', 1 + 1.9), ('nesterov', 1.9 + (0.9 * 1.9 + 1))])
def test_momentum_by_hand(name, distance):
    params = after(make_optimizer(name, 0.1, momentum=0.9), steps=2)
    np.testing.assert_allclose(params['kernel'], PARAMS['kernel'] - 0.1 * distance * GRADS['kernel'], rtol=1e-6)


@pytest.mark.parametrize('name', ['adam', 'adamw', 'lamb'])
def test_adam_family_first_step_without_decay(name):
    params = after(make_optimizer(name, 0.1), steps=1)
    trust = (
        1.0 if name != 'lamb' else float(jnp.linalg.norm(PARAMS['kernel'])) / math.sqrt(2)
    )  # the step has norm sqrt(2)
    np.testing.assert_allclose(params['kernel'], PARAMS['kernel'] - 0.1 * trust * jnp.sign(GRADS['kernel']), rtol=1e-4)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_weight_decay_shrinks_weights_only(name):
    plain, decayed = (after(make_optimizer(name, 0.1, weight_decay=decay), steps=2) for decay in (0.0, 0.5))
    assert not np.allclose(plain['kernel'], decayed['kernel'], rtol=1e-3)
    for leaf in ('bias', 'scale'):
        np.testing.assert_array_equal(plain[leaf], decayed[leaf])


def test_optimizer_error_lists_the_names():
    with pytest.raises(ValueError, match=r"'sgdd'.*nesterov.*lamb"):
        make_optimizer('sgdd', 0.1)


# --------------------------------------------------------------------------------------- losses and metrics


def test_cross_entropy_by_hand():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(4, 5)).astype(np.float32), np.array([0, 4, 2, 2])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = 0.9 * np.eye(5)[labels] + 0.1 / 5
    np.testing.assert_allclose(cross_entropy(logits, labels, 0.1), -(targets * log_p).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(
        cross_entropy(logits, labels), optax.softmax_cross_entropy_with_integer_labels(logits, labels), rtol=1e-5
    )
    assert cross_entropy(jnp.asarray(logits, jnp.bfloat16), labels).dtype == jnp.float32


def test_counts_with_mask_are_exact_for_any_batch_size():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(103, 10)).astype(np.float32), rng.integers(0, 10, 103)
    order = np.argsort(-logits, axis=-1)
    top1, top5 = (int((order[:, :k] == labels[:, None]).any(-1).sum()) for k in (1, 5))
    for size in (1, 16, 103):
        totals = zeros()
        for start in range(0, 103, size):
            real = len(labels[start : start + size])
            pad = ((0, size - real), (0, 0))
            batch, own = np.pad(logits[start : start + size], pad), np.pad(labels[start : start + size], pad[0])
            counted = count(batch, own, np.ones(size, np.float32), np.arange(size) < real)
            totals = jax.tree.map(jnp.add, totals, counted)
        assert {k: int(totals[k]) for k in ('images', 'top1', 'top5')} == {'images': 103, 'top1': top1, 'top5': top5}
        assert summary(totals) == {'loss': 1.0, 'top1': 100 * (top1 / 103), 'top5': 100 * (top5 / 103)}


def test_ties_and_nan_are_not_counted_as_right():
    equal = jnp.zeros((2, 3))
    assert int(count(equal, jnp.array([0, 1]), jnp.zeros(2))['top1']) == 1  # as argmax: the first of equals
    broken = jnp.full((2, 3), jnp.nan)
    assert int(count(broken, jnp.array([0, 1]), jnp.zeros(2))['top5']) == 0


# ---------------------------------------------------------------------------------------------------- a run


@pytest.fixture(scope='module')
def squares(tmp_path_factory):
    """A data folder of red, green and blue squares: 24 images to train on, 7 to validate on."""
    folder, rng = tmp_path_factory.mktemp('squares'), np.random.default_rng(0)
    for split, each in (('train', (8, 8, 8)), ('validation', (3, 2, 2))):
        for label, name in enumerate(('red', 'green', 'blue')):
            (folder / split / name).mkdir(parents=True)
            for i in range(each[label]):
                image = rng.integers(0, 80, (32, 32, 3), np.uint8)
                image[..., label] += 150
                Image.fromarray(image).save(folder / split / name / f'{i}.png')
    return folder


def small_config(squares, folder):
    config = default_config()
    config.update(data_dir=str(squares), output_dir=str(folder), model=MODEL, image_size=32, crop_pct=1.0)
    config.update(batch_size=8, epochs=6.0, warmup_epochs=1.0, learning_rate=0.05, drop_rate=0.1, log_every_steps=3)
    config.update(eval_every_epochs=3.0)
    return config


@pytest.fixture(scope='module')
def trained(squares, tmp_path_factory):
    """A finished run: its plan, its best figures and its folder."""
    folder = tmp_path_factory.mktemp('run')
    plan = prepare(small_config(squares, folder), 'pt')
    return plan, run(plan), folder


def test_run_writes_a_log_of_every_interval(trained):
    plan, best, folder = trained
    rows = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
    assert [row['step'] for row in rows if row['kind'] == 'train'] == [3, 6, 9, 12, 15, 18]
    assert [row['step'] for row in rows if row['kind'] == 'validation'] == [9, 18]
    losses = [row['loss'] for row in rows if row['kind'] == 'train']
    assert losses[-1] < 0.7 * losses[0]
    assert best['top1'] == max(row['top1'] for row in rows if row['kind'] == 'validation')
    assert json.loads((folder / 'config.json').read_text())['model'] == MODEL
    assert plan.steps == 18


def test_each_step_is_compiled_once(trained):
    plan, *_ = trained
    assert (plan.train_step._cache_size(), plan.eval_step._cache_size()) == (1, 1)


def test_checkpoint_gives_what_training_measured(trained):
    plan, _, folder = trained
    assert sorted(path.name for path in folder.iterdir()) == ['best', 'config.json', 'last', 'log.jsonl']
    config = jeffnet.weights.read_config(folder / 'last')
    module, variables = jeffnet.create_model(config['model'], weights=folder / 'last', **config['options'])
    predict = jeffnet.predictor(module, variables)
    (batch,) = plan.validation  # 7 images and one row that only fills the batch
    right = (np.argmax(predict(batch['image']), axis=-1) == batch['label'])[:7]
    assert config['metrics']['top1'] == pytest.approx(100 * right.mean())
    assert config['classes'] == ['blue', 'green', 'red']


def test_bfloat16_keeps_the_state_in_float32(squares, tmp_path):
    config = small_config(squares, tmp_path)
    config.dtype = 'bfloat16'
    plan = prepare(config, 'pt')
    batch = {'image': jnp.zeros((8, 32, 32, 3)), 'label': jnp.zeros(8, jnp.int32)}
    state, totals = jax.eval_shape(plan.train_step, plan.state, zeros(), batch)
    assert {array.dtype for array in jax.tree.leaves((state.params, state.batch_stats))} == {jnp.dtype('float32')}
    assert totals['loss'].dtype == jnp.float32
    assert str(jax.make_jaxpr(plan.train_step)(plan.state, zeros(), batch)).count('bf16') > 100


DEVICES = """
import flax.linen as nn, jax, numpy as np
from jax.sharding import AxisType
from jeffnet.train import TrainState, make_optimizer, zeros
from jeffnet.train.mesh import everywhere, split
from jeffnet.train.step import make_train_step

class Net(nn.Module):
    @nn.compact
    def __call__(self, x, training):
        x = nn.relu(nn.BatchNorm(not training)(nn.Conv(8, (3, 3))(x)))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not training)(x.mean((1, 2))))

net, rng, results = Net(), np.random.default_rng(0), []
images, labels = rng.normal(size=(3, 8, 6, 6, 3)).astype(np.float32), rng.integers(0, 3, (3, 8))
batches = [{'image': images[i], 'label': labels[i]} for i in range(3)]
for devices in (1, 4):
    mesh = jax.make_mesh((devices,), ('data',), (AxisType.Auto,), devices=jax.devices()[:devices])
    optimizer = make_optimizer('nesterov', 0.1, weight_decay=1e-3)
    variables = net.init(jax.random.key(0), batches[0]['image'], training=False)
    state = jax.device_put(TrainState.create(variables, optimizer), everywhere(mesh))
    step, totals = make_train_step(net, optimizer, mesh, seed=0, smoothing=0.1), zeros(everywhere(mesh))
    for batch in batches:
        state, totals = step(state, totals, split(mesh, batch))
    results.append(jax.device_get((state, totals)))
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *results)
"""


def test_four_devices_train_as_one():
    # In a process of its own: the number of devices is fixed when JAX starts.
    environment = {'JAX_NUM_CPU_DEVICES': '4', 'JAX_PLATFORMS': 'cpu', 'PATH': '', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(
        [sys.executable, '-c', DEVICES], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


# --------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('optimizer', 'nestrov', r"config.optimizer is 'nestrov'; allowed: sgd, .*did you mean nesterov"),
        ('schedule', 'step', r"config.schedule is 'step'; allowed: constant, cosine"),
        ('dtype', 'float16', r"config.dtype is 'float16'; allowed: float32, bfloat16"),
        ('batch_size', 0, r'config.batch_size is 0; allowed: 1 or more'),
        ('epochs', float('nan'), r'config.epochs is nan; allowed: above 0'),
        ('epochs', 1.0, r'config.warmup_epochs is 1; allowed: below config.epochs, 1'),
        ('label_smoothing', 1.0, r'config.label_smoothing is 1.0; allowed: 0 or more, below 1'),
        ('output_stride', 5, r'config.output_stride is 5; allowed: 8, 16, 32'),
        ('model', 'tf_mobilenetv3_smal_100', r'config.model: .*tf_mobilenetv3_small_100'),
        ('image_size', 8, r'config.model is .*32'),
        ('crop_pct', 2.0, r'config.crop_pct is 2.0; allowed'),
        ('in_chans', 2, r'config.in_chans is 2; allowed'),
        ('augmentation.scale', (0.0, 1.0), r'config.augmentation.scale is \(0.0, 1.0\); allowed'),
        ('data_dir', '', r'config.data_dir is empty'),
        ('data_dir', '/nowhere', r'config.data_dir is /nowhere.*no such folder'),
        ('validation_split', 'test', r"config.validation_split is test.*no folder 'test'"),
        ('learning_rte', 0.1, r'config.learning_rte is no key; closest: learning_rate'),
        ('augmentation.flip', 0.1, r'config.augmentation.flip is no key; closest: augmentation.hflip'),
    ],
)
def test_bad_configuration_fails_before_training(squares, tmp_path, key, value, message):
    config = small_config(squares, tmp_path / 'run')
    *parents, leaf = key.split('.')
    (config[parents[0]] if parents else config)[leaf] = value
    with pytest.raises(ValueError, match=message):
        prepare(config, 'pt')
    assert not list(tmp_path.glob('run/*'))  # nothing was written


def test_configuration_of_the_wrong_type():
    with pytest.raises(ValueError, match=r'batch_size.*str'):
        checked(ConfigDict({'data_dir': 'somewhere', 'batch_size': 'many'}))


def test_output_folder_of_another_run_is_refused(squares, trained):
    *_, folder = trained
    with pytest.raises(ValueError, match=r'config.output_dir is .*holds a run'):
        prepare(small_config(squares, folder), 'pt')


def test_unknown_pipeline(squares, tmp_path):
    with pytest.raises(ValueError, match=r"pipeline is 'torch'; allowed: tf, pt"):
        prepare(small_config(squares, tmp_path), 'torch')


def test_classes_that_only_validation_has(squares, tmp_path):
    shutil.copytree(squares, tmp_path / 'data')
    (tmp_path / 'data/validation/red').rename(tmp_path / 'data/validation/pink')
    config = small_config(tmp_path / 'data', tmp_path / 'run')
    with pytest.raises(ValueError, match=r"config.validation_split is validation: .*'pink'"):
        prepare(config, 'pt')


@pytest.mark.parametrize('config', sorted((ROOT / 'train_configs').glob('*.py')), ids=lambda path: path.stem)
def test_every_configuration_file_is_valid(config):
    loaded = runpy.run_path(str(config))['get_config']()
    loaded.data_dir = 'somewhere'
    assert checked(loaded).model in jeffnet.list_models()


def test_command_line_errors_are_one_line_and_status_2():
    command = [sys.executable, ROOT / 'pt_linen_train.py', '--config', ROOT / 'train_configs/digits_cpu.py']
    done = subprocess.run([*command, '--config.optimiser=adam'], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, 'pt_linen_train.py: config.optimiser is no key; closest: optimizer\n')
