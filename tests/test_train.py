"""Training: each part against closed forms, and one small run from image files to a checkpoint that validates."""

import json
import runpy
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from ml_collections import ConfigDict
from PIL import Image
from timm.utils import ModelEmaV3

import jeffnet
from jeffnet.data.source import DataError
from jeffnet.train import checked, count, cross_entropy, default_config, prepare, run, summary, zeros
from jeffnet.train.averages import ema_decay
from jeffnet.train.feed import Feed
from jeffnet.train.loss_scale import LossScale
from jeffnet.train.plan import check_batch
from tests.tiny_model import register

ROOT = Path(__file__).parents[1]
MODEL = register('tf_tiny')

# -------------------------------------------------------------------------------------------------- metrics


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


def test_checkpoint_gives_what_training_measured(trained):
    plan, _, folder = trained
    assert sorted(path.name for path in folder.iterdir()) == [
        'best', 'checkpoints', 'config.json', 'curves.png', 'last', 'learning_rate.png', 'log.jsonl', 'metrics.csv',
        'tensorboard',
    ]  # fmt: skip
    config = jeffnet.weights.read_config(folder / 'last')
    module, variables = jeffnet.create_model(config['model'], weights=folder / 'last', **config['options'])
    predict = jeffnet.predictor(module, variables)
    (batch,) = plan.validation  # 7 images and one row that only fills the batch
    right = (np.argmax(predict(batch['image']), axis=-1) == batch['label'])[:7]
    assert config['metrics']['top1'] == pytest.approx(100 * right.mean())
    assert config['classes'] == ['blue', 'green', 'red']


def test_average_is_exported_beside_the_weights(squares, tmp_path):
    config = small_config(squares, tmp_path)
    config.update(ema_decay=0.9, epochs=2.0)
    plan = prepare(config, 'pt')
    run(plan)
    rows = [json.loads(line) for line in (tmp_path / 'log.jsonl').read_text().splitlines()]
    judged = {row['weights']: row for row in rows if row['kind'] == 'validation'}
    (batch,) = plan.validation
    losses = {}
    for use_ema in (True, False):
        module, variables = jeffnet.create_model(MODEL, weights=tmp_path / 'last', use_ema=use_ema)
        logits = jeffnet.predictor(module, variables)(batch['image'])[:7]
        losses[use_ema] = float(cross_entropy(logits, jnp.asarray(batch['label'][:7])).mean())
    assert losses[True] == pytest.approx(judged['ema']['loss'], rel=1e-4)
    assert losses[False] == pytest.approx(judged['raw']['loss'], rel=1e-4)
    assert losses[True] != pytest.approx(losses[False], rel=1e-3)


def test_feed_passes_errors_on_and_closes_in_its_thread():
    closed = []

    def batches():
        try:
            yield 1
            yield 2
            raise DataError('third')
        finally:
            closed.append(threading.current_thread().name)

    feed = Feed(batches(), lambda batch: 10 * batch, ahead=1)
    assert (next(feed), next(feed)) == (10, 20)
    with pytest.raises(DataError, match='third'):
        next(feed)
    feed.close()
    endless = Feed(iter(int, 1), lambda batch: batch, ahead=2)
    endless.close()
    assert closed == ['feed'] and not endless.thread.is_alive()


def test_ema_decay_by_hand():
    assert float(ema_decay(0, 0.9999)) == pytest.approx(0.1)
    assert float(ema_decay(90, 0.9999)) == pytest.approx(0.91)
    assert float(ema_decay(10**7, 0.9999)) == pytest.approx(0.9999)
    assert float(ema_decay(0, 0.9999, 'none')) == pytest.approx(0.9999)
    timms = ModelEmaV3(torch.nn.Linear(1, 1), decay=0.9999, use_warmup=True)
    for step in (0, 1, 10, 1000):  # timm counts from 1
        assert float(ema_decay(step, 0.9999, 'timm')) == pytest.approx(timms.get_decay(step + 1), rel=1e-4)


def test_loss_scale_grows_to_its_cap_and_shrinks():
    scale = LossScale.create(2.0**22)
    for expected in (2.0**23, 2.0**24, 2.0**24):
        for _ in range(3):
            before, scale = scale, scale.updated(jnp.bool_(True), growth_steps=3)
        assert float(scale.scale) == expected and int(before.good_steps) == 2
    scale = scale.updated(jnp.bool_(True), 3).updated(jnp.bool_(False), 3)
    assert (float(scale.scale), int(scale.good_steps)) == (2.0**23, 0)
    assert float(LossScale.create(1.0).updated(jnp.bool_(False), 3).scale) == 1.0


