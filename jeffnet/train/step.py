"""The two compiled functions of training: one step of the optimizer, and the counts of one validation batch.

Under `jit` over a mesh a batch is one batch: batch norm takes its statistics over all devices, and the results do not
depend on their number.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from jeffnet.train.losses import cross_entropy
from jeffnet.train.mesh import everywhere
from jeffnet.train.metrics import Totals, count
from jeffnet.train.state import TrainState

Batch = dict[str, jax.Array]


def make_train_step(
    module: Any, optimizer: optax.GradientTransformation, mesh: Mesh, *, seed: int, smoothing: float = 0.0
) -> Callable[[TrainState, Totals, Batch], tuple[TrainState, Totals]]:
    """A compiled function from state, totals and a batch to the next state and the totals with this batch counted in.

    The old state's memory is reused. Step t draws its random keys from `fold_in(key(seed), t)`.
    """

    def forward(params, batch_stats, images, key):  # the lines that know the framework
        variables = {'params': params, 'batch_stats': batch_stats}
        logits, changed = module.apply(variables, images, training=True, mutable=['batch_stats'], rngs={'dropout': key})
        return logits, changed.get('batch_stats', {})

    def train_step(state, totals, batch):
        key = jax.random.fold_in(jax.random.key(seed), state.step)

        def objective(params):
            logits, batch_stats = forward(params, state.batch_stats, batch['image'], key)
            losses = cross_entropy(logits, batch['label'], smoothing)
            return losses.mean(), (logits, losses, batch_stats)

        grads, (logits, losses, batch_stats) = jax.grad(objective, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        counted = count(logits, batch['label'], losses)
        return TrainState(state.step + 1, params, batch_stats, opt_state), jax.tree.map(jax.numpy.add, totals, counted)

    return jax.jit(train_step, donate_argnums=0, out_shardings=everywhere(mesh))


def make_eval_step(module: Any, mesh: Mesh) -> Callable[[dict, Totals, Batch], Totals]:
    """A compiled function from a model's variables, totals and a batch with a mask to the totals with it counted in."""

    def eval_step(variables, totals, batch):
        logits = module.apply(variables, batch['image'], training=False)
        counted = count(logits, batch['label'], cross_entropy(logits, batch['label']), batch['mask'])
        return jax.tree.map(jax.numpy.add, totals, counted)

    return jax.jit(eval_step, out_shardings=everywhere(mesh))
