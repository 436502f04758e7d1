"""Plan: a training run checked and built, before anything is trained or written."""

import importlib
import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import jeffnet
from jeffnet.data import import_reader
from jeffnet.data.opening import open_training
from jeffnet.data.order import Batch, EvaluationBatches, Shard
from jeffnet.data.preprocessing import Augmentation, Preprocessing
from jeffnet.data.source import DataError, Source
from jeffnet.models.table import network_of
from jeffnet.train.config import Config, checked, differences
from jeffnet.train.groups import decay_mask, multipliers
from jeffnet.train.mesh import data_mesh, shardings
from jeffnet.train.optimizers import make_optimizer
from jeffnet.train.report import check_wandb
from jeffnet.train.schedules import Schedule, make_schedule
from jeffnet.train.state import TrainState
from jeffnet.train.step import Recipe, make_eval_step, make_train_step, prepared

FRAMEWORKS = ('linen', 'nnx', 'objax')


@dataclass(frozen=True)
class Plan:
    """What a run consists of, checked and built; for one run, which uses up the state."""

    config: Config
    framework: str
    mesh: Mesh
    shard: Shard  # this process among all
    classes: list[str]
    preprocessing: Preprocessing  # of validation
    stages: list[tuple[int, Preprocessing]]  # of training: from which step on
    read: Callable[[Preprocessing, int], Generator[Batch]]  # this process's endless batches, from a step on
    validation: EvaluationBatches  # this process's part
    options: dict  # with config.model, they rebuild the network
    state: TrainState
    train_step: Callable
    eval_step: Callable
    schedule: Schedule
    steps: int
    images: int  # to train on
    validation_images: int
    resume: str  # 'auto' or 'never'
    faults: list[str]  # of images that others stand in for; the reader appends to it

    @property
    def steps_per_epoch(self) -> float:
        """Rarely a whole number: batches run across the ends of epochs."""
        return self.images / self.config.batch_size

    def batches(self, step: int, data_step: int) -> Iterator[Batch]:
        """The batches of the steps after `step`, of which the first reads batch `data_step` of the data order."""
        while step < self.steps:
            at = max(i for i, (first, _) in enumerate(self.stages) if first <= step)
            until = self.stages[at + 1][0] if at + 1 < len(self.stages) else self.steps
            batches = self.read(self.stages[at][1], data_step)
            try:
                for _ in range(step, until):
                    yield next(batches)
            finally:
                batches.close()
            step, data_step = until, data_step + until - step

    def validated(self) -> Iterator[Batch]:
        """The batches of one validation: as many in each process, so that all compute together."""
        most = -(-self.validation_images // self.shard.count)
        steps = -(-most // self.validation.batch_size)
        yield from self.validation
        size = (self.validation.batch_size, *self.preprocessing.image_size, self.config.in_chans)
        empty = {'image': np.zeros(size, np.float32), 'label': np.zeros(size[0], np.int32),
                 'mask': np.zeros(size[0], bool)}  # fmt: skip
        for _ in range(steps - len(self.validation)):
            yield empty


def prepare(config: Config, pipeline: str, framework: str = 'linen', resume: str = 'never') -> Plan:
    """Builds data, model and optimizer for a run with the `tf` or `pt` reader; only the output folder is made.

    `resume` 'auto': goes on from the last checkpoint in `config.output_dir`, if there is one. Raises ValueError, with
    one line that names the key, for whatever is wrong with the configuration or the data.
    """
    # --- checks that need nothing
    config = checked(config)
    if framework not in FRAMEWORKS:
        raise ValueError(f'framework is {framework!r}; allowed: {", ".join(FRAMEWORKS)}')
    if config.wandb:
        check_wandb(config.wandb)
    mesh, shard = data_mesh(), Shard(jax.process_index(), jax.process_count())
    check_batch(config, mesh)
    check_output(Path(config.output_dir), config, resume)
    reader = import_reader(pipeline)
    training_size, preprocessing, augmentation = transforms(config)

    # --- data
    training, validation = sources(config)
    steps_per_epoch = len(training) / config.batch_size
    steps = max(1, round(config.epochs * steps_per_epoch))
    stages = progressive(config, training_size, steps)

    # --- model
    network, params, stats, options = make_model(config, framework, len(training.classes), stages, preprocessing, mesh)

    # --- optimizer
    schedule = scheduled(config, steps, steps_per_epoch)
    try:
        factors = multipliers(params, layer_decay=config.layer_decay,
                              lr_multipliers=config.lr_multipliers, freeze=config.freeze)  # fmt: skip
        optimizer = make_optimizer(
            config.optimizer,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            decay_mask=config.decay_mask,
            options=config.optimizer_options.to_dict(),
            clip_norm=config.clip_norm,
            clip_value=config.clip_value,
            clip_adaptive=config.clip_adaptive,
            multipliers=factors,
        )
        decay_mask(params, config.decay_mask)
        decay_mask(params, config.l2_mask)
        recipe = recipe_of(config, steps, steps_per_epoch, frozenset(name for name, f in factors.items() if f == 0))
        check_mixing(config, recipe, stages, len(training.classes))
    except ValueError as error:
        raise ValueError(f'config: {error}') from error

    # --- state, steps
    make_output(Path(config.output_dir))
    state = TrainState.create(
        params,
        stats,
        optimizer,
        ema=config.ema_decay > 0,
        loss_scale=config.loss_scale if config.dtype == 'float16' else None,
    )
    placed = shardings(mesh, state, config.sharding, config.fsdp_min_size)

    faults: list[str] = []

    def read(stage: Preprocessing, step: int):
        return reader.training_batches(
            training, stage, augmentation, config.batch_size, config.seed, step, config.workers,
            shard=shard, repeats=config.repeats,
            on_bad_image=faults.append if config.on_bad_image == 'replace' else None,
        )  # fmt: skip

    evaluated = config.eval_batch_size or config.batch_size // config.accumulation_steps
    local = evaluated // shard.count
    return Plan(
        config=config,
        framework=framework,
        mesh=mesh,
        shard=shard,
        classes=training.classes,
        preprocessing=preprocessing,
        stages=stages,
        read=read,
        validation=reader.evaluation_batches(validation, preprocessing, local, config.workers, shard=shard),
        options=options,
        state=jax.device_put(state, placed),
        train_step=make_train_step(
            network, optimizer, schedule, recipe, classes=len(training.classes), mesh=mesh, shardings=placed
        ),
        eval_step=make_eval_step(network, mesh),
        schedule=schedule,
        steps=steps,
        images=len(training),
        validation_images=len(validation),
        resume=resume,
        faults=faults,
    )


def check_batch(config: Config, mesh: Mesh) -> None:
    """Raises ValueError for a batch that cannot be split evenly."""
    parts = mesh.size * config.accumulation_steps
    if config.batch_size % parts:
        raise ValueError(
            f'config.batch_size is {config.batch_size}; allowed: multiples of {parts}, the number of devices '
            f'({mesh.size}) times config.accumulation_steps ({config.accumulation_steps})'
        )
    if config.eval_batch_size and config.eval_batch_size % mesh.size:
        raise ValueError(
            f'config.eval_batch_size is {config.eval_batch_size}; allowed: multiples of {mesh.size}, one a device'
        )
    group, part = config.batch_norm_group, config.batch_size // config.accumulation_steps
    if group and part % group:
        raise ValueError(
            f'config.batch_norm_group is {group}; allowed: divisors of {part}, config.batch_size / accumulation_steps'
        )


def check_mixing(config: Config, recipe: Recipe, stages: list[tuple[int, Preprocessing]], classes: int) -> None:
    """Raises ValueError for settings of mixing and erasing that do not go with each other or with the batch."""
    key = jax.random.key(0)
    for _, stage in stages:
        images = jax.ShapeDtypeStruct((config.batch_size, *stage.image_size, config.in_chans), jnp.float32)
        batch = {'image': images, 'label': jax.ShapeDtypeStruct((config.batch_size,), jnp.int32)}
        jax.eval_shape(lambda batch: prepared(recipe, batch, classes, 0, key, key), batch)


def check_output(folder: Path, config: Config, resume: str) -> None:
    """Raises ValueError if `folder` is a file, or holds a run that this one does not go on with."""
    if resume not in ('auto', 'never'):
        raise ValueError(f'resume is {resume!r}; allowed: auto, never')
    if folder.exists() and not folder.is_dir():
        raise ValueError(f'config.output_dir is {folder}, a file; allowed: a folder, or a path where one can be made')
    holds = (folder / 'last').exists() or any((folder / 'checkpoints').glob('[0-9]*'))
    if holds and resume == 'never':
        raise ValueError(
            f'config.output_dir is {folder}, which holds a run; go on with it by --resume auto, give another folder, '
            'or remove that one'
        )
    if holds and (folder / 'config.json').is_file():
        try:
            changed = differences(config, json.loads((folder / 'config.json').read_text()))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f'{folder / "config.json"} is damaged ({error}); remove it to go on without it') from error
        if changed:
            raise ValueError(
                f'--resume auto: {folder} holds a run of another configuration: {"; ".join(changed)}; to start from '
                f'its weights, give another config.output_dir and config.weights={folder / "last"}'
            )


def make_output(folder: Path) -> None:
    """Makes `folder`; raises ValueError if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f'config.output_dir is {folder}, which cannot be made ({error.strerror})') from error


def sources(config: Config) -> tuple[Source, Source]:
    """The images to train and to validate on; both have the classes of the first."""
    if not config.data_dir:
        raise ValueError('config.data_dir is empty: give the folder that holds the images, --config.data_dir DIR')
    key = 'train_split'
    try:
        training = open_training(config.data_dir, config.train_split, config.dataset)
        key = 'validation_split'
        validation = open_training(config.data_dir, config.validation_split, config.dataset, training.classes)
    except (DataError, OSError) as error:
        raise ValueError(f'config.data_dir is {config.data_dir}, config.{key} is {config[key]}: {error}') from error
    if list(validation.classes) != list(training.classes):
        raise ValueError(
            f'config.data_dir is {config.data_dir}: {config.train_split} has {len(training.classes)} classes, '
            f'{config.validation_split} has {len(validation.classes)}, or others; both must have the same'
        )
    return training, validation


def transforms(config: Config) -> tuple[Preprocessing, Preprocessing, Augmentation]:
    """The preprocessing of training and of validation: the model's own with what is changed; and the augmentation."""
    try:
        info = jeffnet.model_info(config.model)
    except ValueError as error:
        raise ValueError(f'config.model: {error}') from error
    changed = {key: config[key] for key in ('image_size', 'crop_pct', 'in_chans', 'interpolation')}
    try:
        training = Preprocessing.of(info, kind=config.preprocessing, **changed)
        validation = Preprocessing.of(training, image_size=config.eval_image_size)
    except ValueError as error:
        raise ValueError(f'config.{error}') from error
    try:
        return training, validation, Augmentation(**config.augmentation)
    except ValueError as error:
        raise ValueError(f'config.augmentation.{error}') from error


def progressive(config: Config, preprocessing: Preprocessing, steps: int) -> list[tuple[int, Preprocessing]]:
    """From which step on images of which size are trained on."""
    try:
        stages = [
            (round(share * steps), Preprocessing.of(preprocessing, image_size=size))
            for share, size in config.progressive_sizes
        ]
    except ValueError as error:
        raise ValueError(f'config.progressive_sizes: {error}') from error
    return stages or [(0, preprocessing)]


def make_model(
    config: Config, framework: str, classes: int, stages: list, preprocessing: Preprocessing, mesh: Mesh
) -> tuple[Callable, dict, dict, dict]:
    """The network as a function, its parameters and statistics, and the options of `create_model` that rebuild it.

    Raises ValueError where the model does not take such images.
    """
    options = {'num_classes': classes, 'in_chans': config.in_chans, 'output_stride': config.output_stride}
    options |= {key: config[key] for key in ('bn_eps', 'bn_momentum') if config[key] is not None}
    info = jeffnet.model_info(config.model)
    has_positions = hasattr(network_of(info), 'image_size')
    if has_positions and config.image_size is not None:
        options['image_size'] = stages[0][1].image_size
    group = config.batch_norm_group
    if config.batch_norm == 'replica':
        group = config.batch_size // config.accumulation_steps // mesh.size
    try:
        made = jeffnet.create_model(
            config.model,
            framework=framework,
            pretrained=config.pretrained,
            weights=config.weights,
            drop_rate=config.drop_rate,
            drop_path_rate=config.drop_path_rate,
            bn_group_size=group,
            bn_frozen=config.batch_norm == 'frozen',
            dtype=jnp.dtype(config.dtype),
            seed=config.seed,
            **options,
        )
        back_end = importlib.import_module(f'jeffnet.{framework}')
        network, params, stats = back_end.functional(*(made if isinstance(made, tuple) else (made, None)))
        for used in {size.image_size for _, size in stages} | {preprocessing.image_size}:
            images = jax.ShapeDtypeStruct((1, *used, config.in_chans), jnp.float32)
            jax.eval_shape(network, params, stats, images)
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f'config.model is {config.model}: {error}') from error
    return network, params, stats, options


