"""Every recipe in train_configs/: what its file says, its checks, and one step of a small copy of it."""

import re
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jeffnet
from jeffnet.train import checked, prepare, recipes
from jeffnet.train.config import items
from jeffnet.train.groups import HEAD, STEM
from jeffnet.train.mesh import split
from jeffnet.train.plan import scheduled
from jeffnet.train.step import zeros
from tests.tiny_model import register

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / 'train_configs').glob('*.py'))
IMAGENET = 1_281_167  # training images
BATCH = 16  # of the small copies: two groups of batch norm for each part of the most accumulation, 8
TINY = {'efficientnet': '{flavour}_tiny', 'resnet': 'pt_tiny_resnet', 'vit': 'pt_tiny_vit'}
# Most of the time here is that of compilation, which takes half as long so.
QUICKLY = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}

# But for sizes and rates of dropout these are the recipes of B0 and B7: that they can be prepared is enough.
ALIKE = [path for path in RECIPES if re.fullmatch('tf_efficientnet_b[1-6]_aa', path.stem)]

every_recipe = pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)


def load(path):
    """The configuration and the documentation of a recipe, by its file or its name."""
    module = runpy.run_path(str(path if isinstance(path, Path) else ROOT / f'train_configs/{path}.py'))
    config = module['get_config']()
    config.data_dir = 'somewhere'
    return config, module['__doc__']


def command(documentation):
    """Reader, framework and file of the command that trains by a recipe."""
    found = re.findall(r'python (tf|pt)_(linen|objax|nnx)_train\.py --config (\S+) --config\.data_dir ', documentation)
    assert len(found) == 1, f'{len(found)} commands that train'
    return found[0]


# ------------------------------------------------------------------------------------------------- what a file says


def test_the_recipes_that_were_promised_are_there():
    names = {path.stem for path in RECIPES}
    assert names >= {f'tf_efficientnet_b{i}_aa' for i in range(8)}
    assert names >= {'default', 'finetune', 'digits_cpu', 'tf_efficientnet_b0-gpu_24gb_x2', 'pt_efficientnet_b3-tpu_x8'}


@every_recipe
def test_documentation_has_command_hardware_hours_and_accuracy(path):
    _, documentation = load(path)
    assert command(documentation)[2] == f'train_configs/{path.name}'
    for label in ('Hardware', 'Hours', 'Top-1'):
        assert len(re.findall(rf'^{label}: \S', documentation, re.MULTILINE)) == 1, label
    # Either something was measured or the file says that nothing was.
    assert ' measured ' in documentation or ' yet ' in documentation


@every_recipe
def test_configuration_is_valid_and_its_model_known(path):
    config, _ = load(path)
    whole = checked(config)
    info = jeffnet.model_info(whole.model)
    if path.stem.endswith('_aa'):
        assert (whole.drop_rate, whole.augmentation.auto) == (info.drop_rate, 'v0')
        assert f'{info.input_size[0]} x {info.input_size[1]} pixels' in load(path)[1] or 'b0' in whole.model
    group, part = whole.batch_norm_group, whole.batch_size // whole.accumulation_steps
    assert group is None or part % group == 0


def test_a_wrong_key_fails():
    config, _ = load('pt_resnet50_a3')
    config.mixing.cut_mix = 1.0
    with pytest.raises(ValueError, match=r'config.mixing.cut_mix is no key; closest: mixing.cutmix'):
        checked(config)


# ----------------------------------------------------------------------------------------------- published rates


@pytest.mark.parametrize(
    ('name', 'peak', 'epoch', 'later'),
    [
        ('tf_efficientnet_b0_aa', 0.128, 7.3, 0.128 * 0.97**3),  # steps are counted from step 0
        ('pt_efficientnet_b0', 0.048, 240.1, 0.048 * 0.97**100),
        ('pt_mobilenetv3_large_100', 0.064, 240.1, 0.064 * 0.973**100),
        ('pt_mixnet_xl', 0.016, 240.1, 0.016 * 0.969**100),
        ('pt_resnet50_a1', 5e-3, 300, 2.5e-3),
        ('pt_resnet50_a2', 5e-3, 150, 2.5e-3),
        ('pt_resnet50_a3', 8e-3, 50, 4e-3),
        ('pt_vit_small_patch16_224', 1e-3, 154, 5e-4),
    ],
)
def test_learning_rate_at_full_size(name, peak, epoch, later):
    config = checked(load(name)[0])
    schedule, steps_per_epoch = full_schedule(config)
    steps = np.arange(round(10 * steps_per_epoch))
    rates = np.asarray(schedule(steps))
    assert rates.max() == pytest.approx(peak, rel=1e-3)
    assert abs(rates.argmax() - config.warmup_epochs * steps_per_epoch) <= 1
    assert rates[0] == pytest.approx(config.warmup_start, abs=1e-9)
    assert float(schedule(round(epoch * steps_per_epoch))) == pytest.approx(later, rel=2e-3)


