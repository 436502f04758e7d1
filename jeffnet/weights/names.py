"""Names and layouts: timm's state dict into flat variables by one general rule, after a family's few exceptions."""

import re
from collections.abc import Collection, Iterable, Mapping

import numpy as np

LEAVES = {'running_mean': 'mean', 'running_var': 'var'}
LAYOUT = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0)}  # OI -> IO, OIW -> WIO, OIHW -> HWIO


def from_timm(
    state: Mapping[str, np.ndarray], names: Collection[str], exceptions: Iterable[tuple[str, str]] = ()
) -> dict[str, np.ndarray]:
    """Flat variables from a timm state dict.

    `names` are the flat names of our model: they tell a kernel from a norm's scale. `exceptions` are (pattern,
    replacement) pairs for `re.sub` on timm's names, from the family's file.
    """
    flat = {}
    for key, array in state.items():
        for pattern, replacement in exceptions:
            key = re.sub(pattern, replacement, key)
        path, _, leaf = re.sub(r'\.(\d+)(?=\.|$)', r'_\1', key).rpartition('.')
        if leaf == 'num_batches_tracked':
            continue
        if leaf == 'weight':
            leaf = 'scale' if f'{path}.scale' in names or array.ndim == 1 else 'kernel'
        if leaf == 'kernel' and array.ndim in LAYOUT:
            array = array.transpose(LAYOUT[array.ndim])
        flat[f'{path}.{LEAVES.get(leaf, leaf)}'.lstrip('.')] = array
    return flat
