"""Running a model on the devices of this process: `jeffnet.predictor`."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend.core import Jaxpr, Var, jaxprs_in_params
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jeffnet.core import compiler
from jeffnet.core.block import Block
from jeffnet.core.inputs import check_batch

# Share of the cache that the widest activations of the images in work should have together. Measured with
# EfficientNet-B0, ResNet-50 and ViT-S on two cores with 32 MiB of shared cache: smaller blocks read the weights too
# often, larger ones fall out of the cache.
CACHE_SHARE = 0.5
USUAL_CACHE = 32 * 2**20  # bytes, where the system does not tell


class Predictor:
    """A function from images `[N, H, W, C]` to a model's output, compiled once per shape; see `jeffnet.predictor`.

    Each device has the whole model and a share of the images. A CPU that is one device splits its share again, among
    lanes: one program for each core, side by side, since a program by itself leaves cores waiting between its
    operations. On CPUs, a program walks its images in blocks whose activations stay in the cache. Rows that fill up
    shares and blocks are zeros and cut off again.
    """

    def __init__(self, call: Callable, variables: Any, *, devices: Sequence[Any] | None = None, compiled: bool = True):
        self.chosen = checked(devices)[: None if compiled else 1]
        self.devices, self.compiled = len(self.chosen), compiled
        self.call = call
        # Copies: what the caller goes on to do with the arrays, to change or donate them, must not reach in here.
        variables = jax.tree.map(lambda x: x.copy() if isinstance(x, np.ndarray) else x, variables)
        self.variables = jax.device_put(variables, replicated(data_mesh(self.chosen)), may_alias=False)
        self.on_cpu = self.chosen[0].platform == 'cpu'
        self.lanes = cores() if self.on_cpu and self.devices == 1 else 1
        self.options = compiler.options(self.chosen[0].platform, compiler.FORWARD) if compiled else {}
        self.programs: dict[tuple, Callable] = {}  # by devices, block, shape and type of their images
        self.widest: dict[tuple, int] = {}  # bytes of the widest activation, by shape and type of an image

    def __call__(self, images: Any) -> Any:
        """The output for images [N, H, W, C]; it may still be computed when this returns."""
        check_batch(images)
        if not self.compiled:
            with jax.disable_jit():
                return self.call(self.variables, jnp.asarray(images))
        if isinstance(images, Tracer):  # inside a caller's program, which has its own devices and options
            return self.call(self.variables, images)
        if not isinstance(images, (np.ndarray, jax.Array)):  # of PyTorch, for example
            images = np.asarray(images)
        count = images.shape[0]
        devices, lanes = (max(1, min(most, count)) for most in (self.devices, self.lanes))
        turns, block = self.blocks(-(-count // (devices * lanes)), devices * lanes, images)
        missing = devices * lanes * turns * block - count
        if missing:
            images = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
        shares = np.split(np.asarray(images), lanes) if lanes > 1 else [images]
        if images.dtype == np.float64:  # `jax.enable_x64` as a context holds in this thread alone
            shares = [jnp.asarray(share) for share in shares]
        run = self.program(devices, block, shares[0])
        # From threads, since XLA runs what one thread asks for one after the other.
        out = joined(*threads(lanes).map(run, shares)) if lanes > 1 else run(shares[0])
        return jax.tree.map(lambda array: array[:count], out) if missing else out

    def blocks(self, share: int, parts: int, images: Any) -> tuple[int, int]:
        """In how many blocks of how many images a device or lane, one of so many parts, walks through its share."""
        if not self.on_cpu or share < 2:
            return 1, share
        kind = (images.shape[1:], np.dtype(images.dtype))
        if kind not in self.widest:
            self.widest[kind] = widest_activation(self.call, self.variables, *kind)
        fitting = 2 ** max(0, round(math.log2(CACHE_SHARE * cache_bytes() / parts / self.widest[kind])))
        turns = -(-share // fitting)
        return turns, -(-share // turns)

    def program(self, devices: int, block: int, images: Any) -> Callable:
        """The compiled function of such images for so many devices and blocks of this size."""
        key = (devices, block, images.shape, np.dtype(images.dtype))
        if key not in self.programs:
            mesh = data_mesh(self.chosen[:devices])
            data = PartitionSpec('data')
            local = jax.shard_map(
                partial(in_blocks, self.call, block),
                mesh=mesh, in_specs=(PartitionSpec(), data), out_specs=data, check_vma=False,
            )  # fmt: skip
            variables = jax.tree.map(partial(on_first, replicated(mesh)), self.variables)
            placed = NamedSharding(mesh, data)
            shape = jax.ShapeDtypeStruct(images.shape, images.dtype, sharding=placed)
            # Compiled here and not at its first call, which may be that of several threads at once.
            run = jax.jit(local, compiler_options=self.options).lower(variables, shape).compile()
            self.programs[key] = lambda images: run(variables, jax.device_put(images, placed))
        return self.programs[key]

    def outputs(self, images: Any) -> Any:
        """Shape and type of the output for images [N, H, W, C], or for their `jax.ShapeDtypeStruct`; nothing is run."""
        return jax.eval_shape(self.call, self.variables, images)


def forward_pass(back_end: ModuleType, model: Any, variables: dict | None) -> tuple[Callable, Any]:
    """The forward pass as a pure function of variables and images, and the variables.

    That of a network of jeffnet takes them by flat name: the program is then the same in every framework, and once
    compiled for one it is found in the compilation cache by all.
    """
    if not isinstance(model, Block) or set(variables or ()) - {'params', 'batch_stats'}:
        return back_end.pure(model, variables)
    call, params, stats = back_end.functional(model, variables)

    def forward(values, images):
        parts = ({name: values[name] for name in part} for part in (params, stats))
        return call(*parts, images)[0]

    return forward, params | stats


def checked(devices: Any) -> list[Any]:
    """The devices to use; TypeError or ValueError for what is no list of different devices."""
    if devices is None:
        return jax.local_devices()
    chosen = list(devices) if isinstance(devices, Sequence) and not isinstance(devices, str) else []
    if not chosen or not all(isinstance(device, jax.Device) for device in chosen):
        raise TypeError(f'devices={devices!r}: expected a list of devices, such as jax.local_devices()[:1]')
    if len(set(chosen)) < len(chosen):
        raise ValueError(f'devices={devices!r}: names a device twice')
    return chosen


def in_blocks(call: Callable, block: int, variables: Any, images: Any) -> Any:
    """The output for one device's images [N, H, W, C], `block` at a time."""
    if images.shape[0] <= block:
        return call(variables, images)
    blocks = images.reshape(-1, block, *images.shape[1:])
    out = lax.map(partial(call, variables), blocks)
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), out)


