"""Squeeze-and-excitation in mobile networks, each family's way of choosing its width, activation and gate."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jeffnet.core import initial
from jeffnet.core.activations import hard_sigmoid, relu, sigmoid
from jeffnet.core.block import Block
from jeffnet.core.layers import Conv, LayerNorm, SqueezeExcite, at_least_float32


@dataclass(frozen=True)
class Squeeze:
    """Settings of a squeeze-and-excitation, apart from the width it is applied to; called with that, its block."""

    reduced: int
    act: Callable
    gate: Callable = sigmoid
    block: Callable = SqueezeExcite

    def __call__(self, features: int) -> Block:
        return self.block(features, self.reduced, self.act, self.gate)


class GlobalContext(Block):
    """Channel gates from features that are pooled with learnt weights (Cao et al., 2019)."""

    features: int
    reduced: int
    act: Callable = relu
    gate: Callable = sigmoid

    def setup(self):
        init = initial.Normal((2 / self.features) ** 0.5)  # of He et al., fan-in
        self.conv_attn = Conv(self.features, 1, use_bias=True, kernel_init=init)
        self.mlp_scale = NormedPerceptron(self.features, self.reduced, self.act)

    def __call__(self, x):  # [N, H, W, features]
        scores = self.conv_attn(x).astype(at_least_float32(x.dtype))  # [N, H, W, 1]
        weights = jax.nn.softmax(scores, (1, 2)).astype(x.dtype)
        pooled = jnp.einsum('nhwi,nhwc->nic', weights, x)[:, None]  # [N, 1, 1, features]
        return x * self.gate(self.mlp_scale(pooled))


class NormedPerceptron(Block):
    """Two 1x1 convolutions with layer norm and activation between them."""

    features: int
    hidden: int
    act: Callable

    def setup(self):
        self.fc1, self.norm = Conv(self.features, self.hidden, use_bias=True), LayerNorm(self.hidden)
        self.fc2 = Conv(self.hidden, self.features, use_bias=True)

    def __call__(self, x):  # [N, 1, 1, features]
        return self.fc2(self.act(self.norm(self.fc1(x))))


# The rules (`squeeze` of a network): settings from the width of a block's input, of its middle, the share that the
# table gives, and the block's activation.


def of_input(width: int, mid: int, share: float, act: Callable) -> Squeeze:
    """EfficientNet's."""
    return Squeeze(round(width * share), act)


def of_middle(width: int, mid: int, share: float, act: Callable) -> Squeeze:
    """MobileNetV3's."""
    return Squeeze(divisible(mid * share), relu, hard_sigmoid)


def of_middle_exactly(width: int, mid: int, share: float, act: Callable) -> Squeeze:
    """LCNet's, whose width is not rounded to a multiple of 8."""
    return Squeeze(round(mid * share), relu, hard_sigmoid)


def of_middle_with_act(width: int, mid: int, share: float, act: Callable) -> Squeeze:
    """That of timm's first MobileNetV3, with the block's own activation."""
    return Squeeze(round(mid * share), act, hard_sigmoid)


def of_input_rounded(width: int, mid: int, share: float, act: Callable) -> Squeeze:
    """FBNetV3's."""
    return Squeeze(divisible(width * share, limit=0.95), act, hard_sigmoid)


def context_of_input(width: int, mid: int, share: float, act: Callable) -> Squeeze:
    """A global context in its place."""
    return Squeeze(round(width * share), act, block=GlobalContext)


def divisible(value: float, divisor: int = 8, limit: float = 0.9) -> int:
    """The multiple of `divisor` nearest to `value`, but never less than the share `limit` of it."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < limit * value else rounded
