"""The strict merge: arrays of a file into the variables of a network, all faults in one error."""

import dataclasses
import logging
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jeffnet.core.block import Param, Policy, declarations
from jeffnet.core.initial import to_device
from jeffnet.models.table import ModelInfo, definition, network_of
from jeffnet.weights import adapt, keras_names, recognise
from jeffnet.weights.files import WeightsFile, check_values, read
from jeffnet.weights.names import Translated, translate
from jeffnet.weights.stored import StoredArray

log = logging.getLogger('jeffnet')
# A log record with this attribute says that not all of a network has the values of its weights file.
INCOMPLETE = {'incomplete': True}


class Incomplete(logging.Filter):
    """A context in which all of a network must come from its file: ValueError at a record that says otherwise."""

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, 'incomplete', False) and record.thread == self.thread:
            raise ValueError(record.getMessage())
        return True

    def __enter__(self):
        self.thread, self.before = threading.get_ident(), log.level
        log.setLevel(min(log.getEffectiveLevel(), logging.WARNING))  # a user's quiet log must not hide it
        log.addFilter(self)  # before any handler writes what the error says

    def __exit__(self, *_):
        log.removeFilter(self)
        log.setLevel(self.before)


@dataclass(frozen=True)
class Loaded:
    """What a network gets from a file: variables by flat name, and settings of its policy that go with them."""

    values: dict[str, jax.Array]
    policy: dict[str, Any] = field(default_factory=dict)


def load(
    info: ModelInfo,
    block: Any,
    policy: Policy,
    path: Path,
    *,
    strict: bool = True,
    new_classifier: bool = False,
    use_ema: bool = True,
) -> Loaded:
    """The variables of this network from a file; what is left out keeps its initial value.

    `new_classifier` says that a number of classes was asked for: a classifier of another size is then left out.
    Raises ValueError that lists every missing, unexpected and misshapen array; with `strict=False` that is logged.
    """
    file = read(path, use_ema)
    check_values(file)
    origin_fits(file, info, strict)
    wanted = declarations(block, policy)
    # What the same network has as a whole: the file may hold its head although features are asked for.
    whole = dataclasses.replace(block, out_indices=None, num_classes=max(block.num_classes, 1))
    try:
        found = translate(file.layout, file.arrays, info, whole, policy)
    except ValueError as error:
        raise ValueError(f'{file.path}: {error}') from error
    flat = adapted(found.flat, info, block, wanted, new_classifier, file.about.get('options', {}))
    check_fit(file, info, dataclasses.replace(found, flat=flat), wanted, strict, new_classifier)
    fits = {n: flat[n] for n in wanted if flat.get(n) is not None and flat[n].shape == tuple(wanted[n].shape)}
    if recognise.MAKERS.get(file.layout) == 'keras':
        keras_names.check_normalisation(info, file.arrays)
    return Loaded(values_of(file, fits), found.policy)


def adapted(
    flat: Mapping, info: ModelInfo, block: Any, wanted: Mapping, new_classifier: bool, saved: Mapping | None = None
) -> dict:
    """The arrays fitted to the classes, channels and image size asked for; `None` keeps an initial value on purpose.

    `saved` are the options that the file says its network was made with.
    """
    flat, family = dict(flat), definition(info)
    kernel, first = f'{block.classifier_name}.kernel', f'{block.first_conv}.kernel'
    classes = flat[kernel].shape[-1] if kernel in flat else None
    if new_classifier and classes and kernel in wanted and classes != block.num_classes:
        message = '%s: a fresh classifier of %d classes replaces that of the weights (%d classes)'
        log.warning(message, info.name, block.num_classes, classes, extra=INCOMPLETE)
        flat |= {name: None for name in flat if name.startswith(f'{block.classifier_name}.')}
    if new_classifier and kernel in wanted and classes is None and len(flat) > 2:
        message = '%s: a fresh classifier of %d classes, since the weights have none'
        log.warning(message, info.name, block.num_classes, extra=INCOMPLETE)
        flat |= {name: None for name in wanted if name.startswith(f'{block.classifier_name}.')}
    if first in flat and flat[first].ndim == 4 and flat[first].shape[2] != block.in_chans:
        message = '%s: %s adapted from %d to %d channels'
        log.warning(message, info.name, first, flat[first].shape[2], block.in_chans, extra={'adapted': True})
        shape = (*flat[first].shape[:2], block.in_chans, flat[first].shape[3])
        flat[first] = flat[first].mapped(lambda kernel: adapt.channels(kernel, block.in_chans), shape)
    for name, prefix_tokens in getattr(family, 'POSITION_TABLES', {}).items():
        if name in flat and name in wanted and flat[name].shape[2:] == wanted[name].shape[2:]:
            old = stored_grid(flat[name].shape[1] - prefix_tokens, block, saved or {})
            if old != block.grid_size:
                log.info('%s: %s resampled from %dx%d to %dx%d places', info.name, name, *old, *block.grid_size)
                grids = {'grid': block.grid_size, 'prefix_tokens': prefix_tokens, 'old': old}
                flat[name] = flat[name].mapped(partial(adapt.positions, **grids), wanted[name].shape)
    return flat


