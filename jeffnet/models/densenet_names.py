"""What torchvision's first files call the modules of DenseNet's layers; those of today have timm's names."""

import re
from collections.abc import Collection

from jeffnet.core.block import declarations


def is_torchvision(names: Collection[str]) -> bool:
    """Whether a file with these names is one of the first."""
    return 'features.denseblock1.denselayer1.norm.1.weight' in names


def torchvision_modules(network, names: Collection[str]) -> dict[str, str]:
    """timm's module name by that of the first files: norm1 was norm.1, conv2 was conv.2."""
    modules = dict.fromkeys(name.rpartition('.')[0] for name in declarations(network))
    return {re.sub(r'(\.denselayer\d+\.(?:norm|conv))', r'\1.', module): module for module in modules}
