"""The mesh of devices, and where arrays lie on it."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = 'data'  # the axis that batches are split over, and with FSDP large arrays too
SHARDINGS = ('replicated', 'fsdp')


def data_mesh() -> Mesh:
    """All devices of all processes in one row."""
    return jax.make_mesh((jax.device_count(),), (DATA,), axis_types=(AxisType.Auto,))


def everywhere(mesh: Mesh) -> NamedSharding:
    """Of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def shardings(mesh: Mesh, tree: Any, kind: str = 'replicated', min_size: int = 2**16) -> Any:
    """Where the arrays of a training state lie: each whole on every device, or with `fsdp` the large ones in parts.

    An array of at least `min_size` elements is split along its longest axis that the number of devices divides
    (fully sharded data parallel, Rajbhandari et al., 2020); it depends on the shape alone, so parameters, averages and
    moments of one array lie alike.
    """

    def of(array):
        axes = [axis for axis, length in enumerate(array.shape) if length % mesh.size == 0]
        if kind == 'replicated' or array.size < min_size or not axes:
            return everywhere(mesh)
        longest = max(axes, key=lambda axis: array.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, DATA))

    return jax.tree.map(of, tree)


def split(mesh: Mesh, batch: dict[str, Any]) -> dict[str, jax.Array]:
    """A batch on the devices, its first axis split over them; `batch` is this process's share, in NumPy arrays."""
    sharding = NamedSharding(mesh, PartitionSpec(DATA))
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
