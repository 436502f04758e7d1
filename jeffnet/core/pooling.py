"""Pooling of NHWC images."""

import itertools
import math
from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import lax

from jeffnet.core.block import Padding
from jeffnet.core.padding import pair, resolve


def _windows(x, kernel_size, stride, padding: Padding, ceil_mode: bool):
    """Window, strides and padding of `lax.reduce_window`."""
    kernel, strides = pair(kernel_size), pair(stride)
    pairs = list(resolve(padding, x.shape[1:3], kernel, strides))
    if ceil_mode:  # room for a last window that begins inside the image or its leading padding, as PyTorch
        for axis, (low, high) in enumerate(pairs):
            room = x.shape[1 + axis] + low + high - kernel[axis]
            extra = -room % strides[axis]
            begins = room + extra
            pairs[axis] = (low, high + extra if begins < x.shape[1 + axis] + low else high)
    return (1, *kernel, 1), (1, *strides, 1), ((0, 0), *pairs, (0, 0))


def max_pool(x, kernel_size, stride, padding: Padding = 'VALID', ceil_mode: bool = False):
    """Maximum over windows of `[N, H, W, C]`; padding never wins, and of equals the first gets the gradient."""
    window, strides, pads = _windows(x, kernel_size, stride, padding, ceil_mode)
    native = partial(
        lax.reduce_window, init_value=-jnp.inf, computation=lax.max, window_dimensions=window, window_strides=strides,
        padding=pads,
    )  # fmt: skip
    if math.prod(window) > FEW:
        return native(x)
    shifts = partial(_max_of_shifts, window=window, strides=strides, pads=pads)
    return lax.platform_dependent(x, cpu=shifts, default=native)


FEW = 25  # pixels of a window up to which a CPU computes the maximum pixel by pixel, forward and backward


def _max_of_shifts(x, window, strides, pads):
    """As elementwise operations, whose backward pass is four times as fast on a CPU."""
    x = jnp.pad(x, pads, constant_values=-jnp.inf)
    sides = [(size - width) // step for size, width, step in zip(x.shape, window, strides, strict=True)]
    most = None
    for first in itertools.product(*map(range, window)):
        last = [begin + side * step + 1 for begin, side, step in zip(first, sides, strides, strict=True)]
        shifted = lax.slice(x, first, last, strides)
        # NaN wins, and stays.
        most = shifted if most is None else jnp.where((shifted > most) | jnp.isnan(shifted), shifted, most)
    return most


def avg_pool(x, kernel_size, stride, padding: Padding = 'VALID', ceil_mode: bool = False, count_padding: bool = False):
    """Mean over windows of `[N, H, W, C]`.

    `count_padding`: whether padded zeros count in the mean, as PyTorch's `count_include_pad`; TensorFlow never counts.
    The overhang of `ceil_mode` never counts.
    """
    sums = lax.reduce_window(x, 0.0, lax.add, *_windows(x, kernel_size, stride, padding, ceil_mode))
    image = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
    if count_padding:  # the padding becomes part of the image; only the overhang stays outside
        pairs = resolve(padding, x.shape[1:3], pair(kernel_size), pair(stride))
        image, padding = jnp.pad(image, ((0, 0), *pairs, (0, 0)), constant_values=1), 'VALID'
        shape = sums.shape[1:3]
        window, strides, over = _windows(image, kernel_size, stride, padding, ceil_mode)
        counts = lax.reduce_window(image, 0.0, lax.add, window, strides, over)[:, : shape[0], : shape[1]]
    else:
        counts = lax.reduce_window(image, 0.0, lax.add, *_windows(image, kernel_size, stride, padding, ceil_mode))
    return sums / counts


def blur_pool(x, stride: int = 2, borders: str = 'reflect'):
    """Low-pass filter of 3x3 binomial weights before a stride, of `[N, H, W, C]` (Zhang, arXiv 1904.11486).

    Of `stride` 1: the filter alone. `borders`: what lies beyond the image, a mode of `jnp.pad`.
    """
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=borders)
    for axis in (1, 2):  # one direction after the other
        last = x.shape[axis] - 2
        first, middle, end = (lax.slice_in_dim(x, i, last + i, stride, axis) for i in range(3))
        x = 0.25 * first + 0.5 * middle + 0.25 * end
    return x


def global_avg_pool(x, keepdims: bool = False):
    """Mean over height and width, at least in float32: `[N, H, W, C]` to `[N, C]` (or `[N, 1, 1, C]`)."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    pixels = x.reshape(x.shape[0], x.shape[1] * x.shape[2], x.shape[3]).astype(dtype)
    means = lax.platform_dependent(pixels, cpu=_mean_as_product, default=partial(jnp.mean, axis=1, keepdims=True))
    return means[:, None] if keepdims else means[:, 0]


def _mean_as_product(x):
    """Mean over the second of three axes, kept; as a matrix product, two to three times as fast on a CPU."""
    shares = lax.full_like(x[..., :1], 1 / x.shape[1])  # like x, since in a mesh it must be split as x is
    return jnp.swapaxes(shares, 1, 2) @ x


def global_max_pool(x, keepdims: bool = False):
    """Maximum over height and width: `[N, H, W, C]` to `[N, C]` (or `[N, 1, 1, C]`)."""
    return x.max((1, 2), keepdims=keepdims)


def adaptive_avg_pool(x, size: tuple[int, int]):
    """Means over as many windows as asked for, which cover `[N, H, W, C]` and overlap where they must, as PyTorch's."""
    rows, columns = (jnp.asarray(_shares(*sides), x.dtype) for sides in zip(x.shape[1:3], size, strict=True))
    return jnp.einsum('ih,jw,nhwc->nijc', rows, columns, x)


def _shares(side: int, windows: int) -> np.ndarray:
    """The share `[windows, side]` of each pixel in each window."""
    first = np.arange(windows)[:, None] * side // windows
    last = -(-np.arange(1, windows + 1)[:, None] * side // windows)  # the first pixel behind it
    inside = (np.arange(side) >= first) & (np.arange(side) < last)
    return inside / inside.sum(1, keepdims=True)
