"""Networks that timm lacks, in PyTorch: the judges of ours."""

import torch
import torchvision
from torch.nn import functional

import jeffnet


class CifarBlock(torch.nn.Module):
    """Two 3x3 convolutions beside a shortcut that skips pixels and pads channels with zeros, on both sides."""

    has_skip = True

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.stride, self.extra = stride, channels - in_channels
        self.conv1 = torch.nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(channels)
        self.conv2 = torch.nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(channels)

    def forward(self, x):
        branch = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        pixels = x[:, :, :: self.stride, :: self.stride]
        return functional.relu(branch + functional.pad(pixels, (0, 0, 0, 0, self.extra // 2, self.extra // 2)))


class CifarResNet(torch.nn.Module):
    """He et al., 2015, section 4.2, with 6 n + 2 layers."""

    def __init__(self, layers: int, num_classes: int = 10):
        super().__init__()
        self.conv1, self.bn1 = torch.nn.Conv2d(3, 16, 3, 1, 1, bias=False), torch.nn.BatchNorm2d(16)
        repeats, width = (layers - 2) // 6, 16
        for stage in (1, 2, 3):
            blocks = []
            for i in range(repeats):
                blocks.append(CifarBlock(width, 8 * 2**stage, 2 if stage > 1 and i == 0 else 1))
                width = 8 * 2**stage
            setattr(self, f'layer{stage}', torch.nn.Sequential(*blocks))
        self.fc = torch.nn.Linear(64, num_classes)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def create(name: str, **options) -> torch.nn.Module:
    """The network of one of our names."""
    arch = jeffnet.model_info(name).arch
    if arch.endswith('_cifar'):
        return CifarResNet(int(arch.removeprefix('resnet').removesuffix('_cifar')), **options)
    if arch == 'resnext101_32x48d':  # as the hub of PyTorch builds it
        block = torchvision.models.resnet.Bottleneck
        return torchvision.models.ResNet(block, [3, 4, 23, 3], groups=32, width_per_group=48, **options)
    raise ValueError(f'{name}: neither timm nor this file has it')
