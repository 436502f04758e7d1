"""What Keras calls the layers of VGG."""

from collections.abc import Iterator

from jeffnet.models.vgg import places


def keras_layers(network) -> Iterator[tuple[str, ...]]:
    """(Keras' layer, our module, its class if not ours) of all layers with variables, in the order of Keras' files."""
    for s, stage in enumerate(places(network), start=1):
        yield from ((f'block{s}_conv{i}', f'features_{place}') for i, place in enumerate(stage, start=1))
    yield from (('fc1', 'pre_logits.fc1', 'dense'), ('fc2', 'pre_logits.fc2', 'dense'), ('predictions', 'head.fc'))
