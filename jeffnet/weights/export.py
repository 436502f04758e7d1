"""Weights out of jeffnet: files and repositories in timm's names and layout, which timm itself loads."""

import dataclasses
import json
import logging
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jeffnet
from jeffnet.core.block import PYTORCH, Policy, declarations
from jeffnet.core.derive import block_class, fields
from jeffnet.create import NOT_OVERRIDES, policy_of
from jeffnet.models.table import ModelInfo, definition, model_info, network_of
from jeffnet.weights import hub, keras_file, keras_names, recognise
from jeffnet.weights.checkpoint import replaced, write_arrays
from jeffnet.weights.files import TORCH_SUFFIXES
from jeffnet.weights.merge import stored_grid
from jeffnet.weights.names import timm_names, to_timm

log = logging.getLogger('jeffnet')

# Keywords of `create_model` that shape the network and that its root block holds.
OPTIONS = ('num_classes', 'in_chans', 'output_stride', 'image_size')  # of the last two a network has one
# What people may expect, and not get.
FOREIGN = (*TORCH_SUFFIXES, '.npz', '.npy', '.hdf5', '.keras', '.msgpack', '.onnx')
KERAS_SUFFIX = '.h5'  # `.weights.h5` as Keras 3 writes it, else as Keras 2


@dataclass(frozen=True)
class Export:
    """What is written: arrays under timm's names, and what the file or folder says about them."""

    info: ModelInfo | None
    state: dict[str, Any]  # timm's names and layout
    about: dict[str, Any]  # model, options, preprocessing, classes, metrics
    features: int  # channels in front of the classifier
    first_conv: str  # timm's name of the convolution that reads the image


def save_weights(
    model: Any,
    path: str | Path,
    variables: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    classes: list[str] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Path:
    """Writes a model in timm's names and layout: to a `.safetensors` file, or else to a folder with a `config.json`.

    A path that ends in `.weights.h5` gets the names and layout of Keras 3, another `.h5` those of Keras 2, for the
    `load_weights` of either.

    `model` is an Objax or NNX module, a Linen module with its `variables`, or Linen variables alone. Modules made by
    `create_model` know their name; variables do not: give `name`, or the file says only what the shapes show.
    `preprocessing` (the fields of `Preprocessing`, or what `read_config` gives) is that of the name unless given. An
    existing file or folder is replaced when the new one is whole. Raises ValueError or TypeError for what is no model.
    """
    if not str(path):
        raise ValueError("path='': give the path of a .safetensors file or of a folder")
    path = Path(path).expanduser().resolve()  # what a link points at is replaced, not the link
    if path.suffix.lower() == KERAS_SUFFIX:
        return save_keras_weights(model, path, variables, name)
    if path.suffix.lower() in FOREIGN:
        raise ValueError(
            f'{path}: jeffnet writes .safetensors files, folders (a path without a suffix), and for Keras .weights.h5 '
            'and .h5'
        )
    export = exported(model, variables, name, preprocessing, classes, metrics)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.safetensors':
        if path.is_dir():
            raise ValueError(f'{path} is a folder; give the path of a file')
        temporary = path.with_name(f'.{path.name}.{os.getpid()}')
        try:
            write_arrays(temporary, export.state, metadata(export))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path
    if path.is_file():
        raise ValueError(f'{path} is a file; give the path of a folder, or one that ends in .safetensors')
    if path.is_dir() and not {p.name for p in path.iterdir()} <= {'config.json', 'model.safetensors', 'README.md'}:
        raise ValueError(f'{path} is a folder with other things in it; give a new one')
    with replaced(path) as folder:
        write_folder(folder, export, f'local-dir:{path.name}')
    return path


def save_keras_weights(model: Any, path: Path, variables: Mapping[str, Any] | None, name: str | None) -> Path:
    """Writes a `.weights.h5` of Keras 3, or an `.h5` of Keras 2."""
    if path.is_dir():
        raise ValueError(f'{path} is a folder; give the path of a file')
    info, block, policy, flat = described(model, variables, name)
    if info is None:
        raise ValueError('these variables are those of several models: give name=')
    layers = keras_names.to_keras(info, block, policy, flat)
    path.parent.mkdir(parents=True, exist_ok=True)
    keras_file.write(path, layers)
    return path


def push_to_hub(
    model: Any,
    repo: str,
    variables: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    classes: list[str] | None = None,
    metrics: Mapping[str, float] | None = None,
    token: str | None = None,
    private: bool = False,
    revision: str | None = None,
    message: str = 'Add the model',
) -> str:
    """Uploads a model to the Hugging Face hub, with `config.json` and a model card; returns the address of the commit.

    Both jeffnet and timm load it as `hf-hub:owner/repo`. The model is given as for `save_weights`. Raises
    ConnectionError, PermissionError or ValueError with what to do.
    """
    export = exported(model, variables, name, preprocessing, classes, metrics)
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), export, f'hf-hub:{repo}')
        return hub.upload(Path(folder), repo, token=token, private=private, revision=revision, message=message)


