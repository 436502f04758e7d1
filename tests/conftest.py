"""Import order for all tests: torchvision (with timm) before tensorflow; a random network and a hub on this machine.

The other order ends the process, because both bring an LLVM of their own (the pair tensorflow 2.21 and triton 3.9).
"""

import time

import numpy as np
import pytest
import timm  # noqa: F401  for its place in the order of imports
import torch
from safetensors.numpy import save_file

from benchmarks import torch_reference
from tests.hub_server import HubServer
from tests.record_sets import arrays, imagenet, prepared  # noqa: F401  fixtures

# One thread: beside JAX's own threads and other test processes, PyTorch's would spin for each other.
torch.set_num_threads(1)

SMALL = 'pt_mnasnet_small'  # the smallest network, with every kind of array but MixConv's


@pytest.fixture(scope='session')
def state():
    """The state dict of timm's random SMALL, statistics, scales and biases included, as NumPy arrays."""
    return {k: v.numpy() for k, v in torch_reference.reference(SMALL).state_dict().items()}


@pytest.fixture(scope='session')
def write():
    """Writes a state dict as a .safetensors file."""

    def write(state, path, metadata=None):
        save_file({k: np.asarray(v, order='C') for k, v in state.items()}, path, metadata=metadata)
        return path

    return write


@pytest.fixture
def server():
    """A Hugging Face hub on this machine, without repositories."""
    with HubServer() as running:
        yield running


@pytest.fixture
def cache(server, tmp_path, monkeypatch):
    """The hub library of this process pointed at the server and an empty cache, with short times; the cache."""
    import huggingface_hub
    from huggingface_hub import constants

    settings = {
        'ENDPOINT': server.url,
        'HUGGINGFACE_CO_URL_TEMPLATE': server.url + '/{repo_id}/resolve/{revision}/{filename}',
        'HF_HUB_CACHE': str(tmp_path / 'cache'),
        'HF_TOKEN_PATH': str(tmp_path / 'token'),
        'HF_HUB_ETAG_TIMEOUT': 0.3,
        'HF_HUB_DOWNLOAD_TIMEOUT': 0.1,
        'HF_HUB_DISABLE_XET': True,  # the server has none, and an upload would insist on it
        'HF_HUB_DISABLE_TELEMETRY': True,
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.delenv('HF_TOKEN', raising=False)
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)  # the library's pauses before it tries again
    yield tmp_path / 'cache'
    huggingface_hub.close_session()
