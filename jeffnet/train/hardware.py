"""What the machine can do and what a run takes of it: peak FLOP/s of devices, utilisation, memory in use."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jeffnet.train.mesh import DATA

# Dense TFLOP/s of one JAX device, with sums in float32, as (bfloat16, float16, float32); None where the hardware has no
# such unit. float32 is what JAX makes of it at its default precision: TF32 on GPUs that have it, on a TPU bfloat16.
# A JAX device is a whole GPU; of TPU v2, v3 and v7 it is one core of a chip with two.
# Sources: NVIDIA's data sheets (H100, H200, A100, V100, L4, L40S, T4, HGX B200; half of what they give with sparsity)
# and architecture white papers (GA102 for the 3090, Ada for the 4090, RTX Blackwell for the 5090); the system
# architecture pages of Cloud TPU, docs.cloud.google.com/tpu/docs. Other cards of a family (MIG slices, laptop and
# export models) are slower by amounts that vary, so a name has to match in full.
PEAK_TFLOPS = {
    r'NVIDIA B200': (2250, 2250, 1125),
    r'NVIDIA H200': (989, 989, 494.5),
    r'NVIDIA H200 NVL': (835, 835, 417.5),
    r'NVIDIA H100 80GB HBM3': (989, 989, 494.5),  # SXM5
    r'NVIDIA H100 NVL': (835, 835, 417.5),
    r'NVIDIA H100 PCIe': (756, 756, 378),
    r'(NVIDIA )?A100[- ](SXM4-40GB|SXM4-80GB|PCIE-40GB|80GB PCIe)': (312, 312, 156),
    r'(Tesla )?V100-SXM[23]-(16|32)GB(-LS)?': (None, 125, 15.7),
    r'(Tesla )?V100-PCIE-(16|32)GB': (None, 112, 14),
    r'NVIDIA L40S': (362, 362, 183),
    r'NVIDIA L4': (121, 121, 60),
    r'(NVIDIA |Tesla )?T4': (None, 65, 8.1),
    r'(NVIDIA )?GeForce RTX 3090': (71, 71, 35.6),
    r'NVIDIA GeForce RTX 4090': (165.2, 165.2, 82.6),
    r'NVIDIA GeForce RTX 5090': (209.5, 209.5, 104.8),
    r'TPU v2': (22.5, None, 22.5),
    r'TPU v3': (61.5, None, 61.5),
    r'TPU v4': (275, None, 275),
    r'TPU v5( lite|e)': (197, None, 197),
    r'TPU v5p?': (459, None, 459),
    r'TPU v6( lite|e)': (918, None, 918),
    r'TPU ?v?7x?': (1153.5, None, 1153.5),
}
DTYPES = ('bfloat16', 'float16', 'float32')


@dataclass(frozen=True)
class Work:
    """What it costs to train on one image, in FLOPs, and the `peak_flops` per second of each of all `devices`."""

    flops_per_image: float
    devices: int
    peak_flops: float | None


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Highest FLOP/s of a device (`jax.Device.device_kind`) in computation of `dtype`; None where it is not known."""
    for pattern, row in PEAK_TFLOPS.items():
        if re.fullmatch(pattern, device_kind) and (name := jnp.dtype(dtype).name) in DTYPES:
            tflops = row[DTYPES.index(name)]
            return None if tflops is None else tflops * 1e12
    return None


def work_of(plan: Any) -> Work | None:
    """The work of a `Plan`; None where the peak of its devices is not known, or images do not keep one size.

    The program is counted before it is compiled: that is the whole batch, on however many devices. Of a compiled one,
    XLA counts the share of one device.
    """
    from jeffnet.train.step import zeros  # here, since a report needs nothing of the steps

    config, devices = plan.config, plan.mesh.size
    peak = peak_flops(plan.mesh.devices.flat[0].device_kind, config.dtype)
    if peak is None or len(plan.stages) > 1:
        return None
    shape = (config.batch_size, *plan.stages[0][1].image_size, config.in_chans)
    parts = NamedSharding(plan.mesh, PartitionSpec(DATA))
    batch = {
        'image': jax.ShapeDtypeStruct(shape, jnp.float32, sharding=parts),
        'label': jax.ShapeDtypeStruct(shape[:1], jnp.int32, sharding=parts),
    }
    try:
        cost = plan.train_step.lower(plan.state, zeros(plan.mesh), batch).cost_analysis()
    except jax.errors.JaxRuntimeError:  # a backend that does not count
        return None
    # Of the loop over the parts of a batch, XLA counts one turn.
    flops = (cost or {}).get('flops', 0.0) * config.accumulation_steps
    return Work(flops / config.batch_size, devices, peak) if flops > 0 else None


def model_flops_utilisation(work: Work | None, images_per_second: float) -> float | None:
    """Share, 0 to 1, of the peak that training at this speed uses (Chowdhery et al., 2022); None if that is unknown."""
    if work is None or not work.peak_flops:
        return None
    return images_per_second * work.flops_per_image / (work.devices * work.peak_flops)


def device_memory(devices: Sequence[Any] | None = None) -> tuple[int, int] | None:
    """Bytes in use now and at most so far, of the fullest of `devices` (None: this process's); None if not counted."""
    counts = [device.memory_stats() for device in devices or jax.local_devices()]
    known = [count for count in counts if count and 'peak_bytes_in_use' in count]
    if not known:
        return None
    return max(count['bytes_in_use'] for count in known), max(count['peak_bytes_in_use'] for count in known)


def host_memory() -> int | None:
    """Bytes of main memory that this process holds, its workers not counted; None where the system does not tell."""
    status = Path('/proc/self/status')
    if status.exists():
        found = re.search(r'^VmRSS:\s*(\d+) kB', status.read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS; the most so far
