"""From the layers of a Keras file to our variables and back: a bijection by the identity of layers, never by likeness.

A family's `<file>_keras_names.keras_layers` lists Keras' layers with our modules, in the order of Keras' files: the
name, the module (several where one layer is many of ours; None where it is none), and Keras' class where it is not
the module's. From it follow the names of old and new files, the places in files without names, and shapes.
"""

import importlib
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jeffnet.core.block import Block, Policy, declarations, sub_blocks
from jeffnet.core.layers import BatchNorm, Conv, LayerNorm, Linear
from jeffnet.models.table import ModelInfo
from jeffnet.weights import keras_file
from jeffnet.weights.stored import StoredArray

log = logging.getLogger('jeffnet')

# Keras' variables of a layer by the class, in the order of its files, and our leaves.
VARIABLES = {
    'conv2d': {'kernel': 'kernel', 'bias': 'bias'},
    'depthwise_conv2d': {'kernel': 'kernel', 'bias': 'bias'},
    'separable_conv2d': {'depthwise_kernel': 'kernel', 'pointwise_kernel': 'kernel', 'bias': 'bias'},
    'dense': {'kernel': 'kernel', 'bias': 'bias'},
    'batch_normalization': {'gamma': 'scale', 'beta': 'bias', 'moving_mean': 'mean', 'moving_variance': 'var'},
    'layer_normalization': {'gamma': 'scale', 'beta': 'bias'},
    'layer_scale': {'gamma': 'gamma'},
    'normalization': {'mean': None, 'variance': None, 'count': None},  # of the image, before the network
}
AUTOMATIC = re.compile(rf'(?P<kind>{"|".join(VARIABLES)})(?:_(?P<number>\d+))?')
NORMALISATION = re.compile(r'normalization(_\d+)?')  # layers for the image, before the network
COUNTED = re.compile(r'^stem_\d+_stem_')  # the beginning of names in ResNet-RS
DEPTHWISE = (('depthwise_conv2d', 'kernel'), ('separable_conv2d', 'depthwise_kernel'))
FORMER = {'depthwise_kernel': 'kernel', 'running_mean': 'moving_mean', 'running_std': 'moving_variance'}


@dataclass(frozen=True)
class Layer:
    """A layer of Keras with variables: its name, class and place, and for each variable our flat name."""

    name: str
    kind: str
    place: str
    variables: dict[str, str | None]  # None: none of the network's


def layers_of(info: ModelInfo, block: Any, policy: Policy) -> list[Layer]:
    """Keras' layers of a network, in the order of its files.

    A family lists (Keras' name, our module), with the class of Keras' layer where our module is of another one. No
    module: the layer is none of the network's. A pair of modules: the two halves of a separable convolution.
    """
    named = importlib.import_module(f'jeffnet.models.{info.file}_keras_names').keras_layers(block)
    modules, declared = sub_blocks(block, policy), declarations(block, policy)
    counts, found = Counter(), []
    for name, path, *given in named:
        if isinstance(path, str) and path not in modules and block.num_classes < 1:
            continue  # the head, or a part of it
        kind = given[0] if given else kind_of(path, modules)
        candidates = variables_of(kind, path, modules)
        variables = {theirs: ours for theirs, ours in candidates.items() if ours is None or ours in declared}
        found.append(Layer(name, kind, keras_file.place(kind, counts[kind]), variables))
        counts[kind] += 1
    return found


def variables_of(kind: str, path: str | tuple[str, ...] | None, modules: Mapping[str, Block]) -> dict[str, str | None]:
    """Our flat name for each variable that a layer of Keras may have."""
    if kind == 'sequential':  # layers of different classes, whose variables have different names
        inner = [variables_of(kind_of(each, modules), each, modules) for each in path or ()]
        return {theirs: ours for variables in inner for theirs, ours in variables.items()}
    if kind == 'separable_conv2d' and isinstance(path, tuple):
        depthwise, pointwise = path
        owners = (depthwise, pointwise, pointwise)
    else:
        owners = (path,) * len(VARIABLES[kind])
    names = zip(VARIABLES[kind].items(), owners, strict=True)
    return {theirs: leaf and f'{owner}.{leaf}' for (theirs, leaf), owner in names}


