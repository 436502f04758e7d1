"""HorNet and VAN in plain PyTorch, with the names of the authors' files: judges of the families that timm lacks.

Written from the papers (Rao et al., arXiv 2207.14284; Guo et al., 2202.09741), not from our definitions: NCHW, whole
spectra, one class for each of the authors' modules.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HORNETS = {'tiny': 64, 'small': 96, 'base': 128, 'large': 192}
FILTERS = {224: ((14, 8), (7, 4)), 384: ((24, 13), (12, 7))}
VANS = {
    'b0': ((32, 64, 160, 256), (3, 3, 5, 2)), 'b1': ((64, 128, 320, 512), (2, 2, 4, 2)),
    'b2': ((64, 128, 320, 512), (3, 3, 12, 3)), 'b3': ((64, 128, 320, 512), (3, 5, 27, 3)),
    'b4': ((64, 128, 320, 512), (3, 6, 40, 3)), 'b5': ((96, 192, 480, 768), (3, 3, 24, 3)),
    'b6': ((96, 192, 384, 768), (6, 6, 90, 6)),
}  # fmt: skip


def create(arch: str, **options) -> nn.Module:
    """The network of an architecture: `hornet_tiny`, `hornet_base_gf_384`, `van_b0`; options are those of its class."""
    family, size, *rest = arch.split('_')
    if family == 'van':
        return VAN(*VANS[size], **options)
    filters = FILTERS[384 if '384' in rest else 224] if 'gf' in rest else (None, None)
    return HorNet(HORNETS[size], filters=filters, **options)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of NCHW."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def norm(width: int) -> ChannelNorm:
    """The layer norm of both families."""
    return ChannelNorm(width, eps=1e-6)


def depthwise(width: int, size: int, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps the size of the image and mixes no channels."""
    padding = dilation * (size - 1) // 2
    return nn.Conv2d(width, width, size, padding=padding, dilation=dilation, groups=width, bias=bias)


def per_channel(scale: Tensor) -> Tensor:
    """[C] as a factor of NCHW."""
    return scale[:, None, None]


# ------------------------------------------------------------------------------------------------------------- HorNet


