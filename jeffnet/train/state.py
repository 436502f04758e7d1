"""TrainState: all that training changes, in one tree."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from jeffnet.train.loss_scale import LossScale
from jeffnet.train.plateau import Plateau

Flat = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a step reads and writes; random keys are not part of it, they follow from seed and step.

    Parameters and statistics are flat dicts by name, so that a state does not depend on the framework.
    """

    step: jax.Array  # int32, steps done, skipped ones included
    data_step: jax.Array  # int32, batches read; behind `step` never, ahead of it after a roll-back
    params: Flat
    batch_stats: Flat
    opt_state: optax.OptState
    ema: dict[str, Flat]  # 'params' and 'batch_stats'; empty without averages
    loss_scale: LossScale | None  # None: no scaling
    plateau: Plateau
    skipped: jax.Array  # int32, steps that were not finite
    skipped_in_row: jax.Array  # int32, of these the last ones

    @classmethod
    def create(
        cls,
        params: Flat,
        batch_stats: Flat,
        optimizer: optax.GradientTransformation,
        *,
        ema: bool = False,
        loss_scale: float | None = None,
    ) -> 'TrainState':
        """The state before the first step."""
        averages = {'params': jax.tree.map(jnp.copy, params), 'batch_stats': jax.tree.map(jnp.copy, batch_stats)}
        return cls(
            step=jnp.int32(0),
            data_step=jnp.int32(0),
            params=params,
            batch_stats=batch_stats,
            opt_state=optimizer.init(params),
            ema=averages if ema else {},
            loss_scale=LossScale.create(loss_scale) if loss_scale else None,
            plateau=Plateau.create(),
            skipped=jnp.int32(0),
            skipped_in_row=jnp.int32(0),
        )

    def weights(self, average: bool = False) -> tuple[Flat, Flat]:
        """Parameters and statistics, or their averages."""
        return (self.ema['params'], self.ema['batch_stats']) if average else (self.params, self.batch_stats)
