"""What Keras calls the layers of ConvNeXt; stem and downsampling are models of two layers within the model."""

from collections.abc import Iterator

from jeffnet.models.convnext import VARIANTS


def keras_layers(network) -> Iterator[tuple]:
    """(Keras' layer, our module, perhaps Keras' class) of all layers with variables, in the order of Keras' files."""
    # All names begin with the architecture's, which is one of those that have but depths and widths.
    plain = ((name, make.args) for name, make in VARIANTS.items() if not make.keywords)
    arch = next(name for name, args in plain if args == (network.depths, network.widths))
    for s, depth in enumerate(network.depths):
        if s == 0:
            yield f'{arch}_stem', ('stem_0', 'stem_1'), 'sequential'
        else:
            ours = f'stages_{s}.downsample'
            yield f'{arch}_downsampling_block_{s - 1}', (f'{ours}_0', f'{ours}_1'), 'sequential'
        for b in range(depth):
            theirs, ours = f'{arch}_stage_{s}_block_{b}', f'stages_{s}.blocks_{b}'
            yield f'{theirs}_depthwise_conv', f'{ours}.conv_dw', 'conv2d'  # a grouped one to Keras
            yield f'{theirs}_layernorm', f'{ours}.norm'
            yield f'{theirs}_pointwise_conv_1', f'{ours}.mlp.fc1'
            yield f'{theirs}_pointwise_conv_2', f'{ours}.mlp.fc2'
            yield f'{theirs}_layer_scale', ours, 'layer_scale'
    yield from ((f'{arch}_head_layernorm', 'head.norm'), (f'{arch}_head_dense', 'head.fc'))
