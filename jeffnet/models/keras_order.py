"""The order of layers in Keras' files: by depth in the graph, counted from the end; of equals the one visited first."""

from collections.abc import Iterable, Iterator, Sequence

Named = tuple[str, str]  # Keras' layer, our module
Step = Named | None  # None: a layer without variables, which counts in the depth


def by_depth(*branches: Sequence[Step]) -> Iterator[Named]:
    """The layers of parallel branches that meet in one layer, in the order of Keras' files.

    A branch lists its layers from the input on.
    """
    ranked = [(len(branch) - i, step) for branch in branches for i, step in enumerate(branch) if step is not None]
    return (step for _, step in sorted(ranked, key=lambda pair: -pair[0]))  # the sort keeps the order of equals


def numbered(kind: str, modules: Iterable[str]) -> dict[str, str]:
    """Keras' automatic names, `conv2d`, `conv2d_1`, ..., of modules in the order in which Keras creates them."""
    return {module: f'{kind}_{i}' if i else kind for i, module in enumerate(modules)}
