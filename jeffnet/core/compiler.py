"""Options of XLA's compiler, where its choice by itself is the slower one."""

from functools import cache
from typing import Any

import jax

# XLA's CPU back end hands products, convolutions and sums to a newer library, YNNPACK, in some versions. Forward, the
# older one (Eigen) is up to twice as fast at all of them. Backward, the newer one is, at sums and transposed products.
LIBRARY = 'xla_cpu_experimental_ynn_fusion_type'
# It uses half of the width of AVX-512 unless told otherwise: EfficientNet-B0 takes 1.2 times as long. Processors with
# narrower vectors do not mind.
WIDTH = ('xla_cpu_prefer_vector_width', 512)
FORWARD = ((LIBRARY, ''), WIDTH)
TRAINING = ((LIBRARY, 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE'), WIDTH)


@cache
def options(platform: str, wanted: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """The compiler options for programs on this platform: on CPUs those wanted that this version of XLA knows."""
    return {name: value for name, value in wanted if platform == 'cpu' and known(name, value)}


def known(name: str, value: Any) -> bool:
    """Whether XLA takes this option."""
    try:
        jax.jit(lambda x: x, compiler_options={name: value}).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