@jax.jit
def joined(*parts: Any) -> Any:
    """The outputs of all lanes, one after the other."""
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)


@cache
def threads(count: int) -> ThreadPoolExecutor:
    """Threads that start the programs of lanes."""
    return ThreadPoolExecutor(count, thread_name_prefix='jeffnet-lane')


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


@cache
def cache_bytes() -> int:
    """Bytes of the outermost caches that the cores of this process have."""
    found: dict[str, int] = {}  # by the cores that share it
    for core in os.sched_getaffinity(0) if hasattr(os, 'sched_getaffinity') else ():
        levels = sorted(Path(f'/sys/devices/system/cpu/cpu{core}/cache').glob('index*'))
        if levels and (levels[-1] / 'size').exists():
            size = (levels[-1] / 'size').read_text().strip()  # e.g. 32768K
            found[(levels[-1] / 'shared_cpu_list').read_text()] = int(size.rstrip('KMG')) * UNITS[size[-1]]
    return sum(found.values()) or USUAL_CACHE


UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30}


def data_mesh(devices: Sequence[Any]) -> Mesh:
    """A mesh along which images are split."""
    return Mesh(np.array(devices), ('data',), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on each device."""
    return NamedSharding(mesh, PartitionSpec())


def on_first(sharding: NamedSharding, array: Any) -> Any:
    """A replicated array as it is on the devices of a sharding, some of its own; nothing is copied."""
    # By device: asked by several threads at once, JAX may list a shard twice.
    parts = {shard.device: shard.data for shard in array.addressable_shards if shard.device in sharding.device_set}
    return jax.make_array_from_single_device_arrays(array.shape, sharding, list(parts.values()))


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
