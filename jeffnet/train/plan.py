"""Plan: a training run checked and built, before anything is trained or written."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

import jeffnet
from jeffnet.data import import_reader
from jeffnet.data.folder import ClassFolder, DataError
from jeffnet.data.order import Batch, EvaluationBatches
from jeffnet.data.preprocessing import Augmentation, Preprocessing
from jeffnet.train.config import Config, checked
from jeffnet.train.mesh import data_mesh, everywhere
from jeffnet.train.optimizers import make_optimizer
from jeffnet.train.schedules import make_schedule
from jeffnet.train.state import TrainState
from jeffnet.train.step import make_eval_step, make_train_step


@dataclass(frozen=True)
class Plan:
    """What a run consists of, checked and built; for one run, which uses up the state."""

    config: Config
    mesh: Mesh
    classes: list[str]
    preprocessing: Preprocessing
    training: Callable[..., Generator[Batch]]  # endless batches, from `start_step` on
    validation: EvaluationBatches
    options: dict  # with config.model, they rebuild the network
    state: TrainState
    train_step: Callable
    eval_step: Callable
    schedule: optax.Schedule
    steps: int
    images: int  # to train on

    @property
    def steps_per_epoch(self) -> float:
        """Rarely a whole number: batches run across the ends of epochs."""
        return self.images / self.config.batch_size


def prepare(config: Config, pipeline: str) -> Plan:
    """Builds data, model and optimizer for a run with the `tf` or `pt` reader; only the output folder is made.

    Raises ValueError, with one line that names the key, for whatever is wrong with the configuration or the data.
    """
    config = checked(config)
    mesh = data_mesh()
    if config.batch_size % mesh.size:
        raise ValueError(f'config.batch_size is {config.batch_size}; allowed: multiples of {mesh.size}, the devices')
    check_output(Path(config.output_dir))

    # --- data
    training, validation = class_folders(config)
    preprocessing, augmentation = transforms(config)
    reader = import_reader(pipeline)
    steps_per_epoch = len(training) / config.batch_size
    steps = max(1, round(config.epochs * steps_per_epoch))

    # --- model
    module, variables, options = make_model(config, len(training.classes), preprocessing)

    # --- optimizer
    warmup = min(round(config.warmup_epochs * steps_per_epoch), steps - 1)
    schedule = make_schedule(config.schedule, peak=config.learning_rate, total_steps=steps, warmup_steps=warmup)
    optimizer = make_optimizer(config.optimizer, schedule, momentum=config.momentum, weight_decay=config.weight_decay)
    make_output(Path(config.output_dir))
    return Plan(
        config=config,
        mesh=mesh,
        classes=training.classes,
        preprocessing=preprocessing,
        training=partial(
            reader.training_batches,
            training,
            preprocessing,
            augmentation,
            config.batch_size,
            config.seed,
            workers=config.workers,
        ),
        validation=reader.evaluation_batches(validation, preprocessing, config.batch_size, config.workers),
        options=options,
        state=jax.device_put(TrainState.create(variables, optimizer), everywhere(mesh)),
        train_step=make_train_step(module, optimizer, mesh, seed=config.seed, smoothing=config.label_smoothing),
        eval_step=make_eval_step(module, mesh),
        schedule=schedule,
        steps=steps,
        images=len(training),
    )


def check_output(folder: Path) -> None:
    """Raises ValueError if `folder` holds another run's checkpoints, or is a file."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f'config.output_dir is {folder}, a file; allowed: a folder, or a path where one can be made')
    if (folder / 'last').exists():
        raise ValueError(f'config.output_dir is {folder}, which holds a run; give another folder, or remove that one')


def make_output(folder: Path) -> None:
    """Makes `folder`; raises ValueError if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f'config.output_dir is {folder}, which cannot be made ({error.strerror})') from error


def class_folders(config: Config) -> tuple[ClassFolder, ClassFolder]:
    """The images to train and to validate on; both have the classes of the first."""
    key = 'train_split'
    try:
        training = ClassFolder.open(config.data_dir, config.train_split)
        key = 'validation_split'
        return training, ClassFolder.open(config.data_dir, config.validation_split, training.classes)
    except (DataError, OSError) as error:
        raise ValueError(f'config.data_dir is {config.data_dir}, config.{key} is {config[key]}: {error}') from error


def transforms(config: Config) -> tuple[Preprocessing, Augmentation]:
    """The model's own preprocessing with what the configuration changes, and the augmentation."""
    try:
        info = jeffnet.model_info(config.model)
    except ValueError as error:
        raise ValueError(f'config.model: {error}') from error
    changed = {key: config[key] for key in ('image_size', 'crop_pct', 'in_chans')}
    try:
        preprocessing = Preprocessing.of(info, **changed)
    except ValueError as error:
        raise ValueError(f'config.{error}') from error
    try:
        return preprocessing, Augmentation(**config.augmentation)
    except ValueError as error:
        raise ValueError(f'config.augmentation.{error}') from error


def make_model(config: Config, classes: int, preprocessing: Preprocessing) -> tuple[Any, dict, dict]:
    """A Linen module, its initial variables and the options of `create_model` that rebuild the network.

    Raises ValueError where the model does not take such images.
    """
    options = {'num_classes': classes, 'in_chans': config.in_chans, 'output_stride': config.output_stride}
    rates = {'drop_rate': config.drop_rate, 'drop_path_rate': config.drop_path_rate}
    images = jax.ShapeDtypeStruct((1, *preprocessing.image_size, config.in_chans), jnp.float32)
    try:
        module, variables = jeffnet.create_model(
            config.model, framework='linen', **options, **rates, dtype=jnp.dtype(config.dtype), seed=config.seed
        )
        jax.eval_shape(module.apply, variables, images)
    except ValueError as error:
        raise ValueError(f'config.model is {config.model}: {error}') from error
    return module, variables, options
