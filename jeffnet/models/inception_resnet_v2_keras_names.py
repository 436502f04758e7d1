"""What Keras calls the layers of Inception-ResNet-v2: most are numbered in the order of the code, branch by branch."""

from collections.abc import Iterator

from jeffnet.models.inception_resnet_v2 import AVG, BLOCK_8, MAX, STEM, TRUNK, Branches
from jeffnet.models.keras_order import Step, by_depth, numbered

RESIDUAL = {'repeat': 'block35', 'repeat_1': 'block17', 'repeat_2': 'block8'}  # our run: Keras' name of its blocks


def keras_layers(network) -> Iterator[tuple[str, str]]:
    """(Keras' layer, our module) of all layers with variables, in the order of Keras' files."""
    blocks = list(trunk(network.repeats))
    inside = [unit for path, _, branches in blocks for units in units_of(path, branches) for unit in units if unit]
    convolutions, norms = (numbered(kind, [*STEM, *inside]) for kind in ('conv2d', 'batch_normalization'))

    def steps(unit: str | None) -> list[Step]:
        """A pool, or convolution, norm and activation."""
        return [(convolutions[unit], f'{unit}.conv'), (norms[unit], f'{unit}.bn'), None] if unit else [None]

    for name in STEM:
        yield from by_depth(steps(name))
    for path, theirs, branches in blocks:
        yield from by_depth(*([step for unit in units for step in steps(unit)] for units in units_of(path, branches)))
        if theirs:
            yield f'{theirs}_conv', f'{path}.conv2d'
    yield from (('conv_7b', 'conv2d_7b.conv'), ('conv_7b_bn', 'conv2d_7b.bn'), ('predictions', 'classif'))


def trunk(repeats: tuple[int, ...]) -> Iterator[tuple[str, str | None, Branches]]:
    """Our module, Keras' name if it has a shortcut, and branches of each block, in their order."""
    counts = iter(repeats)
    for name, (branches, factor) in TRUNK.items():
        if not factor:
            yield name, None, branches
            continue
        for i in range(next(counts)):
            yield f'{name}_{i}', f'{RESIDUAL[name]}_{i + 1}', branches
    yield 'block8', 'block8_10', BLOCK_8


def units_of(path: str, branches: Branches) -> list[list[str | None]]:
    """The module of each convolution, branch by branch; `None` for a pool."""
    found = []
    for i, branch in enumerate(branches):
        names = [f'{path}.branch{i}_{j}' for j in range(len(branch))] if len(branch) > 1 else [f'{path}.branch{i}']
        found.append([None if unit in (AVG, MAX) else name for unit, name in zip(branch, names, strict=True)])
    return found
