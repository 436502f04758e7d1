"""Convolution of NHWC images with HWIO kernels, lowered to what the device at hand runs fastest.

A convolution relates three arrays: images, kernel and output. One primitive computes any of them, or of their
cotangents, from the other two. Its derivatives are the primitive again, so all orders of differentiation, forward and
backward, and `jax.vmap` run on the same lowerings.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jeffnet.core import convolution_cpu
from jeffnet.core.padding import Pairs
from jeffnet.core.primitives import run_by_itself, varying_alike


@dataclass(frozen=True)
class Geometry:
    """What the shapes of two of the three arrays leave open."""

    size: tuple[int, int]  # height and width of the images
    channels: tuple[int, int]  # of images and output
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: Pairs
    dilation: tuple[int, int]
    groups: int

    @property
    def out_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        sides = zip(self.size, self.padding, self.dilation, self.kernel_size, self.stride, strict=True)
        height, width = (max(0, (side + sum(pad) - d * (k - 1) - 1) // s + 1) for side, pad, d, k, s in sides)
        return height, width

    def shape(self, wanted: str, batch: int) -> tuple[int, ...]:
        """Shape of one of the three arrays."""
        if wanted == 'kernel':
            return (*self.kernel_size, self.channels[0] // self.groups, self.channels[1])
        size, channels = (self.size, self.channels[0]) if wanted == 'images' else (self.out_size, self.channels[1])
        return (batch, *size, channels)


def convolve(x, kernel, stride: tuple[int, int], padding: Pairs, dilation=(1, 1), groups: int = 1):
    """Convolves `x` `[N, H, W, I]` with `kernel` `[KH, KW, I / groups, O]` into `[N, H', W', O]`."""
    if x.ndim != 4 or kernel.ndim != 4 or x.dtype != kernel.dtype or x.shape[3] != kernel.shape[2] * groups:
        raise ValueError(
            f'convolution of {x.dtype}{list(x.shape)} with a kernel {kernel.dtype}{list(kernel.shape)} in {groups} '
            'groups: expected [N, H, W, I] and [KH, KW, I / groups, O] of one type'
        )
    geometry = Geometry(
        x.shape[1:3], (x.shape[3], kernel.shape[3]), kernel.shape[:2], tuple(stride),
        tuple(map(tuple, padding)), tuple(dilation), groups,
    )  # fmt: skip
    return _related(x, kernel, 'output', geometry)


# ----------------------------------------------------------------------------------------------------- the primitive

# What `convolution_p` computes (`wanted`), and from which two.
GIVEN = {'output': ('images', 'kernel'), 'images': ('output', 'kernel'), 'kernel': ('images', 'output')}

convolution_p = Primitive('jeffnet_convolution')


def _related(one, other, wanted: str, geometry: Geometry):
    """One of the three arrays from the other two."""
    return convolution_p.bind(*varying_alike(one, other), wanted=wanted, geometry=geometry)


run_by_itself(convolution_p)


@convolution_p.def_abstract_eval
def _abstract(one, other, *, wanted, geometry):
    batch = 0 if wanted == 'kernel' else one.shape[0]
    return one.update(shape=geometry.shape(wanted, batch), weak_type=False)


def _cotangent(position: int) -> Callable:
    """The rule for the cotangent of the operand at this position."""

    def rule(cotangent, *operands, wanted: str, geometry: Geometry):
        kept = 1 - position
        known = {wanted: cotangent, GIVEN[wanted][kept]: operands[kept]}
        target = GIVEN[wanted][position]
        return _related(*(known[name] for name in GIVEN[target]), target, geometry)

    return rule


ad.defbilinear(convolution_p, _cotangent(0), _cotangent(1))


def _batched(operands, axes, *, wanted, geometry):
    """`jax.vmap`: more images, or as many kernels."""
    one, other = operands
    if axes[1] is None and wanted != 'kernel':  # the same kernel for all
        one = jnp.moveaxis(one, axes[0], 0)
        out = _related(one.reshape(-1, *one.shape[2:]), other, wanted, geometry)
        return out.reshape(*one.shape[:2], *out.shape[1:]), 0
    choices = (partial(run, wanted=wanted, geometry=geometry) for run in (_on_cpu, _native))
    on_cpu, native = (jax.vmap(run, axes) for run in choices)
    return lax.platform_dependent(one, other, cpu=on_cpu, default=native), 0


batching.primitive_batchers[convolution_p] = _batched

# ------------------------------------------------------------------------------------------------------ the lowerings


def _native(one, other, *, wanted: str, geometry: Geometry):
    """XLA's own convolution, and its transposes."""
    run = partial(
        lax.conv_general_dilated,
        window_strides=geometry.stride,
        padding=geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=geometry.groups,
    )
    if wanted == 'output':
        return run(one, other)
    absent = jax.ShapeDtypeStruct(geometry.shape(wanted, one.shape[0]), one.dtype)
    if wanted == 'images':
        return jax.linear_transpose(lambda images: run(images, other), absent)(one)[0]
    return jax.linear_transpose(lambda kernel: run(one, kernel), absent)(other)[0]


def _on_cpu(one, other, *, wanted: str, geometry: Geometry):
    """What XLA's CPU back end runs faster than its own convolution, where there is such a thing."""
    if 0 in geometry.out_size:  # a kernel larger than the padded image fits nowhere
        return _native(one, other, wanted=wanted, geometry=geometry)
    if geometry.groups == geometry.channels[0] == geometry.channels[1] and geometry.groups > 1:
        return convolution_cpu.DEPTHWISE[wanted](one, other, geometry)
    if geometry.kernel_size == (1, 1) and geometry.groups == 1 and not any(map(any, geometry.padding)):
        return convolution_cpu.POINTWISE[wanted](one, other, geometry)
    if geometry.groups == 1 and wanted == 'output' and convolution_cpu.has_few_terms(geometry):
        return convolution_cpu.sum_of_terms(one, other, geometry)
    if geometry.groups > 1:
        return _in_groups(one, other, wanted=wanted, geometry=geometry)
    return _native(one, other, wanted=wanted, geometry=geometry)


def _in_groups(one, other, *, wanted: str, geometry: Geometry):
    """Several groups on CPUs: in fewer and wider ones, and the kernel's cotangent group by group, since all at once
    XLA takes a second for a layer."""
    together = convolution_cpu.groups_together(geometry)
    wider = replace(geometry, groups=geometry.groups // together)
    if wanted != 'kernel':
        kernel = convolution_cpu.merged(other, geometry, together) if together > 1 else other
        return _native(one, kernel, wanted=wanted, geometry=wider)
    dense = replace(wider, channels=tuple(channels // wider.groups for channels in wider.channels), groups=1)
    pairs = zip(*(jnp.split(array, wider.groups, axis=3) for array in (one, other)), strict=True)
    kernel = jnp.concatenate([_native(*pair, wanted=wanted, geometry=dense) for pair in pairs], axis=3)
    return convolution_cpu.split(kernel, geometry, together) if together > 1 else kernel


# Compiled functions, so that layers of equal shapes are traced and written into a program once.
for function, platform in ((_native, None), (_on_cpu, 'cpu')):
    lowered = mlir.lower_fun(jax.jit(function, static_argnames=('wanted', 'geometry')), multiple_results=False)
    mlir.register_lowering(convolution_p, lowered, platform=platform)
