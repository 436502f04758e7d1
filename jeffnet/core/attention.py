"""The two halves of a transformer block: attention between tokens, and a perceptron on each of them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jeffnet.core.activations import gelu
from jeffnet.core.block import Block
from jeffnet.core.layers import Linear, at_least_float32


class Attention(Block):
    """Multi-head self-attention, scaled by 1 / sqrt(features / heads) (Vaswani et al., 2017)."""

    features: int
    heads: int
    kernel_init: Callable | None = None  # None: as in Linear

    def setup(self):
        if self.features % self.heads:
            raise ValueError(f'heads={self.heads} does not divide {self.features} features')
        self.qkv = Linear(self.features, 3 * self.features, kernel_init=self.kernel_init)
        self.proj = Linear(self.features, self.features, kernel_init=self.kernel_init)

    def __call__(self, x):  # [N, L, features]
        split = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, self.features // self.heads)
        q, k, v = jnp.moveaxis(split, 2, 0)  # each [N, L, heads, C]
        return self.proj(attend(q, k, v).reshape(*x.shape[:2], self.features))


def attend(q, k, v):
    """Softmax attention of queries to keys and values, all `[N, L, heads, C]`; the weights are at least float32.

    Unlike `jax.nn.dot_product_attention`, whose softmax is float32 under float64 too, and which is slower on CPUs.
    Scores have the queries last, since CPUs sum over another axis than the last with vector instructions.
    """
    q = q * q.shape[-1] ** -0.5  # cheaper than to scale the scores, and as timm does
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))  # [N, heads, L, C]
    scores = jnp.einsum('nhkc,nhqc->nhkq', k, q, preferred_element_type=at_least_float32(q.dtype))
    weights = jax.nn.softmax(scores, axis=-2).astype(v.dtype)
    return jnp.swapaxes(jnp.einsum('nhkq,nhkc->nhqc', weights, v), 1, 2)


class Mlp(Block):
    """Two linear layers with an activation between them."""

    features: int
    hidden: int
    act: Callable = gelu
    kernel_init: Callable | None = None  # None: as in Linear

    def setup(self):
        self.fc1 = Linear(self.features, self.hidden, kernel_init=self.kernel_init)
        self.fc2 = Linear(self.hidden, self.features, kernel_init=self.kernel_init)

    def __call__(self, x):  # [..., features]
        return self.fc2(self.act(self.fc1(x)))
