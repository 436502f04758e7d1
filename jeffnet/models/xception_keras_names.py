"""What Keras calls the layers of Xception; its separable convolutions are one layer with two kernels."""

from collections.abc import Iterator

from jeffnet.models.keras_order import by_depth, numbered
from jeffnet.models.xception import BLOCKS, TOP, places


def keras_layers(network) -> Iterator[tuple]:
    """(Keras' layer, our module or pair of modules) of all layers with variables, in the order of Keras' files."""
    for i in (1, 2):
        yield from ((f'block1_conv{i}', f'conv{i}'), (f'block1_conv{i}_bn', f'bn{i}'))
    shortcuts = [i for i, shape in enumerate(BLOCKS) if shape.shrink]
    convolutions, norms = (numbered(kind, shortcuts) for kind in ('conv2d', 'batch_normalization'))
    for i, shape in enumerate(BLOCKS):
        ours, main = f'block{i + 1}', []
        for j, place in enumerate(places(shape, act_first=i > 0), start=1):
            main += [*separable(f'block{i + 2}_sepconv{j}', f'{ours}.rep_{place}', f'{ours}.rep_{place + 1}'), None]
        # Behind each norm is an activation, behind the last one of a block that shrinks a pool.
        shortcut = [(convolutions[i], f'{ours}.skip'), (norms[i], f'{ours}.skipbn')] if shape.shrink else []
        yield from by_depth(main, shortcut)
    for i in range(len(TOP)):
        yield from separable(f'block{len(BLOCKS) + 2}_sepconv{i + 1}', f'conv{i + 3}', f'bn{i + 3}')
    yield 'predictions', 'fc'


def separable(name: str, conv: str, norm: str) -> list[tuple]:
    """A separable convolution and its norm."""
    return [(name, (f'{conv}.conv1', f'{conv}.pointwise')), (f'{name}_bn', norm)]
