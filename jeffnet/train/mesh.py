"""The mesh of devices, and where arrays lie on it."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = 'data'  # the axis that batches are split over


def data_mesh() -> Mesh:
    """All devices of all processes in one row."""
    return jax.make_mesh((jax.device_count(),), (DATA,), axis_types=(AxisType.Auto,))


def everywhere(mesh: Mesh) -> NamedSharding:
    """Of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh, batch: dict[str, Any]) -> dict[str, jax.Array]:
    """A batch on the devices, its first axis split over them; `batch` is this process's share, in NumPy arrays."""
    sharding = NamedSharding(mesh, PartitionSpec(DATA))
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
