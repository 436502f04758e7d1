"""Running a model on the devices of this process: `jeffnet.predictor`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


class Predictor:
    """A function from images `[N, H, W, C]` to a model's output, compiled once per shape; see `jeffnet.predictor`.

    Each device has the whole model and a share of the images. Rows that fill up the shares are zeros and cut off again.
    """

    def __init__(self, call: Callable, variables: Any, *, devices: Sequence[Any] | None = None, compiled: bool = True):
        chosen = list(devices or jax.local_devices())[: None if compiled else 1]
        mesh = Mesh(np.array(chosen), ('data',), axis_types=(AxisType.Auto,))
        self.devices, self.compiled = len(chosen), compiled
        self.images = NamedSharding(mesh, PartitionSpec('data'))
        self.call = jax.jit(call) if compiled else call
        self.variables = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))

    def __call__(self, images: Any) -> Any:
        """The output for images [N, H, W, C]; it may still be computed when this returns."""
        if not self.compiled:
            with jax.disable_jit():
                return self.call(self.variables, jnp.asarray(images))
        count = images.shape[0]
        missing = -count % self.devices
        if missing:
            images = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
        out = self.call(self.variables, jax.device_put(images, self.images))
        return jax.tree.map(lambda array: array[:count], out) if missing else out

    def outputs(self, images: Any) -> Any:
        """Shape and type of the output for images [N, H, W, C], or for their `jax.ShapeDtypeStruct`; nothing is run."""
        return jax.eval_shape(self.call, self.variables, images)
