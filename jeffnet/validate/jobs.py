"""What to validate: the models that the arguments name, their weights and their preprocessing; building them."""

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np

import jeffnet
from jeffnet.command_line import InputError
from jeffnet.data.preprocessing import Preprocessing
from jeffnet.models.table import list_models


@dataclass(frozen=True)
class Job:
    """One model to validate: the keywords of `create_model`, and how its images are prepared."""

    model: str
    options: dict[str, Any]
    preprocessing: Preprocessing
    source: str  # where the weights come from, for people and for the results file


def plan(args: argparse.Namespace) -> tuple[list[Job], list[str] | None]:
    """The jobs that the arguments ask for, and the class names if a checkpoint holds them."""
    if args.weights and args.checkpoint:
        raise ValueError('--weights and --checkpoint both name weights; give one of them')
    given = args.checkpoint or args.weights
    found = None if given is None else jeffnet.weights.locate(given)
    config = found.config if found else {}
    if found and not config and args.model is None and found.path.is_dir():
        config = jeffnet.weights.read_config(found.path)  # says what is missing
    names = [checkpoint_model(args, str(given), config)] if config else model_names(args, given)
    pretrained = given is None if args.pretrained is None else args.pretrained
    from jeffnet.weights.files import holds_average  # not at the top: it brings jax

    if args.ema and (found is None or not holds_average(found.path)):
        raise ValueError(f'--ema: {given or "published weights"} hold no averaged weights beside the raw ones')
    own = config.get('options', {})
    if config and args.num_classes not in (None, own.get('num_classes')):
        raise ValueError(f'--num-classes {args.num_classes}: {given} has {own.get("num_classes")} classes')
    options = {**own, 'pretrained': pretrained, 'weights': found and found.path, 'dtype': args.dtype}
    options['use_ema'] = args.ema is not False
    options['in_chans'] = args.in_chans or own.get('in_chans', 3)
    if not config and not pretrained:
        options['num_classes'] = args.num_classes
    jobs = []
    for name in names:
        stored = config.get('preprocessing') or jeffnet.model_info(name)
        preprocessing = Preprocessing.of(stored, **settings(args, options['in_chans']))
        jobs.append(Job(name, options, preprocessing, origin(name, given, pretrained, args.ema)))
    return jobs, config.get('classes')


def settings(args: argparse.Namespace, in_chans: int) -> dict[str, Any]:
    """The fields of `Preprocessing` that the arguments override, the others None."""
    size = args.img_size if args.img_size is None or len(args.img_size) > 1 else args.img_size[0]
    same = {name: getattr(args, name) for name in ('crop_pct', 'crop_mode', 'interpolation', 'mean', 'std')}
    return {'kind': args.preprocessing, 'image_size': size, 'in_chans': in_chans, **same}


def origin(name: str, given: str | None, pretrained: bool, ema: bool | None) -> str:
    """Where the weights of a job come from."""
    if given is None:
        return f'{jeffnet.model_info(name).weights}' if pretrained else 'random'
    return f'{given} (raw)' if ema is False else given


def checkpoint_model(args: argparse.Namespace, given: str, config: dict) -> str:
    """The model of a checkpoint folder, which --model may repeat."""
    if config['model'] is None:
        raise ValueError(f'{given} holds the timm architecture {config["architecture"]}, unknown to jeffnet')
    if args.model is not None and jeffnet.model_info(args.model).name != config['model']:
        raise ValueError(f'--model {args.model}: {given} is a checkpoint of {config["model"]}')
    return config['model']


def model_names(args: argparse.Namespace, given: str | None) -> list[str]:
    """The models that --model names."""
    if args.model is None:
        raise ValueError('--model is missing: a name, a shell glob or all (jeffnet.list_models() gives the names)')
    if args.model != 'all' and not set(args.model) & set('*?['):
        return [jeffnet.model_info(args.model).name]
    published = True if given is None and args.pretrained is not False else None
    names = list_models(None if args.model == 'all' else args.model, pretrained=published)
    if not names:
        raise ValueError(f'--model {args.model}: no model{" with published weights" if published else ""} matches')
    if given and len(names) > 1:
        raise ValueError(f'--model {args.model}: {len(names)} models match, and {given} has the weights of one')
    return names


def build(job: Job, framework: str, *, compiled: bool, fuse: bool) -> tuple[Any, dict[str, Any]]:
    """The model as a predictor, and its variables by flat name."""
    with jeffnet.weights.Incomplete():  # a fresh classifier, say: what follows would measure nothing
        model = jeffnet.create_model(job.model, framework, **job.options)
    module, variables = model if framework == 'linen' else (model, None)
    flat = jeffnet.flat_variables(module if variables is None else variables)
    return jeffnet.predictor(module, variables, compiled=compiled, fuse=fuse), flat


def blank(job: Job, count: int) -> np.ndarray:
    """Images of zeros as the model takes them."""
    return np.zeros((count, *job.preprocessing.image_size, job.preprocessing.in_chans), np.float32)


def classes_of(predict: Any, images: np.ndarray) -> int:
    """The number of classes of a model; InputError if it has no classifier."""
    shape = getattr(predict.outputs(images), 'shape', ())
    if len(shape) != 2:
        raise InputError(f'the model gives an output of shape {tuple(shape)}, no logits; it needs a classifier')
    return shape[-1]


def millions(flat: dict[str, Any]) -> float:
    """Trained parameters in millions, as timm writes them."""
    return round(sum(array.size for name, array in flat.items() if not name.endswith(('.mean', '.var'))) / 1e6, 2)