def kind_of(path: str | tuple[str, str] | None, modules: Mapping[str, Block]) -> str:
    """The class of Keras' layer that a module is, as its files spell it."""
    if not isinstance(path, str):
        return 'normalization' if path is None else 'separable_conv2d'
    module = modules[path]
    if isinstance(module, Conv):
        return 'depthwise_conv2d' if module.groups == module.in_features > 1 else 'conv2d'
    kinds = {Linear: 'dense', BatchNorm: 'batch_normalization', LayerNorm: 'layer_normalization'}
    return kinds[type(module)]


def translate(
    layout: str, arrays: Mapping[str, StoredArray], info: ModelInfo, block: Any, policy: Policy
) -> tuple[dict[str, StoredArray], list[str]]:
    """The arrays of a Keras file under our flat names, and the names of those that the network does not have.

    Raises ValueError if the layers lie in another order than Keras', which goes by their order when it loads.
    """
    if info.flavour != 'keras':
        return {}, sorted(arrays)
    declared, theirs = declarations(block, policy), grouped(arrays)
    if info.arch == 'resnet50':
        check_generation(theirs)
    expected = layers_of(info, block, policy)
    flat, unexpected, met = {}, [], []
    found = matched(layout, list(theirs), expected) or by_position(theirs, expected, declared)
    for layer, variables in theirs.items():
        known = found.get(layer)
        if known is None or any(known is other for other in met):
            unexpected += [f'{layer}/{name}' for name in variables]
            continue
        met.append(known)
        if known.kind == 'normalization':
            continue
        for i, (name, array) in enumerate(variables.items()):
            variable = variable_of(known, name, i)
            flat_name = known.variables.get(variable) if variable else None
            if flat_name is None or flat_name in flat:
                unexpected.append(f'{layer}/{name}')
            else:
                flat[flat_name] = as_ours(array, known.kind, variable or '', declared[flat_name].shape)
    check_order(met, expected)
    return flat, sorted(unexpected)


def grouped(arrays: Mapping[str, StoredArray]) -> dict[str, dict[str, StoredArray]]:
    """The arrays by layer, in their order."""
    found: dict[str, dict[str, StoredArray]] = {}
    for name, array in arrays.items():
        layer, _, variable = name.rpartition('/')
        found.setdefault(layer, {})[variable] = array
    return found


def matched(layout: str, theirs: list[str], expected: list[Layer]) -> dict[str, Layer]:
    """The layers of the network by those of a file, by place or name; empty if not one name of the file is known.

    Layers that Keras numbers by itself (`conv2d_7`) count on from model to model, so their numbers are ranks.
    """
    if layout == keras_file.PLACED:
        known = {layer.place: layer for layer in expected}
        return {name: known[name] for name in theirs if name in known}
    names = dict(zip(canonical([layer.name for layer in expected]), expected, strict=True))
    for cut in range(1 + len(common_beginning(theirs))):  # users put a word before all names
        plain = canonical([name[cut:] for name in theirs])
        found = {name: names[each] for name, each in zip(theirs, plain, strict=True) if each in names}
        if found and (cut == 0 or len(found) >= len(expected) - 1):  # the classifier may be missing
            return found
    return {}


