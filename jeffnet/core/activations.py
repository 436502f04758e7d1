"""Activation functions of the families, by the names that timm and the papers use.

Plain functions, so that a block that holds one can be pickled and compared; JAX's own are compiled objects.
"""

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
    return jax.nn.silu(x)


def mish(x):
    """x * tanh(softplus(x)) (Misra, 2019)."""
    return jax.nn.mish(x)


def gelu(x):
    """x * Phi(x), the exact form with the error function (Hendrycks & Gimpel, 2016)."""
    return jax.nn.gelu(x, approximate=False)


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


_ALL = (
    identity, relu, relu6, leaky_relu, sigmoid, tanh, silu, mish, gelu, gelu_tanh, quick_gelu, hard_sigmoid, hard_swish
)  # fmt: skip
ACTIVATIONS = {function.__name__: function for function in _ALL} | {'swish': silu}
