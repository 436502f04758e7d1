"""Vision Transformer: an image cut into patches, which a transformer encoder reads as a sequence of tokens.

Papers: ViT (Dosovitskiy et al., arXiv 2010.11929); How to train your ViT, on the augreg weights (Steiner et al.,
2106.10270).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jeffnet.core import initial
from jeffnet.core.activations import gelu
from jeffnet.core.attention import Attention, Mlp
from jeffnet.core.block import Block, Param
from jeffnet.core.inputs import check_images
from jeffnet.core.layers import Conv, Dropout, LayerNorm
from jeffnet.models.network import Network

SMALL_NORMAL = initial.Normal(0.02)  # timm cuts it off at -2 and 2, which is at a hundred deviations


class PatchEmbed(Block):
    """A linear map of each patch of pixels, as a convolution (Dosovitskiy et al., 2020)."""

    in_chans: int
    features: int
    patch_size: int

    def setup(self):
        size = self.patch_size
        init = initial.Uniform(1 / math.sqrt(self.in_chans * size**2))  # PyTorch's own, of kernel and bias
        options = {'padding': 'VALID', 'use_bias': True, 'kernel_init': init, 'bias_init': init}
        self.proj = Conv(self.in_chans, self.features, size, size, **options)

    def __call__(self, x):  # [N, H, W, in_chans]
        x = self.proj(x)  # [N, H / patch_size, W / patch_size, features]
        return x.reshape(x.shape[0], x.shape[1] * x.shape[2], self.features)


class EncoderBlock(Block):
    """Pre-norm transformer block (Dosovitskiy et al., 2020)."""

    features: int
    heads: int
    hidden: int  # width of the perceptron
    act: Callable = gelu
    drop_rate: float = 0.0

    def setup(self):
        self.norm1 = LayerNorm(self.features)
        self.attn = Attention(self.features, self.heads, SMALL_NORMAL)
        self.norm2 = LayerNorm(self.features)
        self.mlp = Mlp(self.features, self.hidden, self.act, SMALL_NORMAL)
        self.drop_path = Dropout(self.drop_rate, per_sample=True)  # draws anew for each half

    def __call__(self, x, training=False):  # [N, L, features]
        x = x + self.drop_path(self.attn(self.norm1(x)), training)
        return x + self.drop_path(self.mlp(self.norm2(x)), training)


class VisionTransformer(Network):
    """Patch embedding, class token, learned positions, encoder blocks, norm, classifier (Dosovitskiy et al., 2020)."""

    classifier_name: ClassVar[str] = 'head'
    first_conv: ClassVar[str] = 'patch_embed.proj'
    width: int
    heads: int
    depth: int = 12
    mlp_ratio: float = 4.0
    act: Callable = gelu
    patch_size: int = 16
    image_size: tuple[int, int] = (224, 224)  # (height, width), which the position table is for
    drop_path_rate: float = 0.0

    def setup(self):
        if any(side % self.patch_size for side in self.image_size):
            raise ValueError(
                f'image_size={self.image_size}: expected multiples of {self.patch_size} pixels, the side of a patch'
            )
        self.patch_embed = PatchEmbed(self.in_chans, self.width, self.patch_size)
        self.cls_token = Param((1, 1, self.width), initial.Normal(1e-6))
        self.pos_embed = Param((1, 1 + math.prod(self.grid_size), self.width), SMALL_NORMAL)
        self.blocks = build_blocks(self)
        if self.out_indices is None:
            self.norm = LayerNorm(self.width)
            self.setup_classifier(self.width, SMALL_NORMAL)

    def __call__(self, x, training=False):  # [N, *image_size, in_chans]
        x = check_images(x, self.in_chans)
        if x.shape[1:3] != tuple(self.image_size):
            asked, known = (' x '.join(map(str, size)) for size in (x.shape[1:3], self.image_size))
            raise ValueError(
                f'images of {asked} pixels: this network has positions for {known}; '
                f'create it with image_size={tuple(x.shape[1:3])}'
            )
        x = self.tap('block_0', self.embed(x))  # [N, 1 + h w, width]
        levels = []
        for i, block in enumerate(self.blocks):
            x = checkpoint_name(block(x, training), 'block')  # what `remat` keeps
            levels.append(self.tap(f'block_{i + 1}', x))
        if self.out_indices is not None:
            return [self.as_map(levels[i]) for i in self.out_indices]
        return self.forward_head(self.norm(x), training)

    def forward_head(self, x, training=False):
        """From normed tokens `[N, 1 + h w, width]` to logits `[N, num_classes]`, or what `num_classes` asks for."""
        return x if self.num_classes == 0 else self.classify(x[:, 0], training)

    def embed(self, x):
        """From images `[N, H, W, in_chans]` to tokens with their positions, `[N, 1 + h w, width]`."""
        x = self.patch_embed(x)  # [N, h w, width]
        first = jnp.broadcast_to(jnp.asarray(self.cls_token, x.dtype), (x.shape[0], 1, self.width))
        return jnp.concatenate([first, x], 1) + jnp.asarray(self.pos_embed, x.dtype)

    def as_map(self, x):
        """The tokens of the patches `[N, 1 + h w, width]` as a feature map `[N, h, w, width]`."""
        return x[:, 1:].reshape(x.shape[0], *self.grid_size, self.width)

    @property
    def grid_size(self) -> tuple[int, int]:
        """Patches from top to bottom and from left to right."""
        height, width = self.image_size
        return height // self.patch_size, width // self.patch_size

    @property
    def levels(self) -> list[dict]:
        """For each block, as a feature map: its number (0 is the embedding), channels, stride, timm's module name."""
        same = {'num_chs': self.width, 'reduction': self.patch_size}
        return [{'block': i + 1, **same, 'module': f'blocks.{i}'} for i in range(self.depth)]


def build_blocks(model) -> list[Block]:
    """The blocks of a network; their drop rates grow from 0 to the model's."""
    hidden, last = int(model.width * model.mlp_ratio), max(model.depth - 1, 1)
    rates = [model.drop_path_rate * i / last for i in range(model.depth)]
    return [EncoderBlock(model.width, model.heads, hidden, model.act, rate) for rate in rates]


VARIANTS = {
    'vit_tiny_patch16_224': partial(VisionTransformer, 192, 3),
    'vit_small_patch16_224': partial(VisionTransformer, 384, 6),
    'vit_base_patch16_224': partial(VisionTransformer, 768, 12),
}

WEIGHT_NAMES = ()  # timm's names are those of the general rule
POSITION_TABLES = {'pos_embed': 1}  # arrays to resample for another image size, and rows of theirs to leave alone
POOLING = 'token'  # timm's word
FEATURE_MAPS = 3  # `features_only` returns this many of the last blocks unless told otherwise, as timm
