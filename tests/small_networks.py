"""Small networks of a family beside timm's of the same structure: proof of arithmetic in seconds, not minutes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision

import jeffnet
from benchmarks import parity, torch_reference
from jeffnet.core.block import declarations
from jeffnet.create import plan
from jeffnet.models import table
from jeffnet.weights.names import translate
from jeffnet.weights.stored import StoredArray

SIZE = (66, 47)  # an even and an odd side


def register(name: str, variant: Callable, like: str) -> table.ModelInfo:
    """Puts a small network, which takes the table's entry of a published one, into this process's table of models."""
    info = dataclasses.replace(table.model_info(like), name=name, arch=name)
    table.definition(info).VARIANTS[name] = variant
    table.table()[name] = info
    return info


def faults(name: str, variant: Callable, like: str, theirs: Callable, folder: Path, size=SIZE, **options: Any) -> list:
    """The rows of the comparison with timm's network, made by `theirs(num_classes=10)`, that are outside the bar."""
    register(name, variant, like)
    network = torch_reference.randomise(theirs(num_classes=10), max(size))
    weights = torch_reference.save_weights(network, folder / 'model.safetensors')
    rows = parity.compare(name, network, weights, (size,), num_classes=10, **options)
    assert len(rows) == len(jeffnet.FRAMEWORKS)
    return [row for row in rows if not row['ok']]


def feature_faults(name: str, folder: Path, size=SIZE) -> list:
    """What differs between a name's feature maps or their description and those of timm's `features_only`."""
    network = torch_reference.reference(name)
    weights = torch_reference.save_weights(network, folder / 'model.safetensors')
    theirs = timm.create_model(jeffnet.model_info(name).timm, features_only=True).eval()
    arrays = zip(theirs.state_dict(), network.state_dict().values(), strict=False)  # the same order, other names
    theirs.load_state_dict(dict(arrays))
    x = parity.images(size)
    with torch.no_grad():
        expected = [level.permute(0, 2, 3, 1).numpy() for level in theirs(torch.from_numpy(x).permute(0, 3, 1, 2))]
    model = jeffnet.create_model(name, 'nnx', weights=weights, features_only=True)
    found = [np.asarray(level) for level in jeffnet.predictor(model)(x)]
    assert [level.shape for level in found] == [level.shape for level in expected]
    errors = [np.abs(a - b).max() / parity.spread(b) for a, b in zip(found, expected, strict=True)]
    kept = ('num_chs', 'reduction', 'module')
    rows = zip(errors, model.feature_info, theirs.feature_info.get_dicts(), strict=True)
    return [row for row in rows if row[0] > parity.BAR32 or any(row[1][k] != row[2][k] for k in kept)]


def map_faults(
    name: str, variant: Callable, like: str, theirs: Callable, folder: Path, size=SIZE, **options: Any
) -> list:
    """Error and rounding, where outside the bar, of feature maps against timm's `forward_intermediates`."""
    register(name, variant, like)
    network = torch_reference.randomise(theirs(num_classes=10), max(size))
    weights = torch_reference.save_weights(network, folder / 'model.safetensors')
    x = parity.images(size)
    rough, exact = maps_of(network, x), maps_of(network.double(), x.astype(np.float64))
    model = jeffnet.create_model(name, 'nnx', weights=weights, features_only=True, **options)
    found = [np.asarray(level) for level in jeffnet.predictor(model)(x)]
    assert [level.shape for level in found] == [level.shape for level in rough]
    scales = [parity.spread(level) for level in exact]
    errors = [np.abs(a - b).max() / scale for a, b, scale in zip(found, rough, scales, strict=True)]
    floors = [np.abs(a - b).max() / scale for a, b, scale in zip(rough, exact, scales, strict=True)]
    rows = zip(errors, floors, strict=True)
    return [(error, floor) for error, floor in rows if error > max(parity.BAR32, 5 * floor)]


@torch.no_grad()
def maps_of(network: torch.nn.Module, x: np.ndarray) -> list[np.ndarray]:
    """timm's feature maps of NHWC images, in the type of `x`."""
    maps = network.forward_intermediates(torch.from_numpy(x).permute(0, 3, 1, 2), intermediates_only=True)
    return [level.permute(0, 2, 3, 1).numpy() for level in maps]


def level_faults(name: str, **options: Any) -> list:
    """The descriptions of feature maps that differ from those of timm's `features_only`, without any arithmetic."""
    kept = ('num_chs', 'reduction', 'module')
    with torch.device('meta'):
        theirs = timm.create_model(jeffnet.model_info(name).timm, features_only=True, **options)
    rows = zip(plan(name, **options).block.levels, theirs.feature_info.get_dicts(), strict=True)
    return [row for row in rows if any(row[0][k] != row[1][k] for k in kept)]


def torchvision_faults(name: str, **options: Any) -> list:
    """What of a torchvision network, of timm's name, has no place or another shape in ours, and the reverse."""
    chosen = plan(name)
    with torch.device('meta'):
        theirs = torchvision.models.get_model(chosen.info.timm, **options).state_dict()
    arrays = {k: StoredArray(tuple(v.shape), np.dtype('float32'), v.numpy) for k, v in theirs.items()}
    found = translate('pytorch', arrays, chosen.info, chosen.block, chosen.policy)
    ours = {(k, v.shape) for k, v in declarations(chosen.block, chosen.policy).items()}
    return [*(ours ^ {(k, v.shape) for k, v in found.flat.items()}), *found.unexpected]
