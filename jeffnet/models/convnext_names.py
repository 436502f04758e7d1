"""What other publishers call the arrays of ConvNeXt: torchvision, and Facebook, who published it first."""

from collections.abc import Collection, Iterator

# timm's name of a block's array -> theirs, inside the block.
TORCHVISION = {
    'conv_dw': 'block.0', 'norm': 'block.2', 'mlp.fc1': 'block.3', 'mlp.fc2': 'block.5', 'gamma': 'layer_scale',
}  # fmt: skip
FACEBOOK = {
    'conv_dw': 'dwconv', 'norm': 'norm', 'mlp.fc1': 'pwconv1', 'mlp.fc2': 'pwconv2', 'gamma': 'gamma',
    'mlp.grn.weight': 'grn.gamma', 'mlp.grn.bias': 'grn.beta',
}  # fmt: skip
ARRAYS = ('gamma', 'mlp.grn.weight', 'mlp.grn.bias')  # of these; the others are modules with a weight and a bias


def renamed(network, names: Collection[str]) -> dict[str, str]:
    """timm's name by that of the publisher whose file has these names; empty for timm's own."""
    if 'features.1.0.layer_scale' in names:
        return dict(pairs(torchvision(network)))
    if 'downsample_layers.0.0.weight' in names:
        return dict(pairs(facebook(network)))
    return {}


def pairs(parts: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """(their name, timm's) of every array, from those of arrays and modules."""
    for theirs, timm in parts:
        leaves = [''] if timm.endswith(ARRAYS) else ['.weight', '.bias']
        yield from ((theirs + leaf, timm + leaf) for leaf in leaves)


def torchvision(network) -> Iterator[tuple[str, str]]:
    """(torchvision's name, timm's); its list has the stem, then in turn a stage and what halves the image."""
    yield from (('classifier.0', 'head.norm'), ('classifier.2', 'head.fc'))
    for s, depth in enumerate(network.depths):
        halving = 'stem' if s == 0 else f'stages.{s}.downsample'
        yield from ((f'features.{2 * s}.{i}', f'{halving}.{i}') for i in (0, 1))
        for b in range(depth):
            yield from (
                (f'features.{2 * s + 1}.{b}.{theirs}', f'stages.{s}.blocks.{b}.{timm}')
                for timm, theirs in TORCHVISION.items()
            )


def facebook(network) -> Iterator[tuple[str, str]]:
    """(Facebook's name, timm's) of both versions; to them the stem is the first of the layers that shrink the image."""
    yield from (('norm', 'head.norm'), ('head', 'head.fc'))
    for s, depth in enumerate(network.depths):
        halving = 'stem' if s == 0 else f'stages.{s}.downsample'
        yield from ((f'downsample_layers.{s}.{i}', f'{halving}.{i}') for i in (0, 1))
        for b in range(depth):
            yield from (
                (f'stages.{s}.{b}.{theirs}', f'stages.{s}.blocks.{b}.{timm}') for timm, theirs in FACEBOOK.items()
            )
