"""Activation functions of the families, by the names that timm and the papers use.

Plain functions, so that a block that holds one can be pickled and compared; JAX's own are compiled objects.
"""

import math

import jax
import jax.numpy as jnp


def identity(x):
    """x."""
    return x


def relu(x):
    """max(x, 0), with the gradient 0 at 0."""
    return jax.nn.relu(x)


def relu6(x):
    """min(max(x, 0), 6) (Sandler et al., 2018)."""
    return jax.nn.relu6(x)


def leaky_relu(x):
    """x where positive, 0.01 x elsewhere."""
    return jax.nn.leaky_relu(x)


def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return jax.nn.sigmoid(x)


def tanh(x):
    """The hyperbolic tangent."""
    return jnp.tanh(x)


def silu(x):
    """x * sigmoid(x), also called swish (Ramachandran et al., 2017)."""
    return _silu(x)


def mish(x):
    """x * tanh(softplus(x)) (Misra, 2019)."""
    return jax.nn.mish(x)


def gelu(x):
    """x * Phi(x), the exact form with the error function (Hendrycks & Gimpel, 2016)."""
    return _gelu(x)


def gelu_tanh(x):
    """GELU by the tanh approximation."""
    return jax.nn.gelu(x, approximate=True)


def quick_gelu(x):
    """x * sigmoid(1.702 x), the GELU of OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


def hard_sigmoid(x):
    """relu6(x + 3) / 6 (Howard et al., 2019)."""
    return relu6(x + 3) / 6


def hard_swish(x):
    """x * relu6(x + 3) / 6 (Howard et al., 2019)."""
    return x * hard_sigmoid(x)


# Derivatives that share no exponential with the value, and use none of their own twice: XLA's CPU back end writes any
# that is needed in two places to memory and reads it back, which takes longer than to compute it again.


@jax.custom_jvp
def _silu(x):
    return jax.nn.silu(x)


@_silu.defjvp
def _silu_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    inner = jnp.clip(x, -30, 30)  # where the exponentials and their derivatives are finite in float32
    sigmoid = 0.25 / (0.25 + jnp.exp(-inner - math.log(4)))
    opposite = 1 / (1 + jnp.exp(inner))
    return _silu(x), dx * (sigmoid * (1 + x * opposite))


@jax.custom_jvp
def _gelu(x):
    return x * normal_cdf(x)


@_gelu.defjvp
def _gelu_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return _gelu(x), dx * (normal_cdf(x) + x * jnp.exp(-0.5 * jnp.square(x)) / math.sqrt(2 * math.pi))


def normal_cdf(x):
    """Phi(x), as PyTorch computes it: four times as fast on CPUs as with erfc, which jax.nn.gelu uses to keep the last
    digits where Phi is next to 0."""
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


_ALL = (
    identity, relu, relu6, leaky_relu, sigmoid, tanh, silu, mish, gelu, gelu_tanh, quick_gelu, hard_sigmoid, hard_swish
)  # fmt: skip
ACTIVATIONS = {function.__name__: function for function in _ALL} | {'swish': silu}
