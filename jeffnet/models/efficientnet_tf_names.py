"""TensorFlow's original releases of EfficientNet and its relatives: what they call their variables, and their layouts.

- tensorflow/tpu (EfficientNet, Lite, EdgeTPU, MixNet): a scope for the stem, each block, its squeeze-excite and the
  head; inside, layers named by kind and numbered. The numbers count within the scope (tf.layers) or through the whole
  network (tf.keras: MixNet's convolutions), so that only their order within a scope says which layer is meant.
- tensorflow/models, slim (MobileNetV3): a fixed name for every layer.

In both, blocks are numbered through the network, without stages.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from jeffnet.core.block import declarations
from jeffnet.models.efficientnet import EfficientNet, MobileNetV3, build_stages
from jeffnet.models.mobile_blocks import ConvBnAct, DepthwiseSeparable, InvertedResidual
from jeffnet.weights.stored import StoredArray

LEAVES = {
    'kernel': 'kernel', 'depthwise_kernel': 'kernel', 'bias': 'bias', 'weights': 'kernel',
    'depthwise_weights': 'kernel', 'biases': 'bias', 'gamma': 'scale', 'beta': 'bias', 'moving_mean': 'mean',
    'moving_variance': 'var',
}  # fmt: skip
DEPTHWISE = ('depthwise_kernel', 'depthwise_weights')

BLOCK = re.compile(r'(?:^|/)(?:blocks|expanded_conv)(?:_(\d+))?/')

TPU_LAYER = re.compile(
    r'(?P<model>.*/)?(?P<scope>stem|head|blocks_\d+(?:/se)?)/'
    r'(?P<tpu>tpu_)?(?P<kind>conv2d|depthwise_conv2d|batch_normalization|dense)(?:_(?P<number>\d+))?'
)
CLASSIFIER = EfficientNet.classifier_name
TPU_SCOPES = {'conv_stem': 'stem', 'bn1': 'stem', 'conv_head': 'head', 'bn2': 'head', CLASSIFIER: 'head'}

SLIM_LAYER = re.compile(r'(?:^|/)((?:Conv|expanded_conv|Logits)(?:_\d+)?(?:/.*)?)$')
SLIM = {
    'Conv': 'conv_stem', 'Conv/BatchNorm': 'bn1', 'Conv_2': 'conv_head', 'Logits/Conv2d_1c_1x1': CLASSIFIER,
}  # fmt: skip
SLIM_SQUEEZE = {'squeeze_excite/Conv': 'se.conv_reduce', 'squeeze_excite/Conv_1': 'se.conv_expand'}
SLIM_BLOCKS = {
    DepthwiseSeparable: SLIM_SQUEEZE | {
        'depthwise': 'conv_dw', 'depthwise/BatchNorm': 'bn1', 'project': 'conv_pw', 'project/BatchNorm': 'bn2',
    },
    InvertedResidual: SLIM_SQUEEZE | {
        'expand': 'conv_pw', 'expand/BatchNorm': 'bn1', 'depthwise': 'conv_dw', 'depthwise/BatchNorm': 'bn2',
        'project': 'conv_pwl', 'project/BatchNorm': 'bn3',
    },
}  # fmt: skip


def tensorflow_arrays(block, arrays: Mapping[str, StoredArray]) -> dict[str, StoredArray]:
    """The arrays of a checkpoint under our flat names and in our layouts; what is not recognised stays as it is.

    Of 1001 classes the first, "background", is dropped for a network of 1000.
    """
    names = from_tensorflow(block, arrays)
    found = {names.get(name, name): _laid_out(name, array, names.get(name)) for name, array in arrays.items()}
    for name in (f'{CLASSIFIER}.kernel', f'{CLASSIFIER}.bias'):
        if name in found and found[name].shape[-1:] == (1001,) and block.num_classes == 1000:
            found[name] = found[name].mapped(lambda values: values[..., 1:], (*found[name].shape[:-1], 1000))
    return found


def _laid_out(name: str, array: StoredArray, flat: str | None) -> StoredArray:
    """An array in our layout: a depthwise kernel `[KH, KW, 1, C]`, the classifier `[I, O]`."""
    if flat is not None and array.ndim == 4:
        if name.endswith(DEPTHWISE):
            return array.transpose((0, 1, 3, 2))
        if flat == f'{CLASSIFIER}.kernel' and array.shape[:2] == (1, 1):
            return array.reshape(array.shape[2:])
    return array


def from_tensorflow(block, names: Collection[str]) -> dict[str, str]:
    """Our flat name of each variable name that is recognised, for a network with its head.

    The names are without the suffix of averages, with any scopes of the model before them. Of another number of blocks,
    of another number of layers of a kind in a scope, and of variables that would share a flat name, none is recognised.
    """
    flat_names = declarations(dataclasses.replace(block, out_indices=None, num_classes=max(block.num_classes, 1)))
    layers = _of_its_blocks(block, {name.rpartition('/')[0] for name in names})
    known = _slim_modules(block, layers) if isinstance(block, MobileNetV3) else _tpu_modules(flat_names, layers)
    found = {}
    for name in names:
        layer, _, leaf = name.rpartition('/')
        flat = f'{known.get(layer)}.{LEAVES.get(leaf)}'
        if flat in flat_names:
            found[name] = flat
    count = Counter(found.values())
    return {name: flat for name, flat in found.items() if count[flat] == 1}


def _of_its_blocks(network, layers: Collection[str]) -> list[str]:
    """The layers; only those outside of blocks, if there are more or fewer blocks than the network has."""
    numbers = {layer: int(match[1] or 0) if (match := BLOCK.search(layer)) else None for layer in layers}
    count = sum(not isinstance(block, ConvBnAct) for stage in build_stages(network) for block in stage)
    fits = set(numbers.values()) - {None} == set(range(count))
    return [layer for layer, number in numbers.items() if fits or number is None]


def _tpu_modules(flat_names: Mapping, layers: Collection[str]) -> dict[str, str]:
    """Our module of each layer, by the order of the numbers among those of a kind in a scope."""
    ours, theirs = {}, {}
    for module, *place in _tpu_places(flat_names):
        ours.setdefault(tuple(place), []).append(module)
    for layer in layers:
        match = TPU_LAYER.fullmatch(layer)
        if match:
            numbered = theirs.setdefault(match.group('model', 'tpu', 'scope', 'kind'), [])
            numbered.append((int(match['number'] or 0), layer))
    found = {}
    for (_, _, *place), numbered in theirs.items():
        modules = ours.get(tuple(place), [])
        if len(modules) == len(numbered):
            found |= {layer: module for (_, layer), module in zip(sorted(numbered), modules, strict=True)}
    return found


def _tpu_places(flat_names: Mapping) -> Iterator[tuple[str, str, str]]:
    """(module, scope, kind) of our modules in the order in which they run."""
    modules = dict.fromkeys(name.rpartition('.')[0] for name in flat_names)
    blocks = dict.fromkeys(module.partition('.')[0] for module in modules if module.startswith('blocks_'))
    scopes = TPU_SCOPES | {name: f'blocks_{i}' for i, name in enumerate(blocks)}
    for module in modules:
        top, *inner = module.split('.')
        if f'{module}.scale' in flat_names:
            kind = 'batch_normalization'
        elif top == CLASSIFIER:
            kind = 'dense'
        else:
            kind = 'depthwise_conv2d' if 'conv_dw' in inner else 'conv2d'
        yield module, scopes[top] + ('/se' if 'se' in inner else ''), kind


def _slim_modules(network, layers: Collection[str]) -> dict[str, str]:
    """Our module of each layer, by its name."""
    modules, count = dict(SLIM), 0
    for s, stage in enumerate(build_stages(network)):
        for i, block in enumerate(stage):
            ours = f'blocks_{s}_{i}'
            if isinstance(block, ConvBnAct):
                modules |= {'Conv_1': f'{ours}.conv', 'Conv_1/BatchNorm': f'{ours}.bn1'}
                continue
            scope = f'expanded_conv_{count}' if count else 'expanded_conv'
            modules |= {f'{scope}/{part}': f'{ours}.{module}' for part, module in SLIM_BLOCKS[type(block)].items()}
            count += 1
    known = {layer: SLIM_LAYER.search(layer) for layer in layers}
    return {layer: modules[match[1]] for layer, match in known.items() if match and match[1] in modules}
