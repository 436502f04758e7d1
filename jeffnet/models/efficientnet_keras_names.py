"""What Keras calls the layers of EfficientNet and MobileNets."""

from collections.abc import Iterator

from jeffnet.models.efficientnet import build_stages
from jeffnet.models.mobile_blocks import DepthwiseSeparable

# Our module -> Keras' suffix, in the order in which they run, for both networks.
EFFICIENTNET = {
    'expand': ('expand_conv', 'expand_bn'), 'depthwise': ('dwconv', 'bn'), 'se': ('se_reduce', 'se_expand'),
    'project': ('project_conv', 'project_bn'),
}  # fmt: skip
MOBILENETV2 = {
    'expand': ('expand', 'expand_BN'), 'depthwise': ('depthwise', 'depthwise_BN'), 'project': ('project', 'project_BN')
}  # fmt: skip
MODULES = {
    'expand': ('conv_pw', 'bn1'), 'depthwise': ('conv_dw', 'bn2'), 'se': ('se.conv_reduce', 'se.conv_expand'),
    'project': ('conv_pwl', 'bn3'),
}  # fmt: skip
MODULES_WITHOUT_EXPANSION = {
    'depthwise': ('conv_dw', 'bn1'), 'se': ('se.conv_reduce', 'se.conv_expand'), 'project': ('conv_pw', 'bn2')
}  # fmt: skip


def keras_layers(network) -> Iterator[tuple]:
    """(Keras' layer, our module, its class if not ours) of all layers with variables, in the order of Keras' files.

    EfficientNet's first layer, which normalises the image, is no module of ours.
    """
    stages = build_stages(network)
    if not network.features:
        yield from mobilenetv1_layers(stages)
        return
    if stages[1][0].squeeze is None:
        yield from (('Conv1', 'conv_stem'), ('bn_Conv1', 'bn1'))
        prefixes = [['expanded_conv_']]
        prefixes += [[f'block_{i}_' for i in range(first, first + len(stage))] for first, stage in numbered(stages)]
        suffixes, top = MOBILENETV2, ('Conv_1', 'Conv_1_bn')
    else:
        yield from (('normalization', None), ('stem_conv', 'conv_stem'), ('stem_bn', 'bn1'))
        prefixes = [[f'block{s + 1}{chr(ord("a") + i)}_' for i in range(len(stage))] for s, stage in enumerate(stages)]
        suffixes, top = EFFICIENTNET, ('top_conv', 'top_bn')
    for s, stage in enumerate(stages):
        for i, block in enumerate(stage):
            modules = MODULES_WITHOUT_EXPANSION if isinstance(block, DepthwiseSeparable) else MODULES
            for part, ours in modules.items():
                if part in suffixes:
                    pairs = zip(suffixes[part], ours, strict=True)
                    yield from ((prefixes[s][i] + theirs, f'blocks_{s}_{i}.{module}') for theirs, module in pairs)
    yield from ((top[0], 'conv_head'), (top[1], 'bn2'), ('predictions', 'classifier'))


def mobilenetv1_layers(stages: list[list]) -> Iterator[tuple]:
    """The layers of the first MobileNet, whose classifier is a 1x1 convolution."""
    yield from (('conv1', 'conv_stem'), ('conv1_bn', 'bn1'))
    blocks = [f'blocks_{s}_{i}' for s, stage in enumerate(stages) for i in range(len(stage))]
    for number, ours in enumerate(blocks, start=1):
        for kind, conv, norm in (('dw', 'conv_dw', 'bn1'), ('pw', 'conv_pw', 'bn2')):
            yield from ((f'conv_{kind}_{number}', f'{ours}.{conv}'), (f'conv_{kind}_{number}_bn', f'{ours}.{norm}'))
    yield 'conv_preds', 'classifier', 'conv2d'


def numbered(stages: list[list]) -> Iterator[tuple[int, list]]:
    """The stages behind the first, each with the number of its first block."""
    first = 1
    for stage in stages[1:]:
        yield first, stage
        first += len(stage)