def stored_grid(places: int, block: Any, saved: Mapping) -> tuple[int, int]:
    """The grid, (height, width), of a position table: of the image size that the file names, else a square, as timm."""
    if saved.get('image_size'):
        return dataclasses.replace(block, image_size=tuple(saved['image_size'])).grid_size
    if math.prod(block.grid_size) == places and math.isqrt(places) ** 2 != places:
        return block.grid_size
    return adapt.square_grid(places)


def origin_fits(file: WeightsFile, info: ModelInfo, strict: bool) -> None:
    """Raises ValueError where names and shapes would fit, but the network of the file computes something else."""
    theirs = recognise.flavour(file)
    if file.layout == 'pytorch' and info.keras and info.timm == info.name:  # a file of timm's other network
        theirs = theirs or 'pt'
    if theirs in (None, info.flavour):
        return
    makers = {'pt': 'PyTorch', 'tf': 'TensorFlow', 'keras': 'Keras'}
    message = (
        f'{file.path} is of a network that pads as {makers[theirs]} does, {info.name} pads as {makers[info.flavour]}: '
        f'use {recognise.other_flavour(info, theirs)}, or strict=False to load it all the same'
    )
    if strict:
        raise ValueError(message)
    log.warning('%s', message)


def check_fit(
    file: WeightsFile,
    info: ModelInfo,
    found: Translated,
    wanted: Mapping[str, Param],
    strict: bool,
    new_classifier: bool,
) -> None:
    """Raises ValueError, or not `strict` logs, what is missing, unexpected or misshapen."""
    flat = found.flat
    faults = {
        'missing from the file': sorted(name for name in wanted if name not in flat),
        'unexpected in the file': found.unexpected,
        'of another shape': sorted(
            f'{name}: {flat[name].shape} in the file, {tuple(wanted[name].shape)} in the model'
            for name in wanted
            if flat.get(name) is not None and flat[name].shape != tuple(wanted[name].shape)
        ),
    }
    counts = [f'{len(names)} {kind}' for kind, names in faults.items() if names]
    if not counts:
        return
    listed = '\n'.join(f'  {kind}:\n    ' + '\n    '.join(names) for kind, names in faults.items() if names)
    head = f'{file.path} does not fit {info.name}: {", ".join(counts)}'
    if strict:
        hint = advice(file, info, found, wanted, new_classifier)
        raise ValueError(f'{head}; {hint}, or strict=False to load what fits\n{listed}')
    log.warning('%s; what fits is loaded\n%s', head, listed, extra=INCOMPLETE)


def advice(file: WeightsFile, info: ModelInfo, found: Translated, wanted: Mapping, new_classifier: bool) -> str:
    """What most likely makes a file fit."""
    kernel = f'{network_of(info).classifier_name}.kernel'
    kept = found.flat.get(kernel)
    models = recognise.models_of(file)
    if models and info.name not in models:
        return f'its arrays are those of {" or ".join(models[:4])}: use that name'
    if not new_classifier and kernel in wanted and kept is not None and kept.ndim in (2, 4):
        classes = kept.shape[-1]
        if classes != wanted[kernel].shape[-1]:
            return f'its classifier has {classes} classes: pass num_classes={classes}'
    missing = {name for name in wanted if name not in found.flat}
    if missing and all(name.startswith(f'{network_of(info).classifier_name}.') for name in missing):
        return 'it has no classifier: pass num_classes=-1 for what comes before, or a number for a fresh one'
    if not found.flat:
        return 'none of its names are known: use the weights of this model'
    return 'use the weights of this model with the options that they were made with'


def values_of(file: WeightsFile, arrays: Mapping[str, StoredArray]) -> dict[str, jax.Array]:
    """Float32 arrays on the device, one at a time in memory twice; says what was cast and what is no number."""
    values, cast, bad = {}, {}, []
    for name, array in arrays.items():
        if not (np.issubdtype(array.dtype, np.floating) or array.dtype.name.startswith(('bfloat', 'float'))):
            raise ValueError(
                f'{file.path}: {name} holds {array.dtype.name} values; jeffnet reads floating-point weights only'
            )
        try:
            value = array.read()
        except OSError as error:
            raise ValueError(f'cannot read {name} of {file.path}: {error}; fetch or write it again') from error
        if array.dtype != np.float32:
            cast.setdefault(array.dtype.name, []).append(name)
            with np.errstate(over='ignore'):  # what float32 cannot hold is reported below, as no number
                value = value.astype(np.float32)
        if not np.isfinite(value).all():
            bad.append(name)
        values[name] = to_device(np.asarray(value))
    for kind, names in cast.items():
        log.warning('%s: %d %s arrays are cast to float32', file.path, len(names), kind)
    if bad:
        log.warning('%s: NaN or infinite values in %s', file.path, ', '.join(sorted(bad)), extra=INCOMPLETE)
    return values
