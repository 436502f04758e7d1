"""Which networks of the table a file can be of, by the names and shapes of its arrays."""

from collections.abc import Mapping

import numpy as np

from jeffnet.core.block import PYTORCH, declarations
from jeffnet.models.table import ModelInfo, definition, foreign_names, model_info, network_of, table
from jeffnet.weights import keras_file
from jeffnet.weights.files import WeightsFile
from jeffnet.weights.names import translate
from jeffnet.weights.stored import StoredArray

MAKERS = {'tensorflow': 'tf', keras_file.NAMED: 'keras', keras_file.PLACED: 'keras'}  # flavour by layout


def models_of(file: WeightsFile) -> list[str]:
    """The names of the table whose arrays are those of the file, whatever its classes, channels and image size."""
    theirs = flavour(file)
    return [name for name in fitting(file.layout, file.arrays) if theirs in (None, table()[name].flavour)]


def models_of_variables(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The names of the table whose variables have these flat names and shapes, classes, channels, image size aside."""
    return fitting(
        'jeffnet', {name: StoredArray(tuple(shape), np.dtype('float32'), _none) for name, shape in shapes.items()}
    )


def flavour(file: WeightsFile) -> str | None:
    """'pt' or 'tf' if the file says whose padding its network has, else None."""
    if file.layout in MAKERS:
        return MAKERS[file.layout]
    if 'model' in file.about:
        return model_info(file.about['model']).flavour
    modules = (foreign_names(info) for info in table().values())
    tells = (module.is_torchvision for module in modules if hasattr(module, 'is_torchvision'))
    return 'pt' if any(is_torchvision(file.arrays) for is_torchvision in tells) else None


def other_flavour(info: ModelInfo, flavour: str) -> str:
    """The name of the same architecture in another flavour, or a description of it."""
    same = [i.name for i in table().values() if (i.file, i.arch, i.flavour) == (info.file, info.arch, flavour)]
    return same[0] if same else 'a model with that padding'


def fitting(layout: str, arrays: Mapping[str, StoredArray]) -> list[str]:
    """The names of the table whose arrays have these names and shapes, classifier and first convolution aside."""
    names, tried = [], {}
    for info in table().values():
        key = (info.file, info.arch, *sorted((k, v) for k, v in info.options.items() if k != 'num_classes'))
        if key not in tried:
            tried[key] = _fits(layout, arrays, info)
        if tried[key]:
            names.append(info.name)
    return names


def _fits(layout: str, arrays: Mapping[str, StoredArray], info: ModelInfo) -> bool:
    family = definition(info)
    block = network_of(info, num_classes=1)
    wanted = declarations(block)
    try:
        found = translate(layout, arrays, info, block, PYTORCH)
    except ValueError:  # of layers in another order, for example
        return False
    free = {f'{block.classifier_name}.kernel', f'{block.classifier_name}.bias', f'{block.first_conv}.kernel'}
    if found.unexpected or not wanted.keys() - found.flat.keys() <= free:
        return False
    tables = getattr(family, 'POSITION_TABLES', ())  # their length is that of the image size

    def shape(name, array):
        return tuple(array.shape[2:] if name in tables else array.shape)

    return all(shape(name, found.flat[name]) == shape(name, d) for name, d in wanted.items() if name not in free)


def _none() -> np.ndarray:
    raise RuntimeError('only shapes are known')