def described(model, variables, name) -> tuple[ModelInfo | None, Any, Policy, dict[str, Any]]:
    """The table's entry, the block, the policy and the flat variables of a model; ValueError for what is none."""
    flat = jeffnet.flat_variables(model if variables is None else variables)
    if variables is None and isinstance(model, Mapping):
        info, block, policy = of_variables(flat, name)
    else:
        block: Any = block_class(type(model))(**fields(model))
        policy = model.policy
        if policy.edits:
            raise ValueError(
                'this model is fused for inference, which no other library loads: save the one it was made of'
            )
        info = info_of(block, name)
    wanted = declarations(block, policy)
    odd = [k for k in {**flat, **wanted} if k not in flat or k not in wanted or flat[k].shape != tuple(wanted[k].shape)]
    if odd:
        raise ValueError(f'these variables are not those of {info.name if info else name}: see {", ".join(odd[:5])}')
    return info, block, policy, flat


def exported(model, variables, name, preprocessing, classes, metrics) -> Export:
    """Collects what is to be written; ValueError or TypeError for what is no model of jeffnet's."""
    info, block, policy, flat = described(model, variables, name)
    family = definition(info or model_info(recognise.models_of_variables({k: v.shape for k, v in flat.items()})[0]))
    names = timm_names(block, policy, family.WEIGHT_NAMES)
    if getattr(block, 'stride_in_projection', False):
        log.warning('%s: timm strides elsewhere, and computes another function of these weights', block.variant or name)
    about: dict[str, Any] = {'model': info.name if info else None, 'options': options_of(info, block, policy)}
    if info is not None:
        about['preprocessing'] = preprocessing_of(info, preprocessing, block.in_chans)
    if isinstance(classes, str):
        raise ValueError(f'classes={classes!r}: expected a list of names')
    classes = None if classes is None else [str(label) for label in classes]
    if classes is not None and len(classes) != block.num_classes:
        raise ValueError(f'{len(classes)} classes are named, but the model has {block.num_classes}')
    about |= {'classes': classes, 'metrics': {k: float(v) for k, v in metrics.items()} if metrics else None}
    kernel = flat.get(f'{block.classifier_name}.kernel')
    first = names[f'{block.first_conv}.kernel'].removesuffix('.weight')
    return Export(info, to_timm(flat, names), about, kernel.shape[-2] if kernel is not None else 0, first)


def info_of(block: Any, name: str | None) -> ModelInfo:
    """The table's entry of a module's block; ValueError if `name` contradicts it."""
    variant = getattr(block, 'variant', None)
    known = name or variant
    if known is None:
        raise ValueError(f'this {type(block).__name__} was not made by create_model: give name=, its model name')
    info = model_info(known)
    if variant and (model_info(variant).arch, model_info(variant).flavour) != (info.arch, info.flavour):
        raise ValueError(f'this is a module of {variant}, not of name={name!r}')
    return info


def of_variables(flat: Mapping[str, Any], name: str | None) -> tuple[ModelInfo | None, Any, Policy]:
    """The table's entry, the block and the policy that Linen variables alone are of."""
    shapes = {key: tuple(array.shape) for key, array in flat.items()}
    fitting = recognise.models_of_variables(shapes)
    if name is not None and model_info(name).name not in fitting:
        hint = f'they fit {", ".join(fitting[:4])}' if fitting else 'they fit no model of jeffnet.list_models()'
        raise ValueError(f'these variables are not those of {name}: {hint}')
    if not fitting:
        raise ValueError(
            'these variables are not those of any model of jeffnet.list_models(), classes and channels aside'
        )
    info = model_info(name or fitting[0])
    family = definition(info)
    published = network_of(info)
    kernel = shapes.get(f'{published.classifier_name}.kernel')
    options = {
        'num_classes': kernel[-1] if kernel else -1,
        'in_chans': shapes[f'{published.first_conv}.kernel'][2],
    }
    for table, prefix_tokens in getattr(family, 'POSITION_TABLES', {}).items():
        grid = stored_grid(shapes[table][1] - prefix_tokens, published, {})
        options['image_size'] = tuple(side * published.patch_size for side in grid)
    block = dataclasses.replace(published, **options)
    known = name is not None or len(fitting) == 1
    return (info if known else None), block, policy_of(info) if known else PYTORCH


def options_of(info: ModelInfo | None, block: Any, policy: Policy) -> dict[str, Any]:
    """The keywords of `create_model` that rebuild a network, without those that are as published."""
    options = {key: getattr(block, key) for key in OPTIONS if hasattr(block, key)}
    if 'image_size' in options:
        options['image_size'] = list(options['image_size'])
    if info is None:
        return {key: options[key] for key in ('num_classes', 'in_chans')}
    published = network_of(info)
    for field in dataclasses.fields(block):
        value = getattr(block, field.name)
        if field.name not in NOT_OVERRIDES and value != getattr(published, field.name):
            if not isinstance(value, bool | int | float):
                raise ValueError(f'{field.name} of this model is {value!r}, which a file cannot hold')
            options[field.name] = value
    usual = policy_of(info)
    norms = {'bn_eps': policy.bn_eps, 'bn_momentum': policy.bn_momentum}
    if block.out_indices is not None:
        del options['num_classes']
        options |= {'features_only': True, 'out_indices': list(block.out_indices)}
    return options | {key: value for key, value in norms.items() if value != getattr(usual, key)}


