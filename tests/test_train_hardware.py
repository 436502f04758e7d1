"""Peak rates by the names of devices, work of a step, memory."""

import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from jeffnet.train.hardware import Work, device_memory, host_memory, model_flops_utilisation, peak_flops

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(('kind', 'dtype', 'tflops'), [
    ('NVIDIA H100 80GB HBM3', 'bfloat16', 989), ('NVIDIA H100 PCIe', 'bfloat16', 756), ('NVIDIA H200', 'float16', 989),
    ('NVIDIA A100-SXM4-40GB', 'bfloat16', 312), ('NVIDIA A100 80GB PCIe', 'float32', 156),
    ('Tesla V100-SXM2-16GB', 'float16', 125), ('Tesla V100-SXM2-16GB', 'bfloat16', None), ('Tesla T4', 'float16', 65),
    ('NVIDIA L4', 'bfloat16', 121), ('NVIDIA L40S', 'bfloat16', 362), ('NVIDIA GeForce RTX 3090', 'bfloat16', 71),
    ('NVIDIA GeForce RTX 4090', 'float32', 82.6), ('NVIDIA GeForce RTX 5090', 'bfloat16', 209.5),
    ('NVIDIA B200', 'bfloat16', 2250), ('TPU v5 lite', 'bfloat16', 197), ('TPU v5', 'bfloat16', 459),
    ('NVIDIA GeForce RTX 4090 Laptop GPU', 'float32', None), ('NVIDIA H100 80GB HBM3 MIG 3g.40gb', 'bfloat16', None),
    ('cpu', 'float32', None), ('TPU v4', 'float64', None),
])  # fmt: skip
def test_peak_flops_by_the_names_that_devices_have(kind, dtype, tflops):
    assert peak_flops(kind, dtype) == (None if tflops is None else pytest.approx(tflops * 1e12))


@pytest.mark.parametrize('kind', ['TPU v2', 'TPU v3', 'TPU v4', 'TPU v5e', 'TPU v5p', 'TPU v6 lite', 'TPU7x'])
def test_tpu_peaks_agree_with_jax(kind):
    from jax._src.pallas.mosaic import tpu_info  # not public, but the only table there is

    chip = tpu_info.chip_version_from_device_kind(kind)
    cores = 2 if chip.supports_megacore else 1
    peak = tpu_info._get_tpu_info_impl(chip, cores).bf16_ops_per_second * cores
    # jax rounds to two or three digits, and for v3 it has 140 where Google's documentation has 123
    assert peak_flops(kind, 'bfloat16') == pytest.approx(peak, rel=0.15 if kind == 'TPU v3' else 0.03)


def test_utilisation_by_hand():
    assert model_flops_utilisation(Work(3e9, 4, 1e12), 500.0) == pytest.approx(500 * 3e9 / 4e12)
    assert model_flops_utilisation(Work(3e9, 4, None), 500.0) is None
    assert model_flops_utilisation(None, 500.0) is None


def test_memory():
    def device(stats):
        return types.SimpleNamespace(memory_stats=lambda: stats)

    full, fuller = ({'bytes_in_use': n, 'peak_bytes_in_use': 2 * n} for n in (10, 20))
    assert device_memory([device(full), device(fuller), device(None)]) == (20, 40)
    assert device_memory([device(None), device({'bytes_in_use': 5})]) is None
    assert device_memory(jax.devices('cpu')) is None
    before, held = host_memory(), np.ones(2**25)  # 256 MiB
    assert host_memory() - before == pytest.approx(held.nbytes, rel=0.2)  # the process has other things to do too


COUNTED = """
import types
import jax, jax.numpy as jnp
from jeffnet.train import hardware
from jeffnet.train.mesh import data_mesh, everywhere, split
from jeffnet.train.step import zeros

mesh = data_mesh()

def step(state, totals, batch):
    parts = batch['image'].reshape(2, 32, -1)
    add = lambda total, part: (total + (part @ state).sum(), None)
    return jax.lax.scan(add, jnp.float32(0), parts)[0]

step = jax.jit(step, out_shardings=everywhere(mesh))
config = types.SimpleNamespace(batch_size=64, in_chans=3, dtype='float32', accumulation_steps=2)
state = jax.device_put(jnp.ones((48, 100)), everywhere(mesh))
stages = [(0, types.SimpleNamespace(image_size=(4, 4)))]
plan = types.SimpleNamespace(config=config, mesh=mesh, stages=stages, state=state, train_step=step)
assert hardware.work_of(plan) is None  # no peak of a CPU
hardware.PEAK_TFLOPS['cpu'] = (1, 1, 1)
work = hardware.work_of(plan)
batch = split(mesh, {'image': jnp.ones((64, 4, 4, 3)), 'label': jnp.zeros(64, jnp.int32)})
compiled = jax.jit(lambda x: jnp.tanh(x.reshape(64, -1) @ state)).lower(batch['image']).compile().cost_analysis()
print(work.flops_per_image, work.devices, work.peak_flops, compiled['flops'])
plan.stages *= 2
assert hardware.work_of(plan) is None  # images change their size
"""


def test_work_is_of_the_whole_batch_on_any_number_of_devices():
    flags = {'XLA_FLAGS': '--xla_force_host_platform_device_count=8', 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run(
        [sys.executable, '-c', COUNTED], capture_output=True, text=True, cwd=ROOT, env={**os.environ, **flags}
    )
    assert done.returncode == 0, done.stderr
    flops, devices, peak, compiled = map(float, done.stdout.split())
    expected = 2 * 48 * 100  # a product of [1, 48] and [48, 100]; sums and the like come on top
    assert (devices, peak) == (8, 1e12) and flops == pytest.approx(expected, rel=0.02)
    assert compiled == pytest.approx(64 * expected / 8, rel=0.02)  # of one device, why work_of does not take it