def scheduled(config: Config, steps: int, steps_per_epoch: float) -> Schedule:
    """The learning rate by step."""
    factor = config.batch_size / config.learning_rate_batch if config.learning_rate_batch else 1.0
    try:
        return make_schedule(
            config.schedule,
            peak=config.learning_rate * factor,
            total_steps=steps,
            steps_per_epoch=steps_per_epoch,
            warmup_steps=min(round(config.warmup_epochs * steps_per_epoch), steps - 1),
            warmup_start=config.warmup_start,
            cooldown_steps=round(config.cooldown_epochs * steps_per_epoch),
            options=config.schedule_options.to_dict(),
        )
    except ValueError as error:
        raise ValueError(f'config: {error}') from error


def recipe_of(config: Config, steps: int, steps_per_epoch: float, frozen: frozenset[str]) -> Recipe:
    """What a step does apart from model, optimizer and schedule."""
    mixes = config.mixing.mixup or config.mixing.cutmix
    off = round(config.mixing.off_epochs * steps_per_epoch)
    mixing = {'mixup_alpha': config.mixing.mixup, 'cutmix_alpha': config.mixing.cutmix}
    mixing |= {key: config.mixing[key] for key in ('prob', 'switch_prob', 'mode')}
    return Recipe(
        seed=config.seed,
        loss=config.loss,
        label_smoothing=config.label_smoothing,
        bce={'threshold': config.bce_threshold, 'sum_classes': config.bce_sum},
        l2=config.l2,
        l2_mask=config.l2_mask,
        mixing=mixing if mixes else {},
        mixing_steps=steps - off if off else None,
        erasing=config.erasing.to_dict() if config.erasing.prob else {},
        accumulation_steps=config.accumulation_steps,
        frozen=frozen,
        ema_decay=config.ema_decay,
        ema_warmup=config.ema_warmup,
        loss_scale_growth=config.loss_scale_growth,
        remat=config.remat,
    )
