"""What Keras calls the layers of NASNet, in the order that its graph gives them."""

from collections.abc import Iterator

from jeffnet.models.keras_order import Node, chain, in_order
from jeffnet.models.nasnet import STEM_CELLS, NormalCell, ReductionCell, build_cells


def keras_layers(network) -> Iterator[tuple]:
    """(Keras' layer, our module or modules) of all layers with variables, in the order of Keras' files."""
    x = chain(Node(), ('stem_conv1', 'conv0.conv'), ('stem_bn1', 'conv0.bn'))
    previous = x
    for name, cell in build_cells(network).items():
        build = normal_cell if isinstance(cell, NormalCell) else reduction_cell
        before, x = x, build(cell, name, keras_id(name, network.repeats), x, previous)
        if not (network.skip_reduction and isinstance(cell, ReductionCell) and name not in STEM_CELLS):
            previous = before
    return in_order(chain(x, None, None, ('predictions', 'last_linear')))


def keras_id(name: str, repeats: int) -> str:
    """What ends the names of a cell's layers; behind the first stage the numbers are one higher."""
    kind, _, number = name.rpartition('_')
    if kind == 'cell_stem':
        return f'stem_{int(number) + 1}'
    if kind == 'reduction_cell':
        return f'reduce_{(int(number) + 1) * repeats}'
    return str(int(number) + (int(number) >= repeats))


def adjusted(cell, name: str, theirs: str, previous: Node) -> Node:
    """The older input of a cell, at its size and width."""
    if cell.adjust == 'project':
        conv = (f'adjust_conv_projection_{theirs}', f'{name}.conv_prev_1x1.conv')
        return chain(previous, None, conv, (f'adjust_bn_{theirs}', f'{name}.conv_prev_1x1.bn'))
    if cell.adjust == 'halve':
        act = chain(previous, None)
        one = chain(act, None, (f'adjust_conv_1_{theirs}', f'{name}.path_1.conv'))
        two = chain(act, None, None, None, (f'adjust_conv_2_{theirs}', f'{name}.path_2.conv'))  # pad, crop, pool
        return chain(joined(one, two), (f'adjust_bn_{theirs}', f'{name}.final_path_bn'))
    return previous


def separable(x: Node, theirs: str, ours: str, stride: int = 1) -> Node:
    """A branch of two separable convolutions; a stride pads in a layer of its own."""
    if stride > 1:
        x = chain(x, None)
    for i in (1, 2):
        pair = (f'{ours}.separable_{i}.depthwise_conv2d', f'{ours}.separable_{i}.pointwise_conv2d')
        norm = (f'separable_conv_{i}_bn_{theirs}', f'{ours}.bn_sep_{i}')
        x = chain(x, None, (f'separable_conv_{i}_{theirs}', pair), norm)
    return x


def joined(*inputs: Node) -> Node:
    """A layer that joins others."""
    return Node(None, inputs)


def normal_cell(cell, name: str, theirs: str, x: Node, previous: Node) -> Node:
    """The layers of a normal cell."""
    p = adjusted(cell, name, theirs, previous)
    conv = (f'normal_conv_1_{theirs}', f'{name}.conv_1x1.conv')
    h = chain(x, None, conv, (f'normal_bn_1_{theirs}', f'{name}.conv_1x1.bn'))

    def branch(source: Node, side: str, ours: str) -> Node:
        return separable(source, f'normal_{side}_{theirs}', f'{name}.comb_iter_{ours}')

    first = joined(branch(h, 'left1', '0_left'), branch(p, 'right1', '0_right'))
    second = joined(branch(p, 'left2', '1_left'), branch(p, 'right2', '1_right'))
    third, fourth = joined(chain(h, None), p), joined(chain(p, None), chain(p, None))
    return joined(p, first, second, third, fourth, joined(branch(h, 'left5', '4_left'), h))


def reduction_cell(cell, name: str, theirs: str, x: Node, previous: Node) -> Node:
    """The layers of a reduction cell."""
    p = adjusted(cell, name, theirs, previous)
    conv = (f'reduction_conv_1_{theirs}', f'{name}.conv_1x1.conv')
    h = chain(x, None, conv, (f'reduction_bn_1_{theirs}', f'{name}.conv_1x1.bn'))
    padded = chain(h, None)

    def branch(source: Node, side: str, ours: str, stride: int = 2) -> Node:
        return separable(source, f'reduction_{side}_{theirs}', f'{name}.comb_iter_{ours}', stride)

    first = joined(branch(h, 'left1', '0_left'), branch(p, 'right1', '0_right'))
    second = joined(chain(padded, None), branch(p, 'right2', '1_right'))
    third = joined(chain(padded, None), branch(p, 'right3', '2_right'))
    fourth = joined(second, chain(first, None))
    return joined(second, third, fourth, joined(branch(first, 'left4', '4_left', 1), chain(padded, None)))
