"""Lowering the learning rate when an evaluation stops getting better."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Plateau:
    """The factor on the learning rate and what it follows from: scalars, part of the training state."""

    factor: jax.Array  # float32, of the learning rate
    best: jax.Array  # float32, the best value so far
    bad: jax.Array  # int32, evaluations since the last better one; -1 before the first
    cooldown: jax.Array  # int32, evaluations that still do not count

    @classmethod
    def create(cls) -> 'Plateau':
        """The state before the first evaluation: factor 1."""
        return cls(jnp.float32(1), jnp.float32(0), jnp.int32(-1), jnp.int32(0))

    def update(
        self,
        value: jax.typing.ArrayLike,
        *,
        mode: str = 'max',
        patience: int = 10,
        decay: float = 0.1,
        cooldown: int = 0,
        min_factor: float = 0.0,
        threshold: float = 1e-4,
    ) -> 'Plateau':
        """The state after an evaluation that gave `value`, as `torch.optim.lr_scheduler.ReduceLROnPlateau`.

        After more than `patience` evaluations that are not better than the best by the share `threshold`, the factor is
        multiplied by `decay`, and the next `cooldown` evaluations do not count. Raises ValueError for another mode than
        max and min.
        """
        if mode not in ('max', 'min'):
            raise ValueError(f'mode is {mode!r}; allowed: max, min')
        value = jnp.asarray(value, jnp.float32)
        better = value > self.best * (1 + threshold) if mode == 'max' else value < self.best * (1 - threshold)
        better |= (self.bad < 0) | jnp.isnan(self.best)
        cooling = self.cooldown > 0
        bad = jnp.where(better | cooling, 0, self.bad + 1)
        lower = bad > patience
        return Plateau(
            factor=jnp.where(lower, jnp.maximum(self.factor * decay, min_factor), self.factor),
            best=jnp.where(better, value, self.best),
            bad=jnp.where(lower, 0, bad),
            cooldown=jnp.where(lower, cooldown, jnp.maximum(self.cooldown - 1, 0)),
        )
