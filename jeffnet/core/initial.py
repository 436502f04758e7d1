"""Initial values: small frozen initialisers, and one rule that gives the same values in every framework.

An initialiser can draw with JAX (`init(key, shape, dtype)`, the protocol of `flax.linen.Module.init`) or with NumPy.
Models are built with NumPy: one compiled JAX program per array shape would take many seconds. Each array has a
generator of its own, seeded by the model's seed and the array's flat name, so neither the framework nor the order of
construction matters.
"""

import math
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jeffnet.core.block import Param


class Initializer(ABC):
    """Draws the initial value of one array, with JAX or with NumPy."""

    @abstractmethod
    def __call__(self, key, shape, dtype=jnp.float32):
        """Draws with a JAX key."""

    @abstractmethod
    def sample(self, generator: np.random.Generator, shape) -> np.ndarray:
        """Draws float32 values with a NumPy generator."""


@dataclass(frozen=True)
class Constant(Initializer):
    """The same value everywhere."""

    value: float

    def __call__(self, key, shape, dtype=jnp.float32):
        return jnp.full(shape, self.value, dtype)

    def sample(self, generator, shape):
        return np.full(shape, self.value, np.float32)


zeros, ones = Constant(0.0), Constant(1.0)


@dataclass(frozen=True)
class Normal(Initializer):
    """N(0, std); `truncated` cuts it off at two standard deviations (of the uncut distribution, as timm)."""

    std: float
    truncated: bool = False

    def __call__(self, key, shape, dtype=jnp.float32):
        if self.truncated:
            return self.std * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)
        return self.std * jax.random.normal(key, shape, dtype)

    def sample(self, generator, shape):
        x = generator.standard_normal(shape, np.float32)
        while self.truncated and (outside := np.abs(x) > 2).any():
            x[outside] = generator.standard_normal(outside.sum(), np.float32)
        return np.float32(self.std) * x


@dataclass(frozen=True)
class Uniform(Initializer):
    """U(-bound, bound)."""

    bound: float

    def __call__(self, key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -self.bound, self.bound)

    def sample(self, generator, shape):
        return np.float32(self.bound) * (2 * generator.random(shape, np.float32) - 1)


def fan_in(kernel_size: tuple[int, int], in_features: int, groups: int = 1) -> Uniform:
    """U(-b, b), b = 1 / sqrt(fan-in): what PyTorch itself draws for kernels and biases of its layers."""
    return Uniform(1 / math.sqrt(math.prod(kernel_size) * in_features // groups))


def fan_out(kernel_size: tuple[int, int], out_features: int, groups: int = 1) -> Normal:
    """N(0, sqrt(2 / fan-out)), as TensorFlow's EfficientNet; the fan-out of a grouped kernel is that of one group."""
    return Normal(math.sqrt(2 / (math.prod(kernel_size) * out_features // groups)))


def initial_value(name: str, declared: Param, seed: int) -> np.ndarray:
    """The initial value of the array `name` of a model with this seed, float32."""
    generator = np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode())]))
    if isinstance(declared.init, Initializer):
        return declared.init.sample(generator, declared.shape)
    key = jax.random.key(int(generator.integers(2**31)))  # any other function with JAX's protocol
    return np.asarray(declared.init(key, declared.shape, jnp.float32))


def to_device(value) -> jax.Array:
    """A JAX array of its own; unlike `jnp.asarray`, without compiling a program for each shape.

    One that is on the device already has been put there for this model: it stays as it is.
    """
    return value if isinstance(value, jax.Array) else jax.device_put(value, may_alias=False)


@dataclass(frozen=True)
class Source:
    """Where a module that is being built gets its arrays: `values` by flat name, else fresh ones from `seed`."""

    seed: int = 0
    values: dict | None = None
    path: str = ''

    def child(self, name: str) -> 'Source':
        """The source of the sub-module `name`."""
        return Source(self.seed, self.values, f'{self.path}{name}.')

    def __call__(self, name: str, declared: Param) -> jax.Array:
        """The float32 array of the declaration `name` of this module."""
        value = (self.values or {}).get(self.path + name)
        return to_device(initial_value(self.path + name, declared, self.seed) if value is None else value)


FRESH = Source()
