"""Running a model on the devices of this process: `jeffnet.predictor`."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend.core import Jaxpr, Var, jaxprs_in_params
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# Bytes that the widest activations of one block of images should have on all devices together. Measured with
# EfficientNet-B0, ResNet-50 and ViT-S on two cores with 32 MiB of shared cache: smaller blocks read the weights too
# often, larger ones fall out of the cache.
BLOCK_BYTES = 16 * 2**20
# XLA's newer CPU library for products and convolutions, on by default in some versions, is about half as fast in
# forward passes as the older one.
CPU_OPTIONS = {'xla_cpu_experimental_ynn_fusion_type': ''}


class Predictor:
    """A function from images `[N, H, W, C]` to a model's output, compiled once per shape; see `jeffnet.predictor`.

    Each device has the whole model and a share of the images. On CPUs, it walks its share in blocks whose activations
    stay in the cache. Rows that fill up shares and blocks are zeros and cut off again.
    """

    def __init__(self, call: Callable, variables: Any, *, devices: Sequence[Any] | None = None, compiled: bool = True):
        self.chosen = list(devices or jax.local_devices())[: None if compiled else 1]
        self.devices, self.compiled = len(self.chosen), compiled
        self.call = call
        self.variables = jax.device_put(variables, replicated(data_mesh(self.chosen)))
        self.on_cpu = self.chosen[0].platform == 'cpu'
        self.options = cpu_options() if self.on_cpu and compiled else {}
        self.programs: dict[tuple, Callable] = {}  # by devices and block
        self.widest: dict[tuple, int] = {}  # bytes of the widest activation, by shape and type of an image

    def __call__(self, images: Any) -> Any:
        """The output for images [N, H, W, C]; it may still be computed when this returns."""
        if not self.compiled:
            with jax.disable_jit():
                return self.call(self.variables, jnp.asarray(images))
        if isinstance(images, Tracer):  # inside a caller's program, which has its own devices and options
            return self.call(self.variables, images)
        count = images.shape[0]
        devices = max(1, min(self.devices, count))
        turns, block = self.blocks(-(-count // devices), devices, images)
        missing = devices * turns * block - count
        if missing:
            images = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
        out = self.program(devices, block)(images)
        return jax.tree.map(lambda array: array[:count], out) if missing else out

    def blocks(self, share: int, devices: int, images: Any) -> tuple[int, int]:
        """How many blocks of how many images a device walks through its share in."""
        if not self.on_cpu or share < 2:
            return 1, share
        kind = (images.shape[1:], np.dtype(images.dtype))
        if kind not in self.widest:
            self.widest[kind] = widest_activation(self.call, self.variables, *kind)
        fitting = 2 ** max(0, round(math.log2(BLOCK_BYTES / devices / self.widest[kind])))
        turns = -(-share // fitting)
        return turns, -(-share // turns)

    def program(self, devices: int, block: int) -> Callable:
        """The compiled function for so many devices and blocks of this size."""
        if (devices, block) not in self.programs:
            mesh = data_mesh(self.chosen[:devices])
            data = PartitionSpec('data')
            local = jax.shard_map(
                partial(in_blocks, self.call, block),
                mesh=mesh, in_specs=(PartitionSpec(), data), out_specs=data, check_vma=False,
            )  # fmt: skip
            run = jax.jit(local, compiler_options=self.options)
            variables = jax.tree.map(partial(on_first, replicated(mesh)), self.variables)
            placed = NamedSharding(mesh, data)
            self.programs[devices, block] = lambda images: run(variables, jax.device_put(images, placed))
        return self.programs[devices, block]

    def outputs(self, images: Any) -> Any:
        """Shape and type of the output for images [N, H, W, C], or for their `jax.ShapeDtypeStruct`; nothing is run."""
        return jax.eval_shape(self.call, self.variables, images)


def in_blocks(call: Callable, block: int, variables: Any, images: Any) -> Any:
    """The output for one device's images [N, H, W, C], `block` at a time."""
    if images.shape[0] <= block:
        return call(variables, images)
    blocks = images.reshape(-1, block, *images.shape[1:])
    out = lax.map(partial(call, variables), blocks)
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), out)


def data_mesh(devices: Sequence[Any]) -> Mesh:
    """A mesh along which images are split."""
    return Mesh(np.array(devices), ('data',), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on each device."""
    return NamedSharding(mesh, PartitionSpec())


def on_first(sharding: NamedSharding, array: Any) -> Any:
    """A replicated array as it is on the devices of a sharding, some of its own; nothing is copied."""
    parts = [shard.data for shard in array.addressable_shards if shard.device in sharding.device_set]
    return jax.make_array_from_single_device_arrays(array.shape, sharding, parts)


def widest_activation(call: Callable, variables: Any, shape: tuple[int, ...], dtype: Any) -> int:
    """Bytes of the largest array that the forward pass of one image makes of it."""
    image = jax.ShapeDtypeStruct((1, *shape), dtype)
    program = jax.make_jaxpr(call)(variables, image).jaxpr
    return max(made_of(program, {program.invars[-1]}), default=math.prod(shape))


def made_of(program: Jaxpr, sources: set) -> Iterator[int]:
    """Bytes of each array that a program computes from these of its inputs; `sources` grows by them."""
    for equation in program.eqns:
        used = [isinstance(v, Var) and v in sources for v in equation.invars]
        if not any(used):
            continue
        sources.update(equation.outvars)
        for inner in jaxprs_in_params(equation.params):  # its inputs are the last ones: a condition's index comes first
            pairs = zip(inner.invars, used[len(used) - len(inner.invars) :], strict=True)
            yield from made_of(inner, {v for v, is_used in pairs if is_used})
        results: list[Any] = [v.aval for v in equation.outvars]
        yield from (math.prod(aval.shape) * aval.dtype.itemsize for aval in results)


@cache
def cpu_options() -> dict[str, Any]:
    """The compiler options of forward passes on CPUs, where this version of XLA knows them."""
    try:
        jax.jit(lambda x: x, compiler_options=CPU_OPTIONS).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return CPU_OPTIONS
