"""Groups of arrays by name: which are decayed, which learn at another rate, which are frozen.

Parameters are one flat dict by name, e.g. `{'conv_stem.kernel': ..., 'blocks_0_0.bn1.scale': ..., 'fc.bias': ...}`.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

DECAY_MASKS = ('weights', 'no_norm', 'all')

# Where the arrays of a network lie, by the start of their names; the first that fits counts. The end of the trunk has
# the rate of the last block, as in timm.
HEAD = r'(classifier|fc|fc_norm|head|head_dist)\.'
STEM = r'conv_stem|stem|conv1\b|bn1\b|patch_embed|cls_token|reg_token|pos_embed'
BLOCK = r'(?:blocks_|layer|stages_)(\d+)(?:(?:[._]blocks)?_(\d+))?'  # one number: the block; two: stage and block of it
TRUNK_END = r'conv_head|bn2\b|norm'


def decay_mask(params: Mapping[str, Any], which: str = 'weights') -> dict[str, bool]:
    """True for each array that weight decay shrinks.

    `which` is `weights` (arrays of two or more axes), `no_norm` (all but scale and bias of norms), `all`, or a regular
    expression of names (`re.search`); ValueError if it matches none.
    """
    if which == 'all':
        return dict.fromkeys(params, True)
    if which == 'weights':
        return {name: array.ndim > 1 for name, array in params.items()}
    if which == 'no_norm':
        # Of all layers only norms have a scale.
        norms = {name.removesuffix('.scale') for name in params if name.endswith('.scale')}
        return {name: name.rpartition('.')[0] not in norms for name in params}
    decayed = set(matching('decay_mask', which, params, DECAY_MASKS))
    return {name: name in decayed for name in params}


def multipliers(
    names: Iterable[str],
    *,
    layer_decay: float = 1.0,
    lr_multipliers: Sequence[tuple[str, float]] | Mapping[str, float] = (),
    freeze: Sequence[str] = (),
) -> dict[str, float]:
    """The factor of each array's learning rate; 0 is frozen.

    `layer_decay` to the power of the distance from the head (Bao et al., 2022), times the factors of those of
    `lr_multipliers`, pairs of a regular expression and a factor, that match the name; 0 where one of `freeze` does.
    Raises ValueError for a pattern that matches no name and for factors below 0.
    """
    names = list(names)
    if not 0 < layer_decay <= 1:
        raise ValueError(f'layer_decay is {layer_decay!r}; allowed: above 0, at most 1')
    factors = dict.fromkeys(names, 1.0)
    if layer_decay < 1:
        layers = layer_ids(names)
        factors = {name: layer_decay ** (max(layers.values()) - layer) for name, layer in layers.items()}
    pairs = lr_multipliers.items() if isinstance(lr_multipliers, Mapping) else lr_multipliers
    for pattern, factor in pairs:
        if not 0 <= factor < math.inf:
            raise ValueError(f'the factor of {pattern!r} in lr_multipliers is {factor!r}; allowed: 0 or more')
        for name in matching('lr_multipliers', pattern, names):
            factors[name] *= factor
    for pattern in freeze:
        for name in matching('freeze', pattern, names):
            factors[name] = 0.0
    return factors


def layer_ids(names: Iterable[str]) -> dict[str, int]:
    """The layer of each array: 0 the stem, then each block, last the head; ValueError for a name of no known place."""
    places = {name: place(name) for name in names}
    blocks = sorted({where for where in places.values() if where[0] == 1})
    if blocks:  # the end of the trunk belongs to the last block
        places = {name: blocks[-1] if where[0] == 2 else where for name, where in places.items()}
    order = {where: layer for layer, where in enumerate(sorted(set(places.values())))}
    return {name: order[where] for name, where in places.items()}


def place(name: str) -> tuple[int, ...]:
    """Where an array lies, in a form that sorts from the stem to the head."""
    if re.match(HEAD, name):
        return (3,)
    if block := re.match(BLOCK, name):
        return (1, int(block[1]), int(block[2] or 0))
    for number, pattern in ((0, STEM), (2, TRUNK_END)):
        if re.match(pattern, name):
            return (number,)
    raise ValueError(f'layer_decay: {name!r} is in no layer; known: {HEAD}, {BLOCK}, {STEM}, {TRUNK_END}')


def matching(key: str, pattern: str, names: Iterable[str], words: Sequence[str] = ()) -> list[str]:
    """The names that the regular expression is found in; ValueError if there are none or it is no expression."""
    names = list(names)
    allowed = ', '.join([*words, 'a regular expression that is found in a name'])
    try:
        found = [name for name in names if re.search(pattern, name)]
    except re.error as error:
        raise ValueError(f'{key} is {pattern!r}, {error}; allowed: {allowed}') from error
    if not found:
        raise ValueError(f'{key} is {pattern!r}; allowed: {allowed}, such as {", ".join(names[:3] + names[-2:])}')
    return found