def common_beginning(words: list[str]) -> str:
    """What all of the words begin with."""
    first, last = min(words, default=''), max(words, default='')
    return first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def canonical(names: Iterable[str]) -> list[str]:
    """Names without what depends on the process or the version that built the model.

    That is: slashes within, capitals, the spelling of batch norms (both changed in MobileNetV3), numbers counted on.
    """
    names = [COUNTED.sub('stem_', name.replace('/', '_').lower().replace('batchnorm', 'bn')) for name in names]
    numbers: dict[str, list[int]] = {}
    for name in names:
        if match := AUTOMATIC.fullmatch(name):
            numbers.setdefault(match['kind'], []).append(int(match['number'] or 0))
    ranks = {kind: {number: rank for rank, number in enumerate(sorted(own))} for kind, own in numbers.items()}

    def plain(name: str) -> str:
        match = AUTOMATIC.fullmatch(name)
        return f'{match["kind"]} {ranks[match["kind"]][int(match["number"] or 0)]}' if match else name

    return [plain(name) for name in names]


def by_position(theirs: Mapping[str, Mapping], expected: list[Layer], declared: Mapping) -> dict[str, Layer]:
    """The layers of a file with names of another time, by their position; empty unless every shape agrees.

    That is how Keras itself loads such files. The classifier may be missing.
    """
    if not len(expected) - 1 <= len(theirs) <= len(expected):
        return {}
    for (_, variables), layer in zip(theirs.items(), expected, strict=False):  # the last may be missing
        if layer.kind == 'normalization':
            continue
        ours = [tuple(declared[name].shape) for name in layer.variables.values()]
        rows = zip(variables.values(), layer.variables, ours, strict=False)
        shapes = [tuple(as_ours(array, layer.kind, variable, shape).shape) for array, variable, shape in rows]
        if len(variables) != len(ours) or (shapes != ours and layer is not expected[-1]):
            return {}
    return dict(zip(theirs, expected, strict=False))


def variable_of(layer: Layer, name: str, position: int) -> str | None:
    """Which of a layer's variables it is, by its name or, where files have none or an older one, its position."""
    if layer.kind == 'sequential' and '.' in name:  # `conv2d.0`: the position within an inner layer
        inner, _, index = name.rpartition('.')
        found = dict(enumerate(VARIABLES.get(inner, ()))).get(int(index))
        return found if found in layer.variables else None
    for spelling in (name, FORMER.get(name)):
        if spelling in layer.variables:
            return spelling
    known = {variable for kind in VARIABLES.values() for variable in kind}
    if name in known or position >= len(layer.variables):
        return None
    return list(layer.variables)[position]


def as_ours(array: StoredArray, kind: str, variable: str, shape: tuple[int, ...]) -> StoredArray:
    """An array in the axes of ours, which has this shape.

    Depthwise kernels are [H, W, C, M] there and [H, W, 1, C M] here. A dense layer there may be the convolution with a
    kernel as large as the image here, and the reverse.
    """
    if (kind, variable) in DEPTHWISE and len(shape) == array.ndim == 4:
        height, width, features, multiplier = array.shape
        return array.reshape((height, width, 1, features * multiplier))
    reshaped = kind in ('conv2d', 'dense') and {len(shape), array.ndim} == {2, 4}
    if reshaped and math.prod(shape[:-1]) == math.prod(array.shape[:-1]):
        return array.reshape((*shape[:-1], array.shape[-1]))
    return array


def check_generation(layers: Iterable[str]) -> None:
    """Raises ValueError for the first generation of Keras' ResNet50 files, which is of another network."""
    if any(layer.startswith('res2a_branch') for layer in layers):
        raise ValueError(
            'this is a ResNet50 file of the first generation (layers res2a_branch2a, ...), of a network with another '
            'epsilon (1e-3) and no padding before its pool; take the file that Keras publishes today '
            '(md5 2cb95161c43110f7111970584f804107)'
        )


