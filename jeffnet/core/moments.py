"""Sums over pixels by channel, and affine maps by channel: each is the transpose of the other.

Batch norm consists of them, forward and backward. As primitives of their own they keep the two sums of each direction
together, in one pass over memory, through all orders of differentiation.
"""

from functools import partial

import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jeffnet.core.primitives import added, run_by_itself, varying_alike


def sums(u, v, lead: int = 0, kept: bool = False):
    """Sums of `u` and of `u * v` over pixels: both arrays `[*lead, N, ..., C]`, both sums `[*lead, C]`.

    `kept`: whether both arrays are in memory anyway, or should be because others need them too, or else are better
    computed on the way.
    """
    return sums_p.bind(*varying_alike(u, v), lead=lead, kept=kept)


def affine(offset, gain, x, lead: int = 0):
    """`offset + gain * x` with one offset and gain for each channel: `[*lead, C]` for `x` `[*lead, N, ..., C]`."""
    return affine_p.bind(*varying_alike(offset, gain, x), lead=lead)


def spread(values, ndim: int, lead: int):
    """`[*lead, C]` as an array that broadcasts over the pixels of one with `ndim` axes."""
    return lax.expand_dims(values, range(lead, ndim - 1))


sums_p, affine_p = Primitive('jeffnet_channel_sums'), Primitive('jeffnet_channel_affine')
sums_p.multiple_results = True

# --------------------------------------------------------------------------------------------------------- lowerings


def _sums(u, v, *, lead, kept):
    axes = tuple(range(lead, u.ndim - 1))
    return [u.sum(axes), (u * v).sum(axes)]


def _sums_on_cpu(u, v, *, lead, kept):
    """Both sums in one loop that also computes the arrays, which XLA writes to memory for a sum by itself.

    First along the last axis of pixels, where the partial sums stay in the nearest cache.
    """
    if kept:
        return _sums(u, v, lead=lead, kept=kept)
    zero = jnp.zeros((), u.dtype)
    rows = lax.reduce([u, u * v], [zero, zero], added, (u.ndim - 2,))
    return [row.sum(tuple(range(lead, u.ndim - 2))) for row in rows]


def _affine(offset, gain, x, *, lead):
    return spread(offset, x.ndim, lead) + spread(gain, x.ndim, lead) * x


run_by_itself(sums_p)
run_by_itself(affine_p)
sums_p.def_abstract_eval(
    lambda u, v, *, lead, kept: [u.update(shape=(*u.shape[:lead], u.shape[-1]), weak_type=False)] * 2
)
affine_p.def_abstract_eval(lambda offset, gain, x, *, lead: x.update(weak_type=False))
mlir.register_lowering(sums_p, mlir.lower_fun(_sums, multiple_results=True))
mlir.register_lowering(sums_p, mlir.lower_fun(_sums_on_cpu, multiple_results=True), platform='cpu')
mlir.register_lowering(affine_p, mlir.lower_fun(_affine, multiple_results=False))

# ------------------------------------------------------------------------------------------------------- derivatives


def _sums_jvp(operands, tangents, *, lead, kept):
    (u, v), (du, dv) = operands, map(ad.instantiate_zeros, tangents)
    out = sums(u, v, lead, kept)
    first, second = sums(du, v, lead, kept)
    return out, [first, second + sums(dv, u, lead)[1]]


def _sums_transpose(cotangents, u, v, *, lead, kept):
    first, second = map(ad.instantiate_zeros, cotangents)
    return affine(first, second, v, lead), None


def _affine_jvp(operands, tangents, *, lead):
    (offset, gain, x), (doffset, dgain, dx) = operands, map(ad.instantiate_zeros, tangents)
    out = affine(offset, gain, x, lead)
    return out, affine(doffset, dgain, x, lead) + spread(gain, x.ndim, lead) * dx


def _affine_transpose(cotangent, offset, gain, x, *, lead):
    return *sums(ad.instantiate_zeros(cotangent), x, lead, kept=True), None


ad.primitive_jvps[sums_p], ad.primitive_transposes[sums_p] = _sums_jvp, _sums_transpose
ad.primitive_jvps[affine_p], ad.primitive_transposes[affine_p] = _affine_jvp, _affine_transpose


def _batched(primitive, operands, axes, *, lead, **settings):
    """`jax.vmap`: one more leading axis."""
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    fronts = [
        jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(operands, axes, strict=True)
    ]
    out = primitive.bind(*fronts, lead=lead + 1, **settings)
    return out, [0, 0] if primitive.multiple_results else 0


for _primitive in (sums_p, affine_p):
    batching.primitive_batchers[_primitive] = partial(_batched, _primitive)