def preprocessing_of(info: ModelInfo, given: Any, in_chans: int) -> dict[str, Any]:
    """How images are prepared for the model, as a dict that JSON can hold."""
    from jeffnet.data.preprocessing import Preprocessing

    readable = in_chans if in_chans in (1, 3) else 3  # other channels come from the user's own pipeline
    return Preprocessing.of(info if given is None else given, in_chans=readable).to_dict()


def metadata(export: Export) -> dict[str, str]:
    """What the header of a single file says: `format` as PyTorch's libraries expect it, and all about the model."""
    about = {key: value for key, value in export.about.items() if value is not None}
    said = {'format': 'pt', 'producer': f'jeffnet {jeffnet.__version__}'}
    if export.info is not None:
        said |= {'architecture': export.info.timm, 'jeffnet': json.dumps(about)}
    return said


def write_folder(folder: Path, export: Export, place: str) -> None:
    """Writes `model.safetensors`, a `config.json` that timm reads too, and a model card that loads it from `place`."""
    if export.info is None:
        raise ValueError('these variables are those of several models, and a folder must say which one: give name=')
    (folder / 'config.json').write_text(json.dumps(timm_config(export), indent=2) + '\n')
    (folder / 'README.md').write_text(model_card(export, place))
    write_arrays(folder / 'model.safetensors', export.state, metadata(export))


def timm_config(export: Export) -> dict[str, Any]:
    """The `config.json` of timm's repositories; what timm has no word for stands under `jeffnet`."""
    info, about = export.info, export.about
    assert info is not None
    family, prepared, options = definition(info), about['preprocessing'], about['options']
    classes = max(options.get('num_classes', 0), 0)
    arguments = {'in_chans': options['in_chans']} if options['in_chans'] != 3 else {}
    if options.get('output_stride', 32) != 32:
        arguments['output_stride'] = options['output_stride']
    if 'bn_eps' in options:
        arguments['bn_eps'] = options['bn_eps']
    fixed = 'image_size' in options  # by a position table
    height, width = options['image_size'] if fixed else prepared['image_size']
    config = {
        'architecture': info.timm,
        'num_classes': classes,
        'num_features': export.features,
        'global_pool': getattr(family, 'POOLING', 'avg'),
        'pretrained_cfg': {
            'tag': info.tag or '',
            'custom_load': False,
            'input_size': [options['in_chans'], height, width],
            'fixed_input_size': fixed,
            'interpolation': prepared['interpolation'],
            'crop_pct': prepared['crop_pct'],
            'crop_mode': prepared['crop_mode'],
            'mean': prepared['mean'],
            'std': prepared['std'],
            'num_classes': classes,
            'pool_size': None if fixed else [math.ceil(height / 32), math.ceil(width / 32)],
            'first_conv': export.first_conv,
            'classifier': network_of(info).classifier_name,
            'license': info.licence,
        },
        'jeffnet': {key: about[key] for key in ('model', 'options', 'preprocessing', 'metrics') if about[key]},
    }
    if arguments:
        config['model_args'] = arguments
    return config | ({'label_names': about['classes']} if about['classes'] else {})


def model_card(export: Export, place: str) -> str:
    """The README of a repository: front matter for the hub, how to load the model from `place`, what it expects."""
    from jeffnet.data.preprocessing import Preprocessing

    info, about = export.info, export.about
    assert info is not None
    counts = f'{about["options"].get("num_classes", 0)} classes, {about["options"]["in_chans"]} channels'
    in_pytorch = f"\nIn PyTorch: `timm.create_model('{place}', pretrained=True)`.\n" if info.in_timm else ''
    card = f"""---
library_name: jeffnet
pipeline_tag: image-classification
license: {info.licence or 'other'}
tags:
- image-classification
- jax
- flax
- timm
---

# {info.name}

The architecture `{info.arch}` ({info.paper}), {counts}.
The licence named above is that of the weights published under this name.

```python
import jeffnet

module, variables = jeffnet.create_model('{place}', pretrained=True)  # Flax Linen
model = jeffnet.nnx.create_model('{place}', pretrained=True)  # Flax NNX; jeffnet.objax likewise
```
{in_pytorch}
## Images

{Preprocessing.of(about['preprocessing']).describe()}
"""
    if about['metrics']:
        rows = ''.join(f'| {key} | {value} |\n' for key, value in about['metrics'].items())
        card += f'\n## Measured\n\n| figure | value |\n|---|---|\n{rows}'
    if about['classes']:
        card += '\n## Classes\n\n' + ''.join(f'{i}. {label}\n' for i, label in enumerate(about['classes']))
    return card
