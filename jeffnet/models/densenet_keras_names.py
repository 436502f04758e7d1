"""What Keras calls the layers of DenseNet."""

from collections.abc import Iterator


def keras_layers(network) -> Iterator[tuple[str, str]]:
    """(Keras' layer, our module) of all layers with variables, in the order of Keras' files."""
    yield from (('conv1_conv', 'features.conv0'), ('conv1_bn', 'features.norm0'))
    for b, layers in enumerate(network.layers, start=1):
        for i in range(1, layers + 1):
            theirs, ours = f'conv{b + 1}_block{i}', f'features.denseblock{b}.denselayer{i}'
            yield from ((f'{theirs}_0_bn', f'{ours}.norm1'), (f'{theirs}_1_conv', f'{ours}.conv1'))
            yield from ((f'{theirs}_1_bn', f'{ours}.norm2'), (f'{theirs}_2_conv', f'{ours}.conv2'))
        if b < len(network.layers):
            ours = f'features.transition{b}'
            yield from ((f'pool{b + 1}_bn', f'{ours}.norm'), (f'pool{b + 1}_conv', f'{ours}.conv'))
    yield from (('bn', 'features.norm5'), ('predictions', 'classifier'))
