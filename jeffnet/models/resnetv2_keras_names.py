"""What Keras calls the layers of ResNetV2."""

from collections.abc import Iterator

from jeffnet.models.keras_order import by_depth


def keras_layers(network) -> Iterator[tuple[str, ...]]:
    """(Keras' layer, our module, its class if not ours) of all layers with variables, in the order of Keras' files."""
    yield 'conv1_conv', 'stem.conv'
    for s, repeats in enumerate(network.repeats):
        for i in range(repeats):
            theirs, ours = f'conv{s + 2}_block{i + 1}', f'stages_{s}.blocks_{i}'
            yield f'{theirs}_preact_bn', f'{ours}.norm1'
            first = [(f'{theirs}_1_conv', f'{ours}.conv1'), (f'{theirs}_1_bn', f'{ours}.norm2')]
            second = [(f'{theirs}_2_conv', f'{ours}.conv2'), (f'{theirs}_2_bn', f'{ours}.norm3')]
            # Without variables: two activations, and zeros around the image before the 3x3 convolution.
            branch = [*first, None, None, *second, None, (f'{theirs}_3_conv', f'{ours}.conv3')]
            shortcut = [(f'{theirs}_0_conv', f'{ours}.downsample.conv')] if i == 0 else []
            yield from by_depth(shortcut, branch)
    yield from (('post_bn', 'norm'), ('predictions', 'head.fc', 'dense'))
