"""The strict merge: arrays from a file into the variables of a model, all faults in one error."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np

from jeffnet.core.block import Policy, declarations
from jeffnet.models.table import ModelInfo, definition
from jeffnet.weights.files import read
from jeffnet.weights.names import from_timm
from jeffnet.weights.sources import from_hub, locate

log = logging.getLogger('jeffnet')


def load(
    info: ModelInfo,
    block: Any,
    policy: Policy,
    *,
    pretrained: bool = False,
    weights: str | Path | None = None,
    strict: bool = True,
    new_classifier: bool = False,
) -> dict[str, np.ndarray]:
    """Flat variables of this block from the published weights or a file; what is left out keeps its initial value.

    `new_classifier` says that a number of classes was asked for: a classifier of another size is then left out.
    Raises ValueError that lists every missing, unexpected and misshapen array; with `strict=False` that is logged.
    """
    if pretrained and weights is not None:
        raise ValueError(f'pretrained=True and weights={str(weights)!r}: give one of the two')
    if weights is None and info.weights is None:
        raise ValueError(f'{info.name} has no published weights; build it with pretrained=False or give weights=<file>')
    path = from_hub(f'timm/{info.weights}') if weights is None else locate(weights)
    family = definition(info)
    wanted = declarations(block, policy)
    # What the same network has as a whole: the file may hold its head although features are asked for.
    known = set(declarations(dataclasses.replace(block, out_indices=None, num_classes=1), policy)) | set(wanted)
    arrays, ours = read(path)
    flat = arrays if ours else from_timm(arrays, known, family.WEIGHT_NAMES)
    flat = _adapt(info, family, flat, wanted, block, new_classifier)
    return _merge(str(path), flat, wanted, known, strict)


def _adapt(info, family, flat, wanted, block, new_classifier):
    """Fits the classifier and the first convolution of a file to the number of classes and channels asked for."""
    flat = dict(flat)
    kernel = f'{family.CLASSIFIER}.kernel'
    classes = flat[kernel].shape[-1] if kernel in flat else None
    if new_classifier and classes and kernel in wanted and classes != block.num_classes:
        message = '%s: a fresh classifier of %d classes replaces that of the weights (%d classes)'
        log.warning(message, info.name, block.num_classes, classes)
        flat |= {name: None for name in flat if name.startswith(f'{family.CLASSIFIER}.')}
    first = f'{family.FIRST_CONV}.kernel'
    if first in flat and flat[first].ndim == 4 and flat[first].shape[2] != block.in_chans:
        flat[first] = adapt_channels(flat[first], block.in_chans)
        log.info('%s: %s adapted to %d channels', info.name, first, block.in_chans)
    return flat


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A first convolution's kernel `[KH, KW, I, O]` for another number of channels, the same output on equal channels.

    One channel: the sum over the input channels. Others: the channels repeated in turn and scaled by I / channels.
    """
    if channels == 1:
        return kernel.sum(2, keepdims=True)
    chosen = np.arange(channels) % kernel.shape[2]
    return kernel[:, :, chosen] * np.float32(kernel.shape[2] / channels)


def _merge(path, flat, wanted, known, strict):
    """Arrays that fit, by flat name; `None` in `flat` leaves an initial value on purpose."""
    missing = [name for name in wanted if name not in flat]
    unexpected = [name for name in flat if name not in known]
    misshapen = [
        f'{name}: {flat[name].shape} in the file, {wanted[name].shape} in the model'
        for name in wanted
        if flat.get(name) is not None and flat[name].shape != tuple(wanted[name].shape)
    ]
    faults = [
        ('missing from the file', missing),
        ('unexpected in the file', unexpected),
        ('of another shape', misshapen),
    ]
    if any(names for _, names in faults):
        listed = '\n'.join(f'  {len(names)} {kind}:\n    ' + '\n    '.join(names) for kind, names in faults if names)
        hint = '; pass num_classes= or in_chans= as the file has them, or strict=False to load what fits'
        if strict:
            raise ValueError(f'{path} does not fit the model{hint}\n{listed}')
        log.warning('%s does not fit the model; what fits is loaded\n%s', path, listed)
    fits = [n for n in wanted if flat.get(n) is not None and flat[n].shape == tuple(wanted[n].shape)]
    return {name: np.asarray(flat[name], np.float32) for name in fits}
