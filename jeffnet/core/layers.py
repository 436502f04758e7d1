"""The layers every family is made of, each a `Block`; images are `[N, H, W, C]`, kernels HWIO."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jeffnet.core import initial
from jeffnet.core.activations import relu, sigmoid
from jeffnet.core.block import Block, Keys, Padding, Param, State
from jeffnet.core.convolution import convolve
from jeffnet.core.moments import affine, spread, sums
from jeffnet.core.padding import pair, resolve
from jeffnet.core.pooling import global_avg_pool


def at_least_float32(dtype):
    """The type that statistics and logits are computed in: float32, or float64 under a float64 policy."""
    return jnp.promote_types(dtype, jnp.float32)


class Conv(Block):
    """Two-dimensional convolution: dense, grouped, depthwise (`groups == in_features`), strided, dilated."""

    in_features: int
    out_features: int
    kernel_size: int | tuple[int, int] = 1
    stride: int | tuple[int, int] = 1
    dilation: int | tuple[int, int] = 1
    groups: int = 1
    padding: Padding | None = None  # None: the policy's
    use_bias: bool = False
    kernel_init: Callable | None = None  # None: fan-out, as TensorFlow's EfficientNet
    bias_init: Callable = initial.zeros

    def setup(self):
        if self.in_features % self.groups or self.out_features % self.groups:
            raise ValueError(f'groups={self.groups} does not divide {self.in_features} -> {self.out_features} channels')
        size = pair(self.kernel_size)
        init = self.kernel_init or initial.fan_out(size, self.out_features, self.groups)
        self.kernel = Param((*size, self.in_features // self.groups, self.out_features), init)
        self.bias = Param((self.out_features,), self.bias_init) if self.use_bias else None

    def __call__(self, x):  # [N, H, W, in]
        dtype = self.policy.dtype
        padding = self.policy.padding if self.padding is None else self.padding
        stride, dilation = pair(self.stride), pair(self.dilation)
        pairs = resolve(padding, x.shape[1:3], pair(self.kernel_size), stride, dilation)
        x = convolve(
            jnp.asarray(x, dtype), self.weights(dtype), stride, pairs, dilation, self.groups
        )  # [N, H', W', out]
        return x if self.bias is None else x + jnp.asarray(self.bias, dtype)

    def weights(self, dtype):
        """The kernel `[h, w, in / groups, out]` that images meet, in this type."""
        return jnp.asarray(self.kernel, dtype)


class StdConv(Conv):
    """Convolution by a standardised kernel: mean 0 and variance 1 for each output (Qiao et al., 2019)."""

    eps: float = 1e-6

    def weights(self, dtype):
        wide = jnp.asarray(self.kernel, at_least_float32(dtype))
        centred = wide - wide.mean((0, 1, 2))
        return (centred * lax.rsqrt(jnp.square(centred).mean((0, 1, 2)) + self.eps)).astype(dtype)


class MixedConv(Block):
    """Convolutions of several kernel sizes on slices of the channels, MixConv (Tan & Le, 2019)."""

    in_features: int
    out_features: int
    kernel_size: tuple[int, ...] = (3, 5)
    stride: int = 1
    dilation: int = 1
    depthwise: bool = False

    def setup(self):
        slices = zip(self.split(self.in_features), self.split(self.out_features), self.kernel_size, strict=True)
        self.convs = [
            Conv(i, o, size, self.stride, self.dilation, groups=i if self.depthwise else 1) for i, o, size in slices
        ]

    def split(self, features: int) -> list[int]:
        """Widths of the slices: equal, what is left over goes to the first."""
        n = len(self.kernel_size)
        return [features // n + features % n] + [features // n] * (n - 1)

    def __call__(self, x):  # [N, H, W, in]
        points = np.cumsum(self.split(self.in_features))[:-1]  # numpy, since they must stay static under jit
        slices = jnp.split(x, points, axis=-1)
        return jnp.concatenate([conv(s) for conv, s in zip(self.convs, slices, strict=True)], axis=-1)


class Linear(Block):
    """Affine map of the last axis."""

    in_features: int
    out_features: int
    use_bias: bool = True
    kernel_init: Callable | None = None  # None: N(0, 1 / sqrt(in))
    bias_init: Callable = initial.zeros

    def setup(self):
        init = self.kernel_init or initial.Normal(1 / math.sqrt(self.in_features))
        self.kernel = Param((self.in_features, self.out_features), init)
        self.bias = Param((self.out_features,), self.bias_init) if self.use_bias else None

    def __call__(self, x):  # [..., in]
        dtype = self.policy.dtype
        # Of matrices: for the gradient of the kernel, XLA's CPU back end would transpose arrays of more axes first.
        rows = jnp.asarray(x, dtype).reshape(-1, self.in_features) @ jnp.asarray(self.kernel, dtype)
        x = rows.reshape(*x.shape[:-1], self.out_features)
        return x if self.bias is None else x + jnp.asarray(self.bias, dtype)


class BatchNorm(Block):
    """Batch normalisation of the last axis (Ioffe & Szegedy, 2015), with the conventions of the policy."""

    features: int
    momentum: float | None = None  # share of the old statistic that is kept; None: the policy's
    eps: float | None = None  # None: the policy's
    scale_init: Callable = initial.ones
    use_scale: bool = True

    def setup(self):
        shape = (self.features,)
        self.scale = Param(shape, self.scale_init) if self.use_scale else None
        self.bias = Param(shape, initial.zeros)
        self.mean, self.var = State(shape, initial.zeros), State(shape, initial.ones)

    def __call__(self, x, training=False):  # [N, ..., features]
        wide, eps = x.astype(at_least_float32(x.dtype)), self.policy.bn_eps if self.eps is None else self.eps
        scale = jnp.ones(self.features, wide.dtype) if self.scale is None else jnp.asarray(self.scale, wide.dtype)
        bias = jnp.asarray(self.bias, wide.dtype)
        if training and not self.policy.bn_frozen:
            return self.by_batch(wide, scale, bias, eps).reshape(x.shape).astype(x.dtype)
        mean, var = (jnp.asarray(state.value, wide.dtype) for state in (self.mean, self.var))
        return ((wide - mean) * (scale * lax.rsqrt(var + eps)) + bias).astype(x.dtype)

    def groups(self, batch):
        """The number of groups of a batch, each with statistics of its own."""
        size = self.policy.bn_group_size or batch
        if batch % size:
            raise ValueError(f'bn_group_size={size} does not divide a batch of {batch}')
        return batch // size

    def by_batch(self, x, scale, bias, eps):
        """Normalises with mean and biased variance of the batch, or of each group; the running ones take their share.

        Both come from one pass, over what is left of `x` without the mean of the first example: that is within the
        square root of N deviations of the mean, so little precision is lost. It counts as a constant, which changes no
        derivative.
        """
        groups = self.groups(x.shape[0])
        lead = int(groups > 1)
        if lead:
            x = x.reshape(groups, -1, *x.shape[1:])
        n = x.size // self.features // groups
        centre = lax.index_in_dim(x, 0, lead, keepdims=False).mean(tuple(range(lead, x.ndim - 2)))  # [*lead, features]
        centre = lax.stop_gradient(centre)
        centred = x - spread(centre, x.ndim, lead)
        shift, square = (total / n for total in sums(centred, centred, lead))
        mean, var = centre + shift, square - jnp.square(shift)
        gain = scale * lax.rsqrt(var + eps)
        self.update(self.mean, mean)
        self.update(self.var, var * (n / max(n - 1, 1)) if self.policy.bn_unbiased else var)
        return affine(bias - mean * gain, gain, x, lead)

    def update(self, running, value):
        """Moves a running statistic towards the batch's, or the mean of the groups'."""
        keep = self.policy.bn_momentum if self.momentum is None else self.momentum
        value = lax.stop_gradient(value.reshape(-1, self.features).mean(0)).astype(jnp.float32)
        running.value = keep * running.value + (1 - keep) * value


class LayerNorm(Block):
    """Layer normalisation of the last axis (Ba et al., 2016)."""

    features: int
    eps: float = 1e-6
    use_bias: bool = True

    def setup(self):
        self.scale = Param((self.features,), initial.ones)
        self.bias = Param((self.features,), initial.zeros) if self.use_bias else None

    def __call__(self, x):  # [..., features]
        wide = x.astype(at_least_float32(x.dtype))
        centred = wide - wide.mean(-1, keepdims=True)
        wide = centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.eps)
        wide = wide * jnp.asarray(self.scale, wide.dtype)
        return (wide if self.bias is None else wide + jnp.asarray(self.bias, wide.dtype)).astype(x.dtype)


class RmsNorm(Block):
    """Division of the last axis by its root mean square (Zhang & Sennrich, 2019)."""

    features: int
    eps: float = 1e-6

    def setup(self):
        self.scale = Param((self.features,), initial.ones)

    def __call__(self, x):  # [..., features]
        wide = x.astype(at_least_float32(x.dtype))
        wide = wide * lax.rsqrt(self.power(wide) + self.eps)
        return (wide * jnp.asarray(self.scale, wide.dtype)).astype(x.dtype)

    def power(self, wide):
        """What the values are divided by the root of, `[..., 1]`."""
        return jnp.square(wide).mean(-1, keepdims=True)


class SimpleNorm(RmsNorm):
    """Division of the last axis by its unbiased standard deviation; the mean stays, which timm calls simple norm."""

    def power(self, wide):
        return wide.var(-1, ddof=1, keepdims=True)


class GlobalResponseNorm(Block):
    """Raises channels whose norm over the image is above the mean of all channels' (Woo et al., 2023)."""

    features: int
    eps: float = 1e-6

    def setup(self):
        self.scale = Param((self.features,), initial.zeros)
        self.bias = Param((self.features,), initial.zeros)

    def __call__(self, x):  # [N, H, W, features]
        wide = x.astype(at_least_float32(x.dtype))
        energy = jnp.square(wide).sum((1, 2), keepdims=True)  # [N, 1, 1, features]
        # A channel can be 0 all over the image, where the square root has no derivative; torch's norm has 0 there.
        some = energy > 0
        norm = jnp.where(some, jnp.sqrt(jnp.where(some, energy, 1)), 0)
        response = norm / (norm.mean(-1, keepdims=True) + self.eps)
        scale, bias = (jnp.asarray(each, wide.dtype) for each in (self.scale, self.bias))
        return (wide + (wide * (scale * response) + bias)).astype(x.dtype)


