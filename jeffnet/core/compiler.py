"""Options of XLA's compiler, where its choice by itself is the slower one."""

from functools import cache
from typing import Any

import jax

# XLA's CPU back end hands products, convolutions and sums to a newer library, YNNPACK, in some versions. Forward, the
# older one (Eigen) is up to twice as fast at all of them. Backward, the newer one is, at sums and transposed products.
LIBRARY = 'xla_cpu_experimental_ynn_fusion_type'
FORWARD = ((LIBRARY, ''),)
TRAINING = ((LIBRARY, 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE'),)


@cache
def options(platform: str, wanted: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """The compiler options for programs on this platform: on CPUs those wanted, if this version of XLA knows them."""
    if platform != 'cpu':
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=dict(wanted)).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return dict(wanted)