# --------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('optimizer', 'nestrov', r"config.optimizer is 'nestrov'; allowed: sgd, .*did you mean nesterov"),
        ('schedule', 'cosin', r"config.schedule is 'cosin'; allowed: .*did you mean cosine"),
        ('dtype', 'float8', r"config.dtype is 'float8'; allowed: float32, bfloat16, float16"),
        ('batch_size', 0, r'config.batch_size is 0; allowed: 1 or more'),
        ('epochs', float('nan'), r'config.epochs is nan; allowed: above 0'),
        ('epochs', 1.0, r'config.warmup_epochs is 1, .*; allowed: together below config.epochs, 1'),
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
        ('accumulation_steps', 3, r'config.batch_size is 8; allowed: multiples of 3'),
        ('eval_batch_size', 0, r'config.eval_batch_size is 0; allowed: 1 or more'),
        ('batch_norm', 'groups', r"config.batch_norm is 'groups' and config.batch_norm_group None; allowed"),
        ('batch_norm_group', 4, r"config.batch_norm is 'global' and config.batch_norm_group 4; allowed"),
        ('freeze', ('nothing_like_it',), r'config: .*nothing_like_it'),
        ('optimizer_options', {'b9': 0.5}, r'config: .*b9'),
        ('schedule_options', {'min_rte': 0.5}, r'config: .*min_rte'),
        ('progressive_sizes', ((0.5, 32),), r'config.progressive_sizes is .*begin with 0'),
        ('profile_steps', '9:3', r"config.profile_steps is '9:3'; allowed: FIRST:LAST"),
        ('remat', 'all', r"config.remat is 'all'; allowed: none, blocks"),
        ('sharding', 'zero', r"config.sharding is 'zero'; allowed: replicated, fsdp"),
        ('wandb', 'a/b/c', r"config.wandb is 'a/b/c'; allowed"),
        ('weights', '/nowhere.safetensors', r'config.model is .*nowhere'),
        ('augmentation.auto', 'rnd-m9', r"config.augmentation.auto is 'rnd-m9'; allowed"),
        ('mixing.mode', 'pairs', r"config.mixing.mode is 'pairs'; allowed: batch, pair, elem"),
        ('erasing.mode', 'noise', r"config.erasing.mode is 'noise'; allowed: const, rand, pixel"),
        ('erasing.prob', 0.5, r'config: .*max_count|config: .*count'),
        ('mixing.mixup', 0.2, r'config: a batch of 9 images has no pairs'),
        ('l2_mask', 'foo', r"config: .*'foo'"),
        ('decay_mask', 'foo', r"config: .*'foo'"),
        ('plateau.decay', 7.0, r'config.plateau.decay is 7.0; allowed: above 0, below 1'),
        ('freeze', (1,), r'config.freeze and config.lr_multipliers name parameters by regular expressions'),
        ('lr_multipliers', (('classifier', 'a'),), r'config.lr_multipliers is .*pairs of a name and a number'),
        ('bce_threshold', 0.2, r"config.bce_threshold is for config.loss 'bce', which is 'softmax'"),
        ('learning_rte', 0.1, r'config.learning_rte is no key; closest: learning_rate'),
        ('augmentation.flip', 0.1, r'config.augmentation.flip is no key; closest: .*augmentation.hflip'),
    ],
)
def test_bad_configuration_fails_before_training(squares, tmp_path, key, value, message):
    config = small_config(squares, tmp_path / 'run')
    *parents, leaf = key.split('.')
    (config[parents[0]] if parents else config)[leaf] = value
    config.erasing.max_count = 0  # counts once erasing is on
    if key == 'mixing.mixup':
        config.update(batch_size=9, mixing={'mode': 'pair'})
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


def test_resuming_with_another_configuration_is_refused(squares, trained):
    *_, folder = trained
    config = small_config(squares, folder)
    config.update(learning_rate=0.01, log_every_steps=1, mixing={'mixup': 0.5})
    with pytest.raises(
        ValueError, match=r'config.learning_rate is 0.01, was 0.05; config.mixing.mixup is 0.5, was 0.0; to start'
    ):
        prepare(config, 'pt', resume='auto')


def test_keys_without_a_value_have_a_type():
    """Otherwise no flag of the command line could set them."""
    config = default_config()
    groups = [(config, ''), *((value, f'{key}.') for key, value in config.items() if isinstance(value, ConfigDict))]
    untyped = [prefix + key for group, prefix in groups for key in group if group.get_type(key) is type(None)]
    assert not untyped


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


@pytest.mark.parametrize(
    ('line', 'told'),
    [("config = int('many')", "FILE, line 2: ValueError: invalid literal for int() with base 10: 'many'"),
     ('config.model.size = 1', "FILE, line 2: NameError: name 'config' is not defined"),
     ('import nowhere', "FILE, line 2: ModuleNotFoundError: No module named 'nowhere'"),
     ('config = ml_collections.ConfigDict().model', 'FILE, line 2: AttributeError: "\'model\'"'),
     ('config = None', 'get_config() of this file returns None, and not a configuration')],
)  # fmt: skip
def test_errors_of_a_configuration_name_its_line(tmp_path, line, told):
    file = tmp_path / 'own.py'
    file.write_text(f'def get_config():\n    {line}\n    return config\n\n\nimport ml_collections\n')
    command = [sys.executable, ROOT / 'pt_linen_train.py', '--config', file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert (done.returncode, last) == (2, f'pt_linen_train.py: --config: {told.replace("FILE", str(file))}')


def test_validation_batches_are_shared_evenly_among_devices():
    config = default_config()
    config.update(batch_size=8, eval_batch_size=3)
    with pytest.raises(ValueError, match=r'config.eval_batch_size is 3; allowed: multiples of 2, one a device'):
        check_batch(config, SimpleNamespace(size=2))
