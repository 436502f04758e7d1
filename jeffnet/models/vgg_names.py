"""What torchvision calls VGG's dense layers, which are linear layers of the flattened map in its files."""

from collections.abc import Collection

MODULES = {'classifier.0': 'pre_logits.fc1', 'classifier.3': 'pre_logits.fc2', 'classifier.6': 'head.fc'}


def is_torchvision(names: Collection[str]) -> bool:
    """Whether a file with these names is of one of torchvision's networks."""
    return all(f'{module}.weight' in names for module in MODULES)


def torchvision_modules(network, names: Collection[str]) -> dict[str, str]:
    """timm's module name by torchvision's."""
    return MODULES
