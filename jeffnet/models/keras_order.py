"""The order of layers in Keras' files: by depth in the graph, counted from the end; of equals the one visited first."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

Named = tuple[str, str]  # Keras' layer, our module
Step = Named | None  # None: a layer without variables, which counts in the depth


def by_depth(*branches: Sequence[Step]) -> Iterator[Named]:
    """The layers of parallel branches that meet in one layer, in the order of Keras' files.

    A branch lists its layers from the input on.
    """
    ranked = [(len(branch) - i, step) for branch in branches for i, step in enumerate(branch) if step is not None]
    return (step for _, step in sorted(ranked, key=lambda pair: -pair[0]))  # the sort keeps the order of equals


@dataclass(frozen=True, eq=False)
class Node:
    """A layer of a graph, and the layers whose outputs it takes, in their order."""

    layer: Named | None = None
    inputs: tuple['Node', ...] = ()


def chain(node: Node, *layers: Step) -> Node:
    """The last of layers in a row behind a node."""
    for layer in layers:
        node = Node(layer, (node,))
    return node


def in_order(output: Node) -> Iterator[Named]:
    """The layers of a whole graph, in the order of Keras' files."""
    met, finished = {}, []  # as a dictionary, since it keeps the order

    def visit(node):
        if node not in met:
            met[node] = True
            for each in node.inputs:
                visit(each)
            finished.append(node)

    visit(output)
    depths = dict.fromkeys(met, 0)
    for node in reversed(finished):  # every layer before those that it takes
        for each in node.inputs:
            depths[each] = max(depths[each], depths[node] + 1)
    return (node.layer for node in sorted(met, key=lambda node: -depths[node]) if node.layer is not None)


def numbered(kind: str, modules: Iterable[str]) -> dict[str, str]:
    """Keras' automatic names, `conv2d`, `conv2d_1`, ..., of modules in the order in which Keras creates them."""
    return {module: f'{kind}_{i}' if i else kind for i, module in enumerate(modules)}
