"""Lowerings of convolutions for XLA's CPU back end, faster than its own: each array from the other two.

A depthwise convolution becomes a sum of shifted products, which XLA fuses into one loop over memory, 10 to 50 times as
fast as its convolution; a 1x1 convolution becomes the matrix product it is, at about twice the speed. The first layer
of a network, of few channels, is such a sum too; narrow groups are merged into wider ones.
`g` `[N, H', W', O]` stands for the output, or for its cotangent.
"""

import math
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax

from jeffnet.core.primitives import added, varying_alike

# --------------------------------------------------------------------------------------------------------- depthwise


def depthwise(x, kernel, geometry):
    """The output [N, H', W', C]."""
    x = padded(x, geometry.padding)
    weights = rows_of(kernel)
    terms = (scaled(shifted(x, tap, geometry), weights, row) for row, tap in enumerate(taps(geometry)))
    return reduce(lax.add, terms).astype(x.dtype)


def depthwise_images(g, kernel, geometry):
    """The cotangent of the images [N, H, W, C]."""
    interleave = partial(phases, geometry=geometry)
    return interleave(g, kernel) if geometry.stride == (1, 1) else by_itself(interleave, g, kernel)


def phases(g, kernel, geometry):
    """The cotangent of the images [N, H, W, C].

    With a stride, rows (and columns) of different phase meet different taps: each phase is a sum of shifted products of
    its own, and they are interleaved at the end.
    """
    (sh, sw), (low, _), (left, _) = geometry.stride, *geometry.padding
    height, width = (geometry.size[0] + low - 1) // sh + 1, (geometry.size[1] + left - 1) // sw + 1  # of a phase
    reach = [(k - 1) * d // s for k, d, s in zip(geometry.kernel_size, geometry.dilation, geometry.stride, strict=True)]
    more = [max(0, size - have) for size, have in zip((height, width), g.shape[1:3], strict=True)]
    g = padded(g, tuple(zip(reach, more, strict=True)))

    weights, (count, *_, channels) = rows_of(kernel), g.shape

    def phase(a, b):
        terms = []
        for row, tap in enumerate(taps(geometry)):
            i, j = (t * d for t, d in zip(tap, geometry.dilation, strict=True))
            if i % sh == a and j % sw == b:
                top, begin = reach[0] - i // sh, reach[1] - j // sw
                pixels = lax.slice(g, (0, top, begin, 0), (count, top + height, begin + width, channels))
                terms.append(scaled(wide(pixels), weights, row))
        return reduce(lax.add, terms, jnp.zeros((count, height, width, channels), accumulator(g)))

    if (sh, sw) == (1, 1):
        images = phase(0, 0)
    else:
        rows = [jnp.stack([phase(a, b) for b in range(sw)], 3) for a in range(sh)]
        images = jnp.stack(rows, 2).reshape(g.shape[0], height * sh, width * sw, g.shape[3])
    return images[:, low : low + geometry.size[0], left : left + geometry.size[1]].astype(g.dtype)


def depthwise_kernel(x, g, geometry):
    """The cotangent of the kernel [KH, KW, 1, C].

    Sums of products for several taps at once, in one pass over both arrays: first along the width, where they stay in
    registers and the nearest cache.
    """
    x, g = padded(x, geometry.padding), lax.optimization_barrier(g)
    (kh, kw), zero = geometry.kernel_size, jnp.zeros((), accumulator(x))
    every = list(taps(geometry))
    together = kh * kw if g.shape[2] >= WIDE else kw
    sums = []
    for first in range(0, kh * kw, together):
        products = [lax.mul(shifted(x, tap, geometry), wide(g)) for tap in every[first : first + together]]
        rows = lax.reduce(products, [zero] * len(products), added, (2,))  # [N, H', C] for each tap
        sums += [row.sum((0, 1)) for row in rows]
    return jnp.stack(sums).reshape(kh, kw, 1, -1).astype(x.dtype)


# Narrower than this, the sums of all taps of a large kernel take longer than those of one row of it at a time: at a
# width of 7 and 5x5 taps 5.3 against 1.0 ms, at 28 the other way round 6.7 against 10.1 ms (8 images, two cores).
WIDE = 28


def taps(geometry):
    """Positions in the kernel."""
    return ((i, j) for i in range(geometry.kernel_size[0]) for j in range(geometry.kernel_size[1]))


def shifted(x, tap, geometry):
    """The pixels [N, H', W', C] of padded images that one tap meets."""
    (h, w), (sh, sw) = geometry.out_size, geometry.stride
    top, left = (t * d for t, d in zip(tap, geometry.dilation, strict=True))
    limits = (x.shape[0], top + (h - 1) * sh + 1, left + (w - 1) * sw + 1, x.shape[3])
    return wide(lax.slice(x, (0, top, left, 0), limits, (1, sh, sw, 1)))


def rows_of(kernel):
    """The weights [KH * KW * I, O] of a kernel [KH, KW, I, O]."""
    return wide(kernel).reshape(-1, kernel.shape[3])


def scaled(x, weights, row):
    """The pixels [N, H, W, C] times one row of weights [rows, C]; by `lax`, which is traced in a tenth of the time."""
    return lax.mul(x, lax.broadcast_in_dim(lax.index_in_dim(weights, row, keepdims=False), x.shape, (3,)))


def padded(x, padding):
    """Zeros around the images, written once: without the barrier, XLA computes every shifted slice from what came
    before the padding."""
    return lax.optimization_barrier(jnp.pad(x, ((0, 0), *padding, (0, 0))))


def by_itself(function, *operands):
    """The value of a function, computed and written to memory by itself.

    XLA's CPU back end drops barriers before it fuses, and what it fuses with interleaved phases runs ten times slower.
    It does not look through a condition, although this one always holds.
    """
    kernel = operands[-1]  # which every device has, so that none waits for the condition
    holds = ~(kernel[(0,) * kernel.ndim] > jnp.inf)
    out = jax.eval_shape(function, *operands)
    return lax.cond(
        holds, function, lambda *given: varying_alike(jnp.zeros(out.shape, out.dtype), *given)[0], *operands
    )


def accumulator(x):
    """At least float32, so that bfloat16 is rounded once, as in a convolution."""
    return jnp.promote_types(x.dtype, jnp.float32)


def wide(x):
    """In the type of the accumulator."""
    return x.astype(accumulator(x))


# --------------------------------------------------------------------------------------------------------------- 1x1


def pointwise(x, kernel, geometry):
    """The output [N, H', W', O]."""
    return strided(x, geometry) @ kernel[0, 0]


def pointwise_images(g, kernel, geometry):
    """The cotangent of the images [N, H, W, I]."""
    images = lax.dot_general(g, kernel[0, 0], (((3,), (1,)), ((), ())))
    if geometry.stride == (1, 1):
        return images
    sides = zip(geometry.size, g.shape[1:3], geometry.stride, strict=True)
    config = [(0, size - (out - 1) * s - 1, s - 1) for size, out, s in sides]
    return lax.pad(images, jnp.zeros((), images.dtype), ((0, 0, 0), *config, (0, 0, 0)))


def pointwise_kernel(x, g, geometry):
    """The cotangent of the kernel [1, 1, I, O]; of matrices, since XLA would transpose arrays of more axes first."""
    x, g = (array.reshape(-1, array.shape[3]) for array in (strided(x, geometry), g))
    return lax.dot_general(x, g, (((0,), (0,)), ((), ())))[None, None]


def strided(x, geometry):
    """The pixels that a 1x1 convolution meets."""
    return x[:, :: geometry.stride[0], :: geometry.stride[1]]


# ------------------------------------------------------------------------------------------ few channels, many groups

FEW = 32  # products in the sum of an output: 27 of 3x3 taps and RGB; four times as fast then, no faster with 147
WIDTH = 32  # channels of a group: of 4, 8, 16, and 32, XLA's own takes 82, 14, 5, and 3 ms for the same work


def has_few_terms(geometry):
    """Whether each output is a sum of few products."""
    return math.prod(geometry.kernel_size) * geometry.channels[0] <= FEW


def sum_of_terms(x, kernel, geometry):
    """The output [N, H', W', O]: in one loop, with the outputs of a pixel in registers."""
    x = padded(x, geometry.padding)
    weights, shape = rows_of(kernel), (x.shape[0], *geometry.out_size, geometry.channels[1])
    terms = []
    for tap in taps(geometry):
        pixels = shifted(x, tap, geometry)
        for i in range(x.shape[3]):
            channel = lax.broadcast_in_dim(lax.slice_in_dim(pixels, i, i + 1, axis=3), shape, (0, 1, 2, 3))
            terms.append(scaled(channel, weights, len(terms)))
    return reduce(lax.add, terms).astype(x.dtype)


def groups_together(geometry):
    """How many neighbouring groups are faster as one dense group, mostly of zeros."""
    width = geometry.channels[0] // geometry.groups
    wide_enough = (n for n in range(1, geometry.groups + 1) if geometry.groups % n == 0 and n * width >= WIDTH)
    together = next(wide_enough, geometry.groups)
    return together if together * width < 2 * WIDTH else 1


def merged(kernel, geometry, together):
    """The kernel [KH, KW, I / groups * together, O] of dense groups from [KH, KW, I / groups, O]."""
    blocks = kernel.reshape(*kernel.shape[:3], -1, together, geometry.channels[1] // geometry.groups)
    dense = jnp.einsum('hwigto,st->hwsigto', blocks, jnp.eye(together, dtype=kernel.dtype))
    return dense.reshape(*kernel.shape[:2], together * kernel.shape[2], kernel.shape[3])


def split(kernel, geometry, together):
    """The kernel [KH, KW, I / groups, O] out of that of dense groups: the transpose of `merged`."""
    kh, kw, _, out = kernel.shape
    blocks = kernel.reshape(kh, kw, together, -1, geometry.groups // together, together, out // geometry.groups)
    return jnp.einsum('hwtigto->hwigto', blocks).reshape(kh, kw, -1, out)


DEPTHWISE = {'output': depthwise, 'images': depthwise_images, 'kernel': depthwise_kernel}
POINTWISE = {'output': pointwise, 'images': pointwise_images, 'kernel': pointwise_kernel}
