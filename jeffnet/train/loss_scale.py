"""Dynamic loss scaling, so that small gradients survive float16 (Micikevicius et al., 2018)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

HIGHEST = 2.0**24  # without a cap a long run of finite steps would double the scale to infinity


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LossScale:
    """The factor on the loss, and how many steps in a row it has served."""

    scale: jax.Array  # float32
    good_steps: jax.Array  # int32

    @classmethod
    def create(cls, scale: float) -> 'LossScale':
        """A new scale."""
        return cls(jnp.float32(scale), jnp.int32(0))

    def updated(self, finite: jax.Array, growth_steps: int) -> 'LossScale':
        """Doubled after `growth_steps` finite steps in a row, up to 2^24; halved after one that was not, down to 1."""
        good = jnp.where(finite, self.good_steps + 1, 0)
        grows = good >= growth_steps
        higher = jnp.where(grows, jnp.minimum(self.scale * 2, HIGHEST), self.scale)
        scale = jnp.where(finite, higher, jnp.maximum(self.scale / 2, 1.0))
        return LossScale(scale, jnp.where(grows, 0, good))