class GroupNorm(Block):
    """Group normalisation over space and groups of channels (Wu & He, 2018)."""

    features: int
    groups: int = 32
    eps: float = 1e-5
    scale_init: Callable = initial.ones

    def setup(self):
        if self.features % self.groups:
            raise ValueError(f'groups={self.groups} does not divide {self.features} channels')
        self.scale = Param((self.features,), self.scale_init)
        self.bias = Param((self.features,), initial.zeros)

    def __call__(self, x, training=False):  # [N, ..., features]; `training` so that it can stand in for BatchNorm
        wide = x.astype(at_least_float32(x.dtype))
        pixels, width = math.prod(x.shape[1:-1]), self.features // self.groups
        grouped = wide.reshape(x.shape[0], pixels, self.groups, width)  # [N, L, G, C / G]
        centred = grouped - grouped.mean((1, 3), keepdims=True)
        normed = centred * lax.rsqrt(jnp.square(centred).mean((1, 3), keepdims=True) + self.eps)
        wide = normed.reshape(x.shape) * jnp.asarray(self.scale, wide.dtype) + jnp.asarray(self.bias, wide.dtype)
        return wide.astype(x.dtype)


class Dropout(Block):
    """Zeroes entries with probability `rate` in training and scales the others by 1 / (1 - rate).

    `per_sample` zeroes whole samples: stochastic depth (Huang et al., 2016).
    """

    rate: float = 0.0
    per_sample: bool = False

    def setup(self):
        self.keys = Keys() if self.rate else None

    def __call__(self, x, training=False):  # [N, ...]
        if not training or self.keys is None:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1) if self.per_sample else x.shape
        kept = jax.random.bernoulli(self.keys(), 1 - self.rate, shape)
        return jnp.where(kept, x / (1 - self.rate), 0).astype(x.dtype)


class SqueezeExcite(Block):
    """Channel gates from globally pooled features (Hu et al., 2018)."""

    features: int
    reduced: int
    act: Callable = relu
    gate: Callable = sigmoid
    zero_bias: bool = True  # at the beginning; else the biases are PyTorch's own, U(-1 / sqrt(in), 1 / sqrt(in))

    def setup(self):
        init = [initial.zeros if self.zero_bias else initial.Uniform(i**-0.5) for i in (self.features, self.reduced)]
        self.conv_reduce = Conv(self.features, self.reduced, use_bias=True, bias_init=init[0])
        self.conv_expand = Conv(self.reduced, self.features, use_bias=True, bias_init=init[1])

    def __call__(self, x):  # [N, H, W, features]
        gates = global_avg_pool(x, keepdims=True).astype(x.dtype)  # [N, 1, 1, features]
        gates = self.conv_expand(self.act(self.conv_reduce(gates)))
        return x * self.gate(gates)
