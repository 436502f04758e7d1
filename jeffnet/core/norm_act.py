"""Norms with a nonlinearity of their own, in the place of a norm and an activation."""

import jax
import jax.numpy as jnp
from jax import lax

from jeffnet.core import initial
from jeffnet.core.block import Block, Param
from jeffnet.core.layers import at_least_float32


class EvoNormS0(Block):
    """x * sigmoid(v x) over the deviation of its group of channels, EvoNorm-S0 (Liu et al., 2020)."""

    features: int
    groups: int = 32
    eps: float = 1e-5

    def setup(self):
        if self.features % self.groups:
            raise ValueError(f'groups={self.groups} does not divide {self.features} channels')
        shape = (self.features,)
        self.scale, self.bias = Param(shape, initial.ones), Param(shape, initial.zeros)
        self.v = Param(shape, initial.ones)

    def __call__(self, x, training=False):  # [N, H, W, features]; `training` so that it can stand in for BatchNorm
        wide = x.astype(at_least_float32(x.dtype))
        grouped = wide.reshape(x.shape[0], -1, self.groups, self.features // self.groups)  # [N, L, G, C / G]
        inverse = lax.rsqrt(grouped.var((1, 3), keepdims=True) + self.eps)
        scale, bias, v = (jnp.asarray(each, wide.dtype) for each in (self.scale, self.bias, self.v))
        gated = (wide * jax.nn.sigmoid(wide * v)).reshape(grouped.shape) * inverse
        return (gated.reshape(x.shape) * scale + bias).astype(x.dtype)


class FilterResponseNorm(Block):
    """Channels over the root of their mean square, then a learned threshold (Singh & Krishnan, 2019)."""

    features: int
    eps: float = 1e-5

    def setup(self):
        shape = (self.features,)
        self.scale, self.bias = Param(shape, initial.ones), Param(shape, initial.zeros)
        self.tau = Param(shape, initial.zeros)

    def __call__(self, x, training=False):  # [N, H, W, features]; `training` so that it can stand in for BatchNorm
        wide = x.astype(at_least_float32(x.dtype))
        scale, bias, tau = (jnp.asarray(each, wide.dtype) for each in (self.scale, self.bias, self.tau))
        wide = wide * lax.rsqrt(jnp.square(wide).mean((1, 2), keepdims=True) + self.eps)
        return jnp.maximum(wide * scale + bias, tau).astype(x.dtype)
