"""Import order for all tests: torchvision (with timm) before tensorflow. And the random network of the weights tests.

The other order ends the process, because both bring an LLVM of their own (the pair tensorflow 2.21 and triton 3.9).
"""

import numpy as np
import pytest
import timm  # noqa: F401
import torch
from safetensors.numpy import save_file

from benchmarks import parity

# One thread: beside JAX's own threads and other test processes, PyTorch's would spin for each other.
torch.set_num_threads(1)

SMALL = 'pt_mnasnet_small'  # the smallest network, with every kind of array but MixConv's


@pytest.fixture(scope='session')
def state():
    """The state dict of timm's random SMALL, statistics, scales and biases included, as NumPy arrays."""
    return {k: v.numpy() for k, v in parity.reference(SMALL).state_dict().items()}


@pytest.fixture(scope='session')
def write():
    """Writes a state dict as a .safetensors file."""

    def write(state, path, metadata=None):
        save_file({k: np.asarray(v, order='C') for k, v in state.items()}, path, metadata=metadata)
        return path

    return write
