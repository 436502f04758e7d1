"""What Keras calls the layers of ResNet."""

from collections.abc import Iterator

from jeffnet.models.keras_order import by_depth


def keras_layers(network) -> Iterator[tuple[str, str]]:
    """(Keras' layer, our module) of all layers with variables, in the order of Keras' files."""
    yield from (('conv1_conv', 'conv1'), ('conv1_bn', 'bn1'))
    for s, (_, repeats, _) in enumerate(network.stages):
        for i in range(repeats):
            theirs, ours = f'conv{s + 2}_block{i + 1}', f'layer{s + 1}_{i}'
            branch, shortcut = [], []
            for number in (1, 2, 3):
                branch += [
                    (f'{theirs}_{number}_conv', f'{ours}.conv{number}'),
                    (f'{theirs}_{number}_bn', f'{ours}.bn{number}'),
                ]
                branch += [None] if number < 3 else []  # an activation
            if i == 0:
                shortcut = [(f'{theirs}_0_conv', f'{ours}.downsample_0'), (f'{theirs}_0_bn', f'{ours}.downsample_1')]
            yield from by_depth(shortcut, branch)
    yield 'predictions', 'fc'
