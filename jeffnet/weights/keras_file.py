"""Keras' weights files as arrays by layer, read with h5py and NumPy alone; Keras writes three kinds.

- Legacy HDF5, as the published files are: layers in the order of the attribute `layer_names`, alone or in a whole
  model's `model_weights`.
- `.weights.h5` of Keras 3: `layers/conv2d_3/vars/0`, the fourth Conv2D of the model and its first variable. Since
  Keras 3.6 the name of the layer stands beside it.
- `.keras`: an archive that holds such a file, and the names in its `config.json`.
"""

import json
import os
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jeffnet.weights.stored import StoredArray

SUFFIXES = ('.h5', '.hdf5', '.keras')
INSIDE = 'model.weights.h5'  # of a .keras archive
NAMED, PLACED = 'keras', 'keras places'  # layouts: names of layers, or only which layer of its class each one is
OWN = ('vars', 'seed_generator')  # parts of a layer that are no layer in it
ROOTS = ('layers', '_layer_checkpoint_dependencies')  # of Keras 3, and of TensorFlow 2.13
BIG, PACKED = 2**32, 100  # bytes that a dataset may claim, and how many times more than it stores
Layers = Sequence[tuple[str, str, Mapping[str, Any]]]  # (name, place, arrays) of each
FAULTS = (
    OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError, EOFError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip


def read(path: Path) -> tuple[str, dict[str, StoredArray]]:
    """The layout of a file, and its arrays by `layer/variable` in the order that Keras keeps them.

    With the layout `PLACED` layers are called by class and number (`conv2d_3`) and, as always in files of Keras 3,
    variables by their position. Raises ValueError for files that are damaged, or none of Keras'.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ValueError(f"{path}: reading Keras' files needs h5py: pip install 'jeffnet[keras]'") from error
    try:
        if zipfile.is_zipfile(path):
            return _of_archive(h5py, path)
        file = h5py.File(path, 'r')
        return _of_keras3(file) if any(root in file for root in ROOTS) else (NAMED, _of_legacy(file))
    except FAULTS as error:
        raise ValueError(f'cannot read {path}: {_line(error)}; fetch or write it again') from error


def _of_archive(h5py: Any, path: Path) -> tuple[str, dict[str, StoredArray]]:
    """The arrays of a .keras file; the layers' names come from its configuration."""
    archive = zipfile.ZipFile(path)
    if INSIDE not in archive.namelist():
        raise ValueError(f'it holds no {INSIDE} (it holds {", ".join(archive.namelist()[:5]) or "nothing"})')
    names = places_of(json.loads(archive.read('config.json')))
    layout, arrays = _of_keras3(h5py.File(archive.open(INSIDE), 'r'))
    if layout == NAMED:
        return layout, arrays
    split = [name.rsplit('/', 1) for name in arrays]
    return NAMED, {f'{names.get(layer, layer)}/{i}': arrays[f'{layer}/{i}'] for layer, i in split}


def places_of(config: dict[str, Any]) -> dict[str, str]:
    """A model's layer names by place (`conv2d_3`), from its configuration."""
    counts: dict[str, int] = {}
    names = {}
    for layer in config['config']['layers']:
        kind = snake_case(layer['class_name'])
        names[place(kind, counts.get(kind, 0))] = layer['config']['name']
        counts[kind] = counts.get(kind, 0) + 1
    return names


def snake_case(name: str) -> str:
    """The name of a class as Keras writes it into files: DepthwiseConv2D is depthwise_conv2d."""
    name = re.sub(r'(.)([A-Z][a-z]+)', r'\1_\2', re.sub(r'\W+', '', name))
    return re.sub(r'([a-z])([A-Z])', r'\1_\2', name).lower()


def place(kind: str, index: int) -> str:
    """How Keras 3 calls the layer of a class with this number, counted from 0 in the order of `model.layers`."""
    return f'{kind}_{index}' if index else kind


def _of_keras3(file: Any) -> tuple[str, dict[str, StoredArray]]:
    """The arrays of a file of Keras 3, classes sorted by name, the layers of each in their order."""
    root = file[next(root for root in ROOTS if root in file)]
    found = {}
    for layer in sorted(root, key=lambda name: (_stem(name), _number(name))):
        group = child(root, layer)
        arrays = _of_layer(group, layer)
        if arrays:
            found[layer] = (_text(child(group, 'vars').attrs.get('name', '')) if 'vars' in group else '', arrays)
    named = bool(found) and all(name for name, _ in found.values())
    arrays = {
        f'{name if named else layer}/{i}': array for layer, (name, own) in found.items() for i, array in own.items()
    }
    if len(arrays) < sum(len(own) for _, own in found.values()):
        raise ValueError('two of its layers have the same name')
    if 'vars' in file:  # of the model itself
        arrays |= {f'vars/{i}': stored(child(file, 'vars'), i) for i in file['vars']}
    return (NAMED if named else PLACED), arrays


def _of_layer(group: Any, layer: str) -> dict[str, StoredArray]:
    """The arrays of a layer by their position, or, of a Sequential, by inner layer and position (`conv2d.0`).

    Those of layers within it (of an attention, say) come by their path.
    """
    inner = next((root for root in ROOTS if root in group), None)
    if inner is None:
        variables = child(group, 'vars') if 'vars' in group else {}
        found = {i: stored(variables, i) for i in sorted(variables, key=int)}
        return found | {path: stored(group, path) for path in _below(group) if path.split('/')[0] not in OWN}
    if _stem(layer) != 'sequential':
        raise ValueError(f'{layer} is a model within the model; save the inner one by itself')
    layers = child(group, inner)
    each = {name: _of_layer(child(layers, name), f'{layer}/{name}') for name in layers}
    return {f'{name}.{i}': array for name, arrays in each.items() for i, array in arrays.items()}


def _below(group: Any) -> list[str]:
    """The paths of all arrays in a group; links to other places are not followed."""
    found = []
    group.visititems(lambda path, each: found.append(path) if hasattr(each, 'dtype') else None)
    return found


def _of_legacy(file: Any) -> dict[str, StoredArray]:
    """The arrays of a legacy file, in its order."""
    root = child(file, 'model_weights') if 'model_weights' in file else file
    layers = listed(root, 'layer_names')
    if layers is None:
        raise ValueError(
            f'it is none of the files that Keras writes (it holds {", ".join(list(file)[:5]) or "nothing"})'
        )
    found = {}
    for layer in layers:
        group = child(root, layer)
        for variable in listed(group, 'weight_names') or ():
            name = f'{layer}/{variable.rpartition("/")[2].removesuffix(":0")}'
            if name in found:
                raise ValueError(f'two of its arrays are called {name}, as of a model within a model: save that one')
            found[name] = stored(group, variable)
    return found


def listed(group: Any, name: str) -> list[str] | None:
    """An attribute that lists names; long lists lie in pieces, `layer_names0`, `layer_names1`, ..."""
    if name in group.attrs:
        return [_text(each) for each in group.attrs[name]]
    pieces = []
    while f'{name}{len(pieces)}' in group.attrs:
        pieces.append([_text(each) for each in group.attrs[f'{name}{len(pieces)}']])
    return [each for piece in pieces for each in piece] if pieces else None


def child(group: Any, name: str) -> Any:
    """What lies at a path in a group, as a part of this very file: links may lead anywhere."""
    import h5py

    for step in name.split('/'):
        if not isinstance(group.get(step, getlink=True), h5py.HardLink):
            raise ValueError(f'{name} is missing, or a link to another place')
        group = group[step]
    return group


def stored(group: Any, name: str) -> StoredArray:
    """An array of a group, its values not read yet."""
    dataset = child(group, name)
    if not hasattr(dataset, 'dtype') or dataset.external or dataset.is_virtual:
        raise ValueError(f'{name} is no array of this file')
    size, kept = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if size > kept and size > min(BIG, PACKED * kept):
        raise ValueError(f'{name} claims {size:,} bytes and holds {kept:,}')
    half = dataset.dtype.kind == 'V' and _text(dataset.attrs.get('dtype', '')) == 'bfloat16'
    dtype = np.dtype(ml_dtypes.bfloat16) if half else dataset.dtype
    return StoredArray(tuple(dataset.shape), dtype, lambda: dataset[()].view(dtype))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _stem(name: str) -> str:
    """The class of a place."""
    return re.sub(r'_\d+$', '', name)


def _number(name: str) -> int:
    """The number of a place in its class."""
    return int((re.search(r'_(\d+)$', name) or ['', '0'])[1])


def _line(error: BaseException) -> str:
    return ' '.join(str(error).split()) or type(error).__name__


def write(path: Path, layers: Layers) -> None:
    """Writes (name, place, arrays) of each layer, whole or not at all.

    A `.weights.h5` is that of Keras 3, every other `.h5` a legacy file, which Keras 2 reads too.
    """
    import h5py

    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        with h5py.File(temporary, 'w') as file:
            (_write_keras3 if path.name.endswith('.weights.h5') else _write_legacy)(file, layers)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_keras3(file: Any, layers: Layers) -> None:
    for name, where, arrays in layers:
        outer = file.require_group(f'layers/{where.partition("/")[0]}/vars')  # of a Sequential it stays empty
        outer.attrs['name'] = name
        group = file.require_group(f'layers/{where}/vars')
        for i, array in enumerate(arrays.values()):
            group[str(i)] = np.asarray(array)


def _write_legacy(file: Any, layers: Layers) -> None:
    whole: dict[str, dict[str, Any]] = {}
    for name, _, arrays in layers:  # a Sequential comes in pieces
        whole.setdefault(name, {}).update({f'{name}/{variable}:0': array for variable, array in arrays.items()})
    file.attrs['layer_names'] = [name.encode() for name in whole]
    file.attrs['backend'], file.attrs['keras_version'] = b'tensorflow', b'2.15.0'
    for name, arrays in whole.items():
        group = file.create_group(name)
        group.attrs['weight_names'] = [variable.encode() for variable in arrays]
        for variable, array in arrays.items():
            group[variable] = np.asarray(array)