def full_schedule(config):
    """The learning rate of a recipe on ImageNet-1k, and the steps of an epoch."""
    steps_per_epoch = IMAGENET / config.batch_size
    return scheduled(config, round(config.epochs * steps_per_epoch), steps_per_epoch), steps_per_epoch


# ---------------------------------------------------------------------------------------------------- one step


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """A folder of 32 generated images in four classes, half of them to train on."""
    folder, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
    for split_name in ('train', 'validation'):
        for i in range(BATCH):
            path = folder / split_name / f'class{i % 4}' / f'{i}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 36, 3), np.uint8)).save(path)
    return folder


def shrunken(config, images, output):
    """A copy that trains one step at the highest rate of the recipe, all else as it is but for sizes."""
    small = config.copy_and_resolve_references()
    info = jeffnet.model_info(config.model)
    small.update(data_dir=str(images), output_dir=str(output), workers=0, tensorboard=False)
    small.update(model=register(TINY[info.file].format(flavour=info.flavour)), pretrained=False, weights=None)
    small.update(image_size=32, eval_image_size=config.eval_image_size and 64)
    small.update(batch_size=BATCH, epochs=1.0, warmup_epochs=0.0)
    small.update(learning_rate=peak(config), learning_rate_batch=None)
    if config.batch_norm_group:
        small.batch_norm_group = config.batch_norm_group * BATCH // config.batch_size
    if config.dtype == 'float16':
        small.loss_scale = 1024.0  # the first steps of a run look for the highest scale that does not overflow
    return small


def peak(config):
    """The learning rate after warm-up."""
    return config.learning_rate * (config.batch_size / (config.learning_rate_batch or config.batch_size))


def prepared(path, images, output):
    """The plan of a small copy of a recipe, and the recipe."""
    config, documentation = load(path)
    reader, framework, _ = command(documentation)
    small = shrunken(config, images, output)
    changed = {key for (key, new), (_, old) in zip(items(small), items(config), strict=True) if new != old}
    assert not {key.partition('.')[0] for key in changed} & {'augmentation', 'erasing', 'mixing', 'optimizer'}

    plan = prepare(small, reader, framework)
    assert (plan.steps, plan.images, float(plan.schedule(0))) == (1, BATCH, pytest.approx(peak(config), rel=1e-6))
    return plan, config


@pytest.mark.parametrize('path', ALIKE, ids=lambda path: path.stem)
def test_a_small_copy_can_be_prepared(path, images, tmp_path):
    prepared(path, images, tmp_path)


@pytest.mark.parametrize('path', [path for path in RECIPES if path not in ALIKE], ids=lambda path: path.stem)
def test_one_step_of_a_small_copy(path, images, tmp_path):
    plan, config = prepared(path, images, tmp_path)
    batch = split(plan.mesh, next(plan.batches(0, 0)))
    assert np.isfinite(np.asarray(batch['image'])).all() and batch['image'].shape == (BATCH, 32, 32, 3)
    before = jax.tree.map(np.asarray, plan.state.params)
    arguments = plan.state, zeros(plan.mesh), batch
    state, totals = plan.train_step.lower(*arguments).compile(QUICKLY)(*arguments)

    assert (int(totals['steps']), int(state.skipped), int(totals['images'])) == (1, 0, BATCH)
    assert np.isfinite(float(totals['loss'])) and float(totals['loss']) > 0
    assert float(state.opt_state.hyperparams['learning_rate']) == pytest.approx(peak(config), rel=1e-6)
    moved = {name: float(np.abs(np.asarray(state.params[name]) - old).max()) for name, old in before.items()}
    assert all(np.isfinite(value) for value in moved.values())
    for ends in (STEM, HEAD):
        assert any(value > 0 for name, value in moved.items() if re.match(ends, name)), f'{ends} did not move'
    assert bool(state.ema) == (config.ema_decay > 0)


# ------------------------------------------------------------------------------------------------ a recipe by its name


def test_a_name_stands_for_a_recipe_and_a_file_for_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = str(ROOT / 'train_configs' / 'finetune.py')
    assert recipes.found(['--config', 'finetune', '--config.model', 'finetune']) == [
        '--config', recipe, '--config.model', 'finetune'
    ]  # fmt: skip
    assert recipes.found(['--config=train_configs/finetune.py']) == [f'--config={recipe}']
    for other in ('./finetune.py', 'finetune.py', 'mine/finetune.py', 'finetun'):
        assert recipes.found(['--config', other]) == ['--config', other]
    (tmp_path / 'train_configs').mkdir()
    (tmp_path / 'train_configs/finetune.py').touch()
    assert recipes.found(['--config=train_configs/finetune.py']) == ['--config=train_configs/finetune.py']
