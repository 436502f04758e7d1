"""Names and layouts: the arrays of a file under our flat names, and ours under timm's, by one general rule.

timm's name of a variable follows from where the variable lies in the model and from its leaf (`kernel` is `weight`);
a family's few exceptions are applied last. Names are only ever made from the model, never taken apart.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jeffnet.core.block import Block, Param, Policy, declarations
from jeffnet.models.table import ModelInfo, definition, foreign_names
from jeffnet.weights import keras_file, keras_names
from jeffnet.weights.stored import StoredArray

LEAVES = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}
TO_JAX = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0)}  # OI -> IO, OIW -> WIO, OIHW -> HWIO
TO_TORCH = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}
COUNTERS = ('num_batches_tracked', 'n_averaged')  # PyTorch's counts of training steps, which change no output


@dataclass(frozen=True)
class Translated:
    """The arrays of a file by flat name, and the names of those that the network does not have."""

    flat: dict[str, StoredArray]
    unexpected: list[str]
    policy: dict[str, Any]  # settings of the policy that networks of this origin have, where ours differ


def timm_names(block: Block, policy: Policy, exceptions: Iterable[tuple[str, str]] = ()) -> dict[str, str]:
    """timm's name of every variable of a network, by flat name.

    `exceptions` are (pattern, replacement) pairs for `re.sub`, from the family's file.
    """
    names = {}
    dotted = declarations(block, policy, index='.')
    for flat, path in zip(declarations(block, policy), dotted, strict=True):
        module, _, leaf = path.rpartition('.')
        name = f'{module}.{LEAVES.get(leaf, leaf)}'.lstrip('.')
        for pattern, replacement in exceptions:
            name = re.sub(pattern, replacement, name)
        names[flat] = name
    return names


def to_timm(variables: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """A timm state dict, in PyTorch's layout, of flat variables; `names` are those of `timm_names`."""
    state = {}
    for flat, array in variables.items():
        array = np.asarray(array)
        if flat.endswith('kernel') and array.ndim in TO_TORCH:
            array = array.transpose(TO_TORCH[array.ndim])
        state[names[flat]] = np.asarray(array, order='C')
    for flat in variables:
        if flat.endswith('.var'):  # PyTorch's batch norm counts its steps; only a cumulative average would use that
            state[names[flat].removesuffix('running_var') + 'num_batches_tracked'] = np.zeros((), np.int64)
    return state


def translate(layout: str, arrays: Mapping[str, StoredArray], info: ModelInfo, block: Any, policy: Policy):
    """The arrays of a file under the flat names of this network, a whole one with its head.

    `layout` says whose names and axes the file has: 'jeffnet', 'pytorch' (timm's or torchvision's), 'predecessor',
    'tensorflow', or Keras'. What the family's `LEFT_OUT` matches is of no use to the network, and passed over.
    """
    if layout in (keras_file.NAMED, keras_file.PLACED):
        return Translated(*keras_names.translate(layout, arrays, info, block, policy), {})
    wanted = declarations(block, policy)
    if layout == 'jeffnet':
        known = {name: array for name, array in arrays.items() if name in wanted}
        return Translated(known, sorted(arrays.keys() - known.keys()), {})
    if layout == 'tensorflow':
        return _of_tensorflow(arrays, block, wanted, foreign_names(info))
    return _of_pytorch(layout, arrays, info, block, policy)


def _of_tensorflow(arrays: Mapping[str, StoredArray], block: Any, wanted: dict[str, Param], foreign: Any):
    """The arrays of TensorFlow's original files; a variable that happens to have one of our flat names is not ours."""
    theirs = {name: array for name, array in arrays.items() if name not in wanted}
    known = foreign.tensorflow_arrays(block, theirs) if hasattr(foreign, 'tensorflow_arrays') else theirs
    unexpected = [name for name in arrays if name in known or name in wanted]
    return Translated({n: a for n, a in known.items() if n in wanted}, sorted(unexpected), {})


def _of_pytorch(layout: str, arrays: Mapping[str, StoredArray], info: ModelInfo, block: Any, policy: Policy):
    """The arrays of timm's files, or of others whose modules are timm's by other names."""
    foreign, family, wanted = foreign_names(info), definition(info), declarations(block, policy)
    names, modules, settings = {}, {}, {}
    if layout == 'predecessor':
        modules = foreign.predecessor_modules(block) if hasattr(foreign, 'predecessor_modules') else {}
    elif hasattr(foreign, 'renamed'):
        names = foreign.renamed(block, arrays)
    elif hasattr(foreign, 'is_torchvision') and foreign.is_torchvision(arrays):
        modules = foreign.torchvision_modules(block, arrays)
        settings = getattr(foreign, 'TORCHVISION_POLICY', {}).get(info.arch, {})
    flat_names = {timm: flat for flat, timm in timm_names(block, policy, family.WEIGHT_NAMES).items()}
    found, unexpected, left_out = {}, [], getattr(family, 'LEFT_OUT', None)
    for name, array in arrays.items():
        if left_out and re.match(left_out, name):
            continue
        module, _, leaf = name.rpartition('.')
        flat = flat_names.get(names.get(name) or f'{modules.get(module, module)}.{leaf}'.lstrip('.'))
        if flat in found or (flat is None and leaf not in COUNTERS):  # a second array for one variable is one too many
            unexpected.append(name)
        elif flat is not None:
            fitted = _as_kernel if flat.endswith('kernel') else _as_vector
            found[flat] = fitted(array, wanted[flat].shape)
    return Translated(found, sorted(unexpected), settings)


def _as_kernel(array: StoredArray, wanted: tuple[int, ...]) -> StoredArray:
    """A PyTorch weight in our layout; a linear layer, of a flattened map too, serves as a convolution of its size.

    The reverse too: a 1x1 convolution serves as a linear layer.
    """
    if array.ndim == 2 and len(wanted) == 4:
        pixels = math.prod(wanted[:2])
        fits = array.shape[1] % pixels == 0
        array = array.reshape((array.shape[0], array.shape[1] // pixels, *wanted[:2]) if fits else (*array.shape, 1, 1))
    elif array.ndim == 4 and len(wanted) == 2 and math.prod(array.shape[2:]) == 1:
        array = array.reshape(array.shape[:2])
    return array.transpose(TO_JAX[array.ndim]) if array.ndim in TO_JAX else array


def _as_vector(array: StoredArray, wanted: tuple[int, ...]) -> StoredArray:
    """What others spread over the axes of images, where ours has one axis: `[C, 1, 1]` as `[C]`."""
    vector = len(wanted) == 1 and math.prod(array.shape) == max(array.shape, default=0)
    return array.reshape((max(array.shape),)) if vector and array.ndim > 1 else array
