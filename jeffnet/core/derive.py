"""What the three back ends share: deriving a native class from a Block class."""

import dataclasses

from jeffnet.core.block import Block


def methods(block_class: type[Block]) -> dict:
    """All functions and properties of a Block class and its Block bases; Linen wraps only those in a class body."""
    found = {}
    for base in reversed(block_class.__mro__):
        if issubclass(base, Block):
            kinds = (type(Block.setup), property)
            found |= {k: v for k, v in vars(base).items() if isinstance(v, kinds) and not _generated(k)}
    return found


def fields(block, shown: bool = False) -> dict:
    """The hyper-parameters of a block or native module, by name; `shown`: only those that belong into its repr."""
    declared = dataclasses.fields(block_class(type(block)))
    return {f.name: getattr(block, f.name) for f in declared if f.repr or not shown}


def block_class(cls: type) -> type[Block]:
    """The Block class that a native class (or a user's subclass of one) was derived from."""
    return next(base for base in cls.__mro__ if issubclass(base, Block) and not base.native)


def _generated(name: str) -> bool:
    return name.startswith('__') and name != '__call__'