def check_normalisation(info: ModelInfo, arrays: Mapping[str, StoredArray]) -> None:
    """Says so if the file's network normalises its images otherwise than the published one.

    The published files hold the standard deviation in the place of the variance, and Keras divides by its root twice
    (tensorflow issue 49930), so either is the usual normalisation.
    """
    layers = [own for layer, own in grouped(arrays).items() if NORMALISATION.fullmatch(layer)]
    if info.flavour != 'keras' or not layers:
        return
    mean, variance = (np.asarray(array.read(), np.float32).ravel() for array in list(layers[0].values())[:2])
    usual, std = (each[: mean.size] for each in normalisation(info, max(mean.size, 1)))
    if np.allclose(mean, usual, atol=1e-6) and any(np.allclose(variance, v, atol=1e-6) for v in (std, std**2)):
        return
    log.warning(
        '%s: this file is of a network whose images were normalised with mean %s and std %s, not as published; '
        'prepare them so', info.name, *(' '.join(f'{v:g}' for v in values) for values in (mean, np.sqrt(variance))),
    )  # fmt: skip


def normalisation(info: ModelInfo, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and std of the published images; of other channels than three the average of both."""
    values = np.array([info.mean, info.std])
    mean, std = values if channels == 3 else np.repeat(values.mean(1, keepdims=True), channels, 1)
    return mean, std


def check_order(met: list[Layer], expected: list[Layer]) -> None:
    """Raises ValueError if layers of one class lie in another order than in Keras' files."""
    rank = {layer.name: i for i, layer in enumerate(expected)}
    last: dict[str, Layer] = {}
    for layer in met:
        before = last.get(layer.kind)
        if before is not None and rank[before.name] > rank[layer.name]:
            raise ValueError(
                f'the layers are shuffled: {before.name} lies before {layer.name}; Keras, which goes by the order of '
                'layers, would mix them up. Save the model again'
            )
        last[layer.kind] = layer


def to_keras(info: ModelInfo, block: Any, policy: Policy, flat: Mapping[str, Any]) -> list[tuple[str, str, dict]]:
    """(name, place, arrays by Keras' names) of Keras' layers of a network, of our flat variables, in Keras' order.

    What normalises the image gets the published mean and the square of the published std.
    """
    if info.flavour != 'keras':
        raise ValueError(f'{info.name} is no network of Keras Applications; those are called keras_...')
    if block.out_indices is not None:
        raise ValueError(f'{info.name}: Keras has no network that ends in these feature maps; save the whole network')
    found = []
    for layer in layers_of(info, block, policy):
        if layer.kind == 'normalization':
            mean, std = normalisation(info, block.in_chans)
            arrays = {'mean': mean.astype(np.float32), 'variance': np.square(std).astype(np.float32)}
            found.append((layer.name, layer.place, arrays | {'count': np.array(0, np.int32)}))
            continue
        for place, kind, variables in inner_layers(layer):
            arrays = {theirs: as_theirs(np.asarray(flat[ours]), kind, theirs) for theirs, ours in variables.items()}
            found.append((layer.name, place, arrays))
    return found


def inner_layers(layer: Layer) -> list[tuple[str, str, dict[str, str]]]:
    """(place, class, variables) of a layer, or of the layers in it, which are all of different classes."""
    variables = {theirs: ours for theirs, ours in layer.variables.items() if ours}
    if layer.kind != 'sequential':
        return [(layer.place, layer.kind, variables)]
    owners = dict.fromkeys(ours.rpartition('.')[0] for ours in variables.values())
    found = []
    for owner in owners:
        own = {theirs: ours for theirs, ours in variables.items() if ours.rpartition('.')[0] == owner}
        kind = next(kind for kind, known in VARIABLES.items() if list(own) == list(known))
        found.append((f'{layer.place}/layers/{kind}', kind, own))
    return found


def as_theirs(array: np.ndarray, kind: str, variable: str) -> np.ndarray:
    """The inverse of `as_ours`, for the multiplier 1 that all networks have."""
    if (kind, variable) in DEPTHWISE and array.ndim == 4:
        return array.transpose(0, 1, 3, 2)
    if kind == 'conv2d' and array.ndim == 2:
        return array[None, None]
    return array.reshape(-1, array.shape[-1]) if kind == 'dense' and array.ndim == 4 else array
