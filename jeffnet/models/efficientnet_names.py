"""What other publishers call the modules of EfficientNet and its relatives: the predecessor's zoo, torchvision.

Each table is made from the network itself: their module name -> timm's, which `jeffnet.weights.names` turns into ours.
"""

from collections.abc import Collection, Iterator

from jeffnet.core.block import declarations
from jeffnet.models.efficientnet import build_stages
from jeffnet.models.efficientnet_tf_names import tensorflow_arrays
from jeffnet.models.mobile_blocks import ConvBnAct, DepthwiseSeparable, EdgeResidual, InvertedResidual

__all__ = [
    'TORCHVISION_POLICY', 'is_torchvision', 'predecessor_modules', 'tensorflow_arrays', 'torchvision_modules',
]  # fmt: skip

# timm's module -> the predecessor's (rwightman/efficientnet-jax, its export to .npz), inside a block and outside.
PREDECESSOR_BLOCKS = {
    InvertedResidual: {'conv_pw': 'conv_exp', 'bn1': 'bn_exp', 'bn2': 'bn_dw', 'bn3': 'bn_pwl'},
    DepthwiseSeparable: {'bn1': 'bn_dw', 'bn2': 'bn_pw'},
    EdgeResidual: {'bn1': 'bn_exp', 'bn2': 'bn_pwl'},
    ConvBnAct: {'bn1': 'bn'},
}
PREDECESSOR = {
    'conv_stem': 'stem.conv', 'bn1': 'stem.bn', 'conv_head': 'head.conv_pw', 'bn2': 'head.bn',
    'classifier': 'head.classifier',
}  # fmt: skip

# An array that only this kind of torchvision's networks has, and what stands before the modules of a block.
TORCHVISION = {
    'efficientnet': ('features.1.0.block.0.0.weight', 'features.{stage}.{i}.block.'),
    'mobilenet_v3': ('features.1.block.0.0.weight', 'features.{count}.block.'),
    'mobilenet_v2': ('features.1.conv.0.0.weight', 'features.{count}.conv.'),
    'mnasnet': ('layers.8.0.layers.0.weight', 'layers.{after_7}.{i}.layers.'),
}
# Where torchvision's batch norm differs from timm's: part of the published networks, and seen in the logits.
TENSORFLOW_LIKE = {'bn_eps': 1e-3, 'bn_momentum': 0.99}
TORCHVISION_POLICY = {
    **{f'efficientnet_b{i}': TENSORFLOW_LIKE for i in (5, 6, 7)},
    **{f'efficientnetv2_{size}': {'bn_eps': 1e-3} for size in 'sml'},
    **{f'mobilenetv3_{size}_100': TENSORFLOW_LIKE for size in ('large', 'small')},
    'mnasnet_100': {'bn_momentum': 0.9997},
}


def modules(block) -> list[str]:
    """timm's names of the modules of a block that have arrays, in the order in which they run."""
    return list(dict.fromkeys(name.rpartition('.')[0] for name in declarations(block)))


def blocks(network) -> Iterator[tuple[int, int, object]]:
    """(stage, position in the stage, block) of a network."""
    return ((s, i, block) for s, stage in enumerate(build_stages(network)) for i, block in enumerate(stage))


def predecessor_modules(network) -> dict[str, str]:
    """timm's module name by the predecessor's."""
    found = {theirs: timm for timm, theirs in PREDECESSOR.items()}
    for s, i, block in blocks(network):
        renamed = PREDECESSOR_BLOCKS[type(block)]
        for module in modules(block):
            first, dot, rest = module.replace('.convs_', '.').partition('.')  # MixConv: conv_dw.0
            theirs = renamed.get(first, first) + dot + rest.replace('conv_', '')  # se.conv_reduce: se.reduce
            found[f'blocks.{s}.{i}.{theirs}'] = f'blocks.{s}.{i}.{first}{dot}{rest}'
    return found


def is_torchvision(names: Collection[str]) -> bool:
    """Whether a file with these names is of one of torchvision's networks."""
    return any(sign in names for sign, _ in TORCHVISION.values())


def torchvision_modules(network, names: Collection[str]) -> dict[str, str]:
    """timm's module name by torchvision's, for a network of the kind that these names show."""
    kind, prefix = next((kind, prefix) for kind, (sign, prefix) in TORCHVISION.items() if sign in names)
    found, count = {'classifier.1': 'classifier'}, 0
    for s, i, block in blocks(network):
        count += 1
        before = prefix.format(stage=s + 1, i=i, count=count, after_7=s + 7)
        offset = 0
        if kind == 'mnasnet' and s == 0:  # the first block lies open, behind the stem's three modules
            before, offset = 'layers.', 3
        elif kind == 'mobilenet_v3' and isinstance(block, ConvBnAct):
            before = before.removesuffix('block.')
        ours = modules(block)
        theirs = torchvision_block(kind, ours, offset)
        found |= {before + t: f'blocks.{s}.{i}.{m}' for t, m in zip(theirs, ours, strict=False)}
    stages = len(network.stages)
    stem, head = {
        'efficientnet': (('features.0.0', 'features.0.1'), (f'features.{stages + 1}.0', f'features.{stages + 1}.1')),
        'mobilenet_v2': (('features.0.0', 'features.0.1'), (f'features.{count + 1}.0', f'features.{count + 1}.1')),
        'mobilenet_v3': (('features.0.0', 'features.0.1'), ('classifier.0', None)),
        'mnasnet': (('layers.0', 'layers.1'), (f'layers.{stages + 7}', f'layers.{stages + 8}')),
    }[kind]
    found |= dict(zip((*stem, *head), ('conv_stem', 'bn1', 'conv_head', 'bn2'), strict=True))
    return found | ({'classifier.3': 'classifier'} if kind == 'mobilenet_v3' else {})


def torchvision_block(kind: str, ours: list[str], offset: int) -> list[str]:
    """torchvision's module names inside a block for ours, which come in pairs: convolution and norm, or SE's two."""
    theirs = []
    for i, first in enumerate(ours[::2]):
        last = 2 * i + 2 == len(ours)
        if first.startswith('se.'):
            theirs += [f'{i}.fc1', f'{i}.fc2']
        elif kind == 'mobilenet_v3' and first == 'conv':
            theirs += ['0', '1']
        elif kind == 'mnasnet':
            theirs += [f'{3 * i + offset}', f'{3 * i + 1 + offset}']  # behind each an activation, which counts
        elif kind == 'mobilenet_v2' and last:
            theirs += [f'{i}', f'{i + 1}']
        else:
            theirs += [f'{i}.0', f'{i}.1']
    return theirs
