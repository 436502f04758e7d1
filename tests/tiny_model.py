"""Networks of two or three blocks, one of each family, for tests whose time is that of compilation."""

import dataclasses
from functools import partial

from jeffnet.models import efficientnet, efficientnet_stages, resnet, table, vit

NAME = 'pt_tiny'
STAGES = (efficientnet_stages.ds(1, 3, 1, 1, 8),), (efficientnet_stages.ir(1, 3, 2, 3, 16, se=0.25),)
# By name: its variant, and the published model whose entry in the table it takes.
NETWORKS = {
    'pt_tiny': (
        efficientnet,
        partial(efficientnet.EfficientNet, STAGES, stem=8, features=32, scale_head=False),
        'pt_mnasnet_small',
    ),
    'tf_tiny': (
        efficientnet,
        partial(efficientnet.EfficientNet, STAGES, stem=8, features=32, scale_head=False),
        'tf_efficientnet_b0',
    ),
    'pt_tiny_resnet': (
        resnet,
        partial(resnet.ResNet, tuple((resnet.Bottleneck, 1, 4 * 2**i) for i in range(4)), stem=8),
        'pt_resnet50',
    ),
    'pt_tiny_vit': (
        vit,
        partial(vit.VisionTransformer, 32, 2, depth=2, image_size=(32, 32)),
        'pt_vit_small_patch16_224',
    ),
}


def register(name: str = NAME) -> str:
    """Puts the network into this process's table of models; returns its name."""
    module, variant, like = NETWORKS[name]
    module.VARIANTS[name] = variant
    table.table()[name] = dataclasses.replace(table.model_info(like), name=name, arch=name)
    return name
