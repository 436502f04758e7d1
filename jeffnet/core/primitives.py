"""What the primitives of the core have in common."""

from functools import cache, partial

import jax
from jax import lax
from jax.extend.core import Primitive


def run_by_itself(primitive: Primitive):
    """Gives a primitive what happens outside a compiled function: a compiled function of its own."""

    @cache
    def compiled(**settings):
        return jax.jit(partial(primitive.bind, **settings))

    def run(*operands, **settings):
        with jax.disable_jit(False):  # which otherwise would bring us here again
            return compiled(**settings)(*operands)

    primitive.def_impl(run)


def varying_alike(*arrays):
    """The arrays, all varying over the same axes of an enclosing `jax.shard_map`, as a primitive needs them."""
    axes = [frozenset(jax.typeof(x).manual_axis_type.varying) for x in arrays]
    union = frozenset().union(*axes)
    return [
        lax.pcast(x, tuple(union - own), to='varying') if union - own else x
        for x, own in zip(arrays, axes, strict=True)
    ]


def added(totals, values):
    """One step of several sums."""
    return [total + value for total, value in zip(totals, values, strict=True)]
