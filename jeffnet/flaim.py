"""flaim's interface: its 341 names and its `get_model`, on jeffnet's networks; for code that was written for flaim.

What flaim got wrong is right here: the key of the initial values works, the configuration of a name never changes,
odd image sizes run, and there are ImageNet classifiers.
"""

import functools
import json
from pathlib import Path
from typing import Any

import jax

import jeffnet
from jeffnet.models.table import ModelInfo, model_info, table, tagged


def get_model(
    model_name: str,
    pretrained: bool = True,
    n_classes: int = 0,
    jit: bool = True,
    prng: jax.Array | int | None = None,
    norm_stats: bool = False,
) -> tuple:
    """A network by flaim's name or ours: `(module, variables)` of Flax Linen, and with `norm_stats` mean and std.

    `n_classes`: 0, the last feature map; -1, all but the last linear layer; k, logits of k classes, with the published
    classifier where that has k. `prng`: a key of JAX, or a whole number, for the initial values. `jit` is accepted and
    changes nothing: variables are made without running the network. Raises ValueError for an unknown name.
    """
    info = resolve(model_name)
    seed = 0 if prng is None else seed_of(prng)
    made = jeffnet.create_model(info.name, pretrained=pretrained, num_classes=n_classes, seed=seed)
    return (*made, {'mean': info.mean, 'std': info.std}) if norm_stats else made


def resolve(name: str) -> ModelInfo:
    """The entry of the table that one of flaim's names, or of ours, stands for; ValueError if there is none."""
    theirs = names().get(name)
    if theirs is None:
        return model_info(name)
    for known in (f'pt_{theirs}', theirs):
        if known in table() or known in tagged():
            return model_info(known)
    raise ValueError(f'{name}: jeffnet does not have this network of flaim ({theirs}) yet')


@functools.cache
def names() -> dict[str, str]:
    """By flaim's name, timm's architecture, with the tag where it is known; our name where timm has none."""
    return json.loads((Path(__file__).parent / 'models' / 'flaim.json').read_text())


def seed_of(prng: Any) -> int:
    """A seed for `create_model` of a key or a whole number."""
    return int(prng) if isinstance(prng, int) else int(jax.random.bits(prng))
