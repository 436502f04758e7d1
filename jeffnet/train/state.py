"""TrainState: all that training changes, in one tree."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a step reads and writes; random keys are not part of it, they follow from seed and step."""

    step: jax.Array  # int32, steps done
    params: Any
    batch_stats: Any
    opt_state: optax.OptState

    @classmethod
    def create(cls, variables: dict, optimizer: optax.GradientTransformation) -> 'TrainState':
        """The state before the first step, from a model's `{'params': ..., 'batch_stats': ...}`."""
        params = variables['params']
        return cls(jnp.zeros((), jnp.int32), params, variables.get('batch_stats', {}), optimizer.init(params))

    @property
    def variables(self) -> dict:
        """The model's variables, as `module.apply` takes them."""
        return {'params': self.params, 'batch_stats': self.batch_stats}