class GlobalLocalFilter(nn.Module):
    """The first half of the channels through a 3x3 convolution, the second through a filter of frequencies."""

    def __init__(self, width: int, size: tuple[int, int]):
        super().__init__()
        self.dw = depthwise(width // 2, 3, bias=False)
        self.complex_weight = nn.Parameter(0.02 * torch.randn(width // 2, *size, 2))
        self.pre_norm, self.post_norm = norm(width), norm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pre_norm(x)
        out = torch.empty_like(x)
        half = x.shape[1] // 2
        out[:, 0::2] = self.dw(x[:, :half])
        out[:, 1::2] = self.frequencies(x[:, half:])
        return self.post_norm(out)

    def frequencies(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        spectrum = torch.fft.rfft2(x, norm='ortho')
        weight = self.complex_weight.movedim(-1, 0)  # [2, C, h, w]
        if weight.shape[2:] != spectrum.shape[2:]:
            weight = F.interpolate(weight, tuple(spectrum.shape[2:]), mode='bilinear', align_corners=True)
        return torch.fft.irfft2(spectrum * torch.complex(weight[0], weight[1]), (height, width), norm='ortho')


class RecursiveGatedConv(nn.Module):
    """The authors' gnconv."""

    def __init__(self, width: int, order: int, size: tuple[int, int] | None):
        super().__init__()
        self.dims = [width >> (order - 1 - k) for k in range(order)]
        gates = sum(self.dims)
        self.proj_in = nn.Conv2d(width, 2 * width, 1)
        self.dwconv = depthwise(gates, 7) if size is None else GlobalLocalFilter(gates, size)
        self.pws = nn.ModuleList(nn.Conv2d(self.dims[k], self.dims[k + 1], 1) for k in range(order - 1))
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        p, *q = self.proj_in(x).split([self.dims[0], sum(self.dims)], 1)
        gates = (self.dwconv(q[0]) / 3).split(self.dims, 1)
        p = p * gates[0]
        for k, layer in enumerate(self.pws):
            p = layer(p) * gates[k + 1]
        return self.proj_out(p)


class HorNetBlock(nn.Module):
    """Gated convolution and perceptron."""

    def __init__(self, width: int, order: int, size: tuple[int, int] | None):
        super().__init__()
        self.norm1, self.norm2 = norm(width), nn.LayerNorm(width, eps=1e-6)
        self.gnconv = RecursiveGatedConv(width, order, size)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma1, self.gamma2 = (nn.Parameter(torch.full((width,), 1e-6)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + per_channel(self.gamma1) * self.gnconv(self.norm1(x))
        tokens = self.norm2(x.permute(0, 2, 3, 1))
        return x + (self.gamma2 * self.pwconv2(F.gelu(self.pwconv1(tokens)))).permute(0, 3, 1, 2)


class HorNet(nn.Module):
    """The network; `filters` are the sizes of the filters of the last two stages."""

    def __init__(self, width: int, num_classes: int = 1000, filters: Sequence = (None, None), depths=(2, 3, 18, 2)):
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.downsample_layers = nn.ModuleList([nn.Sequential(nn.Conv2d(3, width, 4, 4), norm(width))])
        for before, after in pairwise(widths):
            self.downsample_layers.append(nn.Sequential(norm(before), nn.Conv2d(before, after, 2, 2)))
        sizes = (None, None, *filters)
        self.stages = nn.ModuleList(
            nn.Sequential(*(HorNetBlock(widths[i], i + 2, sizes[i]) for _ in range(depths[i]))) for i in range(4)
        )
        self.norm = nn.LayerNorm(widths[3], eps=1e-6)
        self.head = nn.Linear(widths[3], num_classes)

    def maps(self, x: Tensor) -> list[Tensor]:
        """The feature maps of the four stages."""
        found = []
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.maps(x)[-1].mean((2, 3))))


# ---------------------------------------------------------------------------------------------------------------- VAN


class LargeKernelAttention(nn.Module):
    """The authors' spatial gating unit."""

    def __init__(self, width: int):
        super().__init__()
        self.conv0, self.conv_spatial = depthwise(width, 5), depthwise(width, 7, dilation=3)
        self.conv1 = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(self.conv_spatial(self.conv0(x))) * x


class SpatialAttention(nn.Module):
    """Gating unit between two linear maps, beside a shortcut."""

    def __init__(self, width: int):
        super().__init__()
        self.proj_1, self.proj_2 = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.spatial_gating_unit = LargeKernelAttention(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_2(self.spatial_gating_unit(F.gelu(self.proj_1(x)))) + x


class Depthwise3x3(nn.Module):
    """A module that holds nothing but a convolution, as in the authors' names."""

    def __init__(self, width: int):
        super().__init__()
        self.dwconv = depthwise(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.dwconv(x)


class ConvMlp(nn.Module):
    """Perceptron with a depthwise convolution."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.dwconv, self.fc2 = nn.Conv2d(width, hidden, 1), Depthwise3x3(hidden), nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x))))


class VANBlock(nn.Module):
    """Attention and perceptron."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.attn, self.mlp = SpatialAttention(width), ConvMlp(width, hidden)
        self.layer_scale_1, self.layer_scale_2 = (nn.Parameter(torch.full((width,), 1e-2)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + per_channel(self.layer_scale_1) * self.attn(self.norm1(x))
        return x + per_channel(self.layer_scale_2) * self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Strided convolution and norm."""

    def __init__(self, before: int, width: int, size: int, stride: int):
        super().__init__()
        self.proj, self.norm = nn.Conv2d(before, width, size, stride, size // 2), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


class VAN(nn.Module):
    """The network."""

    def __init__(self, widths: Sequence[int], depths: Sequence[int], num_classes: int = 1000):
        super().__init__()
        before = 3
        for i, (width, depth, ratio) in enumerate(zip(widths, depths, (8, 8, 4, 4), strict=True), 1):
            self.add_module(f'patch_embed{i}', PatchEmbed(before, width, *((7, 4) if i == 1 else (3, 2))))
            self.add_module(f'block{i}', nn.ModuleList(VANBlock(width, ratio * width) for _ in range(depth)))
            self.add_module(f'norm{i}', norm(width))
            before = width
        self.head = nn.Linear(before, num_classes)

    def maps(self, x: Tensor) -> list[Tensor]:
        """The feature maps of the four stages."""
        found = []
        for i in range(1, 5):
            x = self.get_submodule(f'patch_embed{i}')(x)
            for block in self.get_submodule(f'block{i}'):
                x = block(x)
            x = self.get_submodule(f'norm{i}')(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.maps(x)[-1].mean((2, 3)))
