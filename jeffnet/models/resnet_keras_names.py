"""What Keras calls the layers of ResNet and ResNet-RS."""

from collections.abc import Iterator

from jeffnet.models.keras_order import by_depth

DROPS = 60  # blocks from which on ResNet-RS has layers that drop branches, which count in the depth


def keras_layers(network) -> Iterator[tuple[str, str]]:
    """(Keras' layer, our module) of all layers with variables, in the order of Keras' files."""
    return resnet_rs(network) if network.stem_widths else resnet(network)


def resnet(network) -> Iterator[tuple[str, str]]:
    """The shortcut's layers have the number 0."""
    yield from (('conv1_conv', 'conv1'), ('conv1_bn', 'bn1'))
    for s, (_, repeats, _) in enumerate(network.stages):
        for i in range(repeats):
            theirs, ours = f'conv{s + 2}_block{i + 1}', f'layer{s + 1}_{i}'
            branch, shortcut = [], []
            for number in (1, 2, 3):
                branch += [(f'{theirs}_{number}_conv', f'{ours}.conv{number}')]
                branch += [(f'{theirs}_{number}_bn', f'{ours}.bn{number}')]
                branch += [None] if number < 3 else []  # an activation
            if i == 0:
                shortcut = [(f'{theirs}_0_conv', f'{ours}.downsample_0'), (f'{theirs}_0_bn', f'{ours}.downsample_1')]
            yield from by_depth(shortcut, branch)
    yield 'predictions', 'fc'


def resnet_rs(network) -> Iterator[tuple[str, str]]:
    """The stem has a number that counts on from model to model; there is one underscore or two in a block's names."""
    for i, (conv, norm) in enumerate((('conv1_0', 'conv1_1'), ('conv1_3', 'conv1_4'), ('conv1_6', 'bn1')), start=1):
        yield from ((f'stem_1_stem_conv_{i}', conv), (f'stem_1_stem_batch_norm_{i}', norm))
    yield from (('stem_1_stem_conv_4', 'maxpool_0'), ('stem_1_stem_batch_norm_4', 'maxpool_1'))
    drops = [None] if sum(repeats for _, repeats, _ in network.stages) > DROPS else []
    for s, (_, repeats, _) in enumerate(network.stages):
        for i in range(repeats):
            theirs, ours = f'BlockGroup{s + 2}__block_{i}_', f'layer{s + 1}_{i}'
            branch = [(f'{theirs}_conv_1', f'{ours}.conv1'), (f'{theirs}batch_norm_1', f'{ours}.bn1'), None]
            branch += [None] if s > 0 and i == 0 else []  # zeros around the image before a stride
            branch += [(f'{theirs}_conv_2', f'{ours}.conv2'), (f'{theirs}_batch_norm_2', f'{ours}.bn2'), None]
            branch += [(f'{theirs}_conv_3', f'{ours}.conv3'), (f'{theirs}_batch_norm_3', f'{ours}.bn3'), None, None]
            branch += [(f'{theirs}_se_se_reduce', f'{ours}.se.conv_reduce')]
            branch += [(f'{theirs}_se_se_expand', f'{ours}.se.conv_expand'), None, *drops]
            shortcut = [(f'{theirs}_projection_conv', f'{ours}.downsample_1')]
            shortcut += [(f'{theirs}_projection_batch_norm', f'{ours}.downsample_2')]
            yield from by_depth(branch, shortcut if i == 0 else [])
    yield 'predictions', 'fc'
