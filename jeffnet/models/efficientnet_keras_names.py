"""What Keras calls the layers of EfficientNet V1 and V2 and of the MobileNets."""

from collections.abc import Iterator

from jeffnet.models.efficientnet import MobileNetV3, build_stages
from jeffnet.models.mobile_blocks import ConvBnAct, DepthwiseSeparable, EdgeResidual, InvertedResidual

# The parts of a block -> Keras' suffixes, in the order in which they run.
EFFICIENTNET = {
    'expand': ('expand_conv', 'expand_bn'), 'depthwise': ('dwconv', 'bn'), 'se': ('se_reduce', 'se_expand'),
    'project': ('project_conv', 'project_bn'),
}  # fmt: skip
EFFICIENTNETV2 = EFFICIENTNET | {'depthwise': ('dwconv2', 'bn')}
MOBILENETV2 = {
    'expand': ('expand', 'expand_BN'), 'depthwise': ('depthwise', 'depthwise_BN'), 'project': ('project', 'project_BN')
}  # fmt: skip
MOBILENETV3 = {
    'expand': ('expand', 'expand_bn'), 'depthwise': ('depthwise', 'depthwise_bn'),
    'se': ('squeeze_excite_conv', 'squeeze_excite_conv_1'), 'project': ('project', 'project_bn'),
}  # fmt: skip
SQUEEZE = ('se.conv_reduce', 'se.conv_expand')
MODULES = {  # the parts of a block -> our modules
    InvertedResidual: {
        'expand': ('conv_pw', 'bn1'), 'depthwise': ('conv_dw', 'bn2'), 'se': SQUEEZE, 'project': ('conv_pwl', 'bn3')
    },
    DepthwiseSeparable: {'depthwise': ('conv_dw', 'bn1'), 'se': SQUEEZE, 'project': ('conv_pw', 'bn2')},
    EdgeResidual: {'expand': ('conv_exp', 'bn1'), 'project': ('conv_pwl', 'bn2')},
    ConvBnAct: {'project': ('conv', 'bn1')},
}  # fmt: skip


def keras_layers(network) -> Iterator[tuple]:
    """(Keras' layer, our module, perhaps Keras' class) of all layers with variables, in the order of Keras' files."""
    stages = build_stages(network)
    if not network.features:
        return mobilenet_v1(stages)
    if isinstance(network, MobileNetV3):
        return mobilenet_v3(stages)
    if isinstance(stages[0][0], ConvBnAct):
        return efficientnet(stages, EFFICIENTNETV2)
    return mobilenet_v2(stages) if stages[1][0].squeeze is None else efficientnet_v1(stages)


def efficientnet(stages, suffixes) -> Iterator[tuple[str, str]]:
    """EfficientNet's stem, blocks and head."""
    yield from (('stem_conv', 'conv_stem'), ('stem_bn', 'bn1'))
    for s, stage in enumerate(stages):
        for i, block in enumerate(stage):
            yield from layers_of_block(block, f'block{s + 1}{chr(ord("a") + i)}_', f'blocks_{s}_{i}', suffixes)
    yield from (('top_conv', 'conv_head'), ('top_bn', 'bn2'), ('predictions', 'classifier'))


def efficientnet_v1(stages) -> Iterator[tuple[str, str | None]]:
    """The layer before the stem normalises the image and is no module of ours."""
    yield 'normalization', None
    yield from efficientnet(stages, EFFICIENTNET)


def mobilenet_v1(stages) -> Iterator[tuple[str, ...]]:
    """The blocks are numbered from 1, and the classifier is a 1x1 convolution."""
    yield from (('conv1', 'conv_stem'), ('conv1_bn', 'bn1'))
    for number, _, ours in numbered(stages):
        for kind, conv, norm in (('dw', 'conv_dw', 'bn1'), ('pw', 'conv_pw', 'bn2')):
            theirs = f'conv_{kind}_{number + 1}'
            yield from ((theirs, f'{ours}.{conv}'), (f'{theirs}_bn', f'{ours}.{norm}'))
    yield 'conv_preds', 'classifier', 'conv2d'


def mobilenet_v2(stages) -> Iterator[tuple[str, str]]:
    """The blocks are numbered through."""
    yield from (('Conv1', 'conv_stem'), ('bn_Conv1', 'bn1'))
    for number, block, ours in numbered(stages):
        yield from layers_of_block(block, f'block_{number}_' if number else 'expanded_conv_', ours, MOBILENETV2)
    yield from (('Conv_1', 'conv_head'), ('Conv_1_bn', 'bn2'), ('predictions', 'classifier'))


def mobilenet_v3(stages) -> Iterator[tuple[str, ...]]:
    """The last stage is part of Keras' head, whose classifier is a 1x1 convolution."""
    yield from (('conv', 'conv_stem'), ('conv_bn', 'bn1'))
    for number, block, ours in numbered(stages[:-1]):
        theirs = f'expanded_conv_{number}_' if number else 'expanded_conv_'
        yield from layers_of_block(block, theirs, ours, MOBILENETV3)
    last = f'blocks_{len(stages) - 1}_0'
    yield from (('conv_1', f'{last}.conv'), ('conv_1_bn', f'{last}.bn1'), ('conv_2', 'conv_head'))
    yield 'logits', 'classifier', 'conv2d'


def numbered(stages) -> Iterator[tuple]:
    """(number, block, our module) of all blocks."""
    blocks = [(block, f'blocks_{s}_{i}') for s, stage in enumerate(stages) for i, block in enumerate(stage)]
    return ((number, *block) for number, block in enumerate(blocks))


def layers_of_block(block, theirs: str, ours: str, suffixes: dict) -> Iterator[tuple[str, str]]:
    """The layers of one block, by the prefixes of their names."""
    for part, modules in MODULES[type(block)].items():
        if part != 'se' or block.squeeze is not None:
            yield from ((theirs + s, f'{ours}.{m}') for s, m in zip(suffixes[part], modules, strict=True))
