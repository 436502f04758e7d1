"""What Keras calls the layers of Inception-V3: it numbers them in the order of the code, branch by branch."""

from collections.abc import Iterator

from jeffnet.models.inception_v3 import BLOCKS, STEM
from jeffnet.models.keras_order import Step, by_depth, numbered


def keras_layers(network) -> Iterator[tuple[str, str]]:
    """(Keras' layer, our module) of all layers with variables, in the order of Keras' files."""
    inside = [f'{name}.{u.name}' for name, branches in BLOCKS.items() for b in branches for u in b.all_units]
    created = [unit[0] for unit in STEM] + inside
    convolutions, norms = (numbered(kind, created) for kind in ('conv2d', 'batch_normalization'))

    def steps(module: str) -> list[Step]:
        """The three layers of a unit; the last is its activation."""
        return [(convolutions[module], f'{module}.conv'), (norms[module], f'{module}.bn'), None]

    for unit in STEM:
        yield from by_depth(steps(unit[0]))
    for block, branches in BLOCKS.items():
        paths = []
        for branch in branches:
            before = [step for unit in branch.units for step in steps(f'{block}.{unit.name}')]
            # Two convolutions at the end meet in a concatenation of their own, one layer further from the end.
            paths.append([*before, *[None] * 4] if branch.split else before)
            paths += [[*steps(f'{block}.{unit.name}'), None] for unit in branch.split]
        yield from by_depth(*paths)
    yield 'predictions', 'fc'
