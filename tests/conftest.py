"""Import order for all tests: torchvision (with timm) before tensorflow.

The other order ends the process, because both bring an LLVM of their own (the pair tensorflow 2.21 and triton 3.9).
"""

import timm  # noqa: F401
import torch

# One thread: beside JAX's own threads and other test processes, PyTorch's would spin for each other.
torch.set_num_threads(1)
