"""Block: the one definition of a layer or network that every framework derives its native module from.

A Block is a dataclass of hyper-parameters. `setup` assigns sub-blocks, lists of sub-blocks and declarations
(`Param`, `State`, `Keys`) to attributes; `__call__` is the arithmetic. The back ends (`jeffnet.linen`,
`jeffnet.objax`, `jeffnet.nnx`) turn each assignment into what their framework stores. This module imports none of them.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, dataclass_transform

import jax.numpy as jnp

Padding = str | int | tuple[tuple[int, int], tuple[int, int]]
Edit = tuple[str, Callable[['Block'], 'Block']]  # the path of a sub-block, as in flat names, and what replaces it


@dataclass(frozen=True)
class Param:
    """A trained float32 array; read it as `jnp.asarray(self.kernel, dtype)`."""

    shape: tuple[int, ...]
    init: Callable


@dataclass(frozen=True)
class State(Param):
    """A float32 running statistic; read and assign its `.value`."""


@dataclass(frozen=True)
class Keys:
    """A stream of random keys; `self.keys()` gives the next one."""


def unchanged(block: 'Block') -> 'Block':
    """The default `Policy.rewrite`: every sub-block stays as it is."""
    return block


@dataclass(frozen=True)
class Policy:
    """What an architecture leaves open; every sub-block sees the same one as `self.policy`, but for `edits`.

    Parameters, statistics and logits stay float32 under any `dtype` of 32 bits or fewer.
    """

    dtype: Any = jnp.float32  # of the computation
    padding: str = 'LIKE'  # 'LIKE': symmetric, as in PyTorch; 'SAME': as in TensorFlow
    bn_momentum: float = 0.9  # share of the old statistic that is kept (PyTorch counts the other share)
    bn_eps: float = 1e-5
    bn_unbiased: bool = True  # whether the running variance has the n / (n - 1) factor
    bn_group_size: int | None = None  # consecutive examples that share batch statistics in training; None: the batch
    bn_frozen: bool = False  # whether training, too, normalises with the running statistics and leaves them alone
    rewrite: Callable[['Block'], 'Block'] = unchanged  # replaces any sub-block, e.g. BatchNorm by GroupNorm
    edits: tuple[Edit, ...] = field(default=(), repr=False)  # replace single ones after that; as many as layers

    def child(self, name: str, block: 'Block') -> tuple['Block', 'Policy']:
        """What a module builds for the sub-block `name` (`blocks_0_0`), and the policy which that gets."""
        block = self.rewrite(block)
        if not self.edits:
            return block, self
        below = []
        for path, edit in self.edits:
            if path == name:
                block = edit(block)
            elif path.startswith(f'{name}.'):
                below.append((path.removeprefix(f'{name}.'), edit))
        return block, replace(self, edits=tuple(below))


# torch.nn.BatchNorm2d: momentum 0.1 of the new value, unbiased running variance, biased variance in the batch itself.
PYTORCH = Policy()
# The TensorFlow TPU reference code: its own, unfused batch norm keeps the biased variance.
TENSORFLOW = Policy(padding='SAME', bn_momentum=0.99, bn_eps=1e-3, bn_unbiased=False)
# Keras' own defaults; its Applications change them family by family (the table's `policy`).
KERAS = TENSORFLOW


@dataclass_transform()
class Block:
    """Base class of all layers, blocks and models; subclasses become dataclasses by themselves."""

    native = False  # True in the classes that a back end derives
    policy: Policy  # set by the back end; no field, since this class itself is no dataclass

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if not cls.native:
            dataclass(unsafe_hash=True)(cls)

    def setup(self):
        """Assigns sub-blocks, complete lists of them, and declarations to attributes."""

    def tap(self, name: str, x):
        """Returns `x`, and offers it as the intermediate value `name` to whoever records."""
        recorded = _recorded.get()
        if recorded is not None:
            recorded[name] = x
        return x


_recorded: ContextVar[dict | None] = ContextVar('recorded intermediates', default=None)


@contextlib.contextmanager
def recording() -> Iterator[dict]:
    """Collects what `Block.tap` is offered while the context is open."""
    token = _recorded.set({})
    try:
        yield _recorded.get()
    finally:
        _recorded.reset(token)


def declarations(block: Block, policy: Policy = PYTORCH, index: str = '_') -> dict[str, Param]:
    """The `Param` and `State` declarations of a block by flat name, in order, found without a framework.

    `index` stands before the position in a list: `_` in our flat names (`blocks_0_0`), `.` in PyTorch's (`blocks.0.0`).
    """
    return {path: each for path, each in parts(block, policy, index) if isinstance(each, Param)}


def sub_blocks(block: Block, policy: Policy = PYTORCH) -> dict[str, Block]:
    """All blocks within a block by path (`blocks_0_0.conv_dw`), in order, found without a framework."""
    return {path: each for path, each in parts(block, policy, '_') if isinstance(each, Block)}


def parts(block: Block, policy: Policy, index: str, prefix: str = '') -> list[tuple[str, Param | Block]]:
    """Everything that a block declares, by path: its own, then what is in its sub-blocks, in the order of `setup`."""
    block = copy.copy(block)
    block.policy = policy
    block.setup()
    found = []

    def walk(name, value):
        if isinstance(value, Param):
            found.append((prefix + name, value))
        elif isinstance(value, list):
            for i, element in enumerate(value):
                walk(f'{name}{index}{i}', element)
        elif isinstance(value, Block):
            child, inherited = policy.child(name.replace(index, '_'), value)
            found.append((prefix + name, child))
            found.extend(parts(child, inherited, index, f'{prefix}{name}.'))

    for name, value in vars(block).items():
        walk(name, value)
    return found
