"""What torchvision calls the modules of RegNets."""

from collections.abc import Collection

from jeffnet.models.regnet import stage_shapes

SIGN = 'trunk_output.block1.block1-0.proj.0.weight'  # an array that only torchvision's RegNets have
# torchvision's module -> timm's, outside the blocks and inside.
OUTSIDE = {'stem.0': 'stem.conv', 'stem.1': 'stem.bn', 'fc': 'head.fc'}
INSIDE = {
    'proj.0': 'downsample.conv', 'proj.1': 'downsample.bn', 'f.se.fc1': 'se.fc1', 'f.se.fc2': 'se.fc2',
    'f.a.0': 'conv1.conv', 'f.a.1': 'conv1.bn', 'f.b.0': 'conv2.conv', 'f.b.1': 'conv2.bn',
    'f.c.0': 'conv3.conv', 'f.c.1': 'conv3.bn',
}  # fmt: skip


def is_torchvision(names: Collection[str]) -> bool:
    """Whether a file with these names is of one of torchvision's RegNets."""
    return SIGN in names


def torchvision_modules(network, names: Collection[str]) -> dict[str, str]:
    """timm's module name by torchvision's, for this network."""
    found = dict(OUTSIDE)
    for stage, (_, blocks, _) in enumerate(stage_shapes(network), start=1):
        for i in range(blocks):
            theirs, ours = f'trunk_output.block{stage}.block{stage}-{i}', f's{stage}.b{i + 1}'
            found |= {f'{theirs}.{inner}': f'{ours}.{name}' for inner, name in INSIDE.items()}
    return found
