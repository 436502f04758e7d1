"""The two compiled functions of training: one step of the optimizer, and the counts of one validation batch.

Under `jit` over a mesh a batch is one batch: statistics of batch norm, mixing and losses do not depend on the number of
devices or processes, unless `batch_norm` asks for groups.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jeffnet.core import compiler
from jeffnet.train.averages import ema_decay, updated
from jeffnet.train.erasing import erase
from jeffnet.train.losses import binary_cross_entropy, cross_entropy, l2_loss, softmax_cross_entropy, targets
from jeffnet.train.mesh import everywhere
from jeffnet.train.metrics import Totals, count
from jeffnet.train.mixing import mix
from jeffnet.train.optimizers import set_learning_rate
from jeffnet.train.schedules import Schedule
from jeffnet.train.state import TrainState

Batch = dict[str, jax.Array]
# `functional` of a back end: (params, stats, images, key or None) -> (logits, stats)
Network = Callable[..., tuple[jax.Array, dict]]
REMAT = {
    'none': None,
    'blocks': jax.checkpoint_policies.save_only_these_names('block'),  # the models name the outputs of their blocks
    'full': jax.checkpoint_policies.nothing_saveable,
    'dots': jax.checkpoint_policies.dots_saveable,
}


@dataclass(frozen=True)
class Recipe:
    """What a step does apart from model, optimizer and schedule; see `config.py` for the meaning of each field."""

    seed: int = 0
    loss: str = 'softmax'
    label_smoothing: float = 0.0
    bce: dict = field(default_factory=dict)  # keywords of `binary_cross_entropy`
    l2: float = 0.0
    l2_mask: str = 'weights'
    mixing: dict = field(default_factory=dict)  # keywords of `mix`; empty: none
    mixing_steps: int | None = None  # from this step on there is none; None: always
    erasing: dict = field(default_factory=dict)  # keywords of `erase`; empty: none
    accumulation_steps: int = 1
    frozen: frozenset[str] = frozenset()  # names of parameters that are not trained
    ema_decay: float = 0.0
    ema_warmup: str = 'tf'
    loss_scale_growth: int = 2000
    remat: str = 'none'


def zeros(mesh: Mesh) -> Totals:
    """Totals of no training steps."""
    whole, real = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32)
    totals = {'images': whole, 'top1': whole, 'top5': whole, 'loss': real, 'steps': whole, 'grad_norm': real}
    return jax.device_put(totals, everywhere(mesh))


def make_train_step(
    network: Network,
    optimizer: optax.GradientTransformationExtraArgs,
    schedule: Schedule,
    recipe: Recipe,
    *,
    classes: int,
    mesh: Mesh,
    shardings: TrainState,
) -> Callable[[TrainState, Totals, Batch], tuple[TrainState, Totals]]:
    """A compiled function from state, totals and a batch to the next state and the totals with this batch counted in.

    The old state's memory is reused. The step after t batches draws its random keys from `fold_in(key(seed), t)`. A
    step whose loss or gradient is not finite changes nothing but the counters.
    """
    if recipe.remat != 'none':
        network = jax.checkpoint(network, policy=REMAT[recipe.remat])

    def objective(params, stats, part, key, scale):
        params = {n: jax.lax.stop_gradient(p) if n in recipe.frozen else p for n, p in params.items()}
        logits, stats = network(params, stats, part['image'], key)
        losses = loss_of(recipe, logits, part['targets'])
        whole = losses.mean()
        if recipe.l2:
            whole += recipe.l2 * l2_loss(params, recipe.l2_mask)
        return whole * scale, (logits, losses, stats)

    def train_step(state, totals, batch):
        # --- keys, targets, mixing
        keys = jax.random.split(jax.random.fold_in(jax.random.key(recipe.seed), state.data_step), 3)
        batch = prepared(recipe, batch, classes, state.step, keys[0], keys[1])

        # --- gradient
        scale = jnp.float32(1) if state.loss_scale is None else state.loss_scale.scale
        grads, (logits, losses, stats) = gradient(recipe, objective, state, batch, keys[2], scale)
        grads = jax.tree.map(lambda g: g / scale, grads)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(losses.mean())

        # --- update
        rate = schedule(state.step) * state.plateau.factor
        opt_state = set_learning_rate(state.opt_state, rate)
        updates, opt_state = optimizer.update(grads, opt_state, state.params)
        new = replace(state, params=optax.apply_updates(state.params, updates), batch_stats=stats, opt_state=opt_state)
        if recipe.ema_decay:
            keep = ema_decay(state.step - state.skipped, recipe.ema_decay, recipe.ema_warmup)
            new = replace(new, ema=updated(state.ema, {'params': new.params, 'batch_stats': stats}, keep))

        # --- a step that is not finite is skipped whole
        new = jax.tree.map(lambda n, old: jnp.where(finite, n, old), new, state)
        new = replace(
            new,
            step=state.step + 1,
            data_step=state.data_step + 1,
            skipped=state.skipped + ~finite,
            skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
            loss_scale=state.loss_scale and state.loss_scale.updated(finite, recipe.loss_scale_growth),
        )
        counted = count(logits, batch['label'], losses) | {'steps': jnp.int32(1), 'grad_norm': norm}
        return new, jax.tree.map(lambda total, one: total + jnp.where(finite, one, 0), totals, counted)

    return jax.jit(
        train_step,
        donate_argnums=0,
        out_shardings=(shardings, everywhere(mesh)),
        compiler_options=compiler.options(mesh.devices.flat[0].platform, compiler.TRAINING),
    )


def prepared(recipe: Recipe, batch: Batch, classes: int, step, mix_key, erase_key) -> Batch:
    """The batch with `targets` [N, classes], erased and mixed as the recipe says."""
    images, wanted = batch['image'], targets(batch['label'], classes, recipe.label_smoothing)
    if recipe.erasing:
        images = erase(erase_key, images, **recipe.erasing)
    if recipe.mixing:
        mixed = mix(mix_key, images, wanted, **recipe.mixing)
        mixes = True if recipe.mixing_steps is None else step < recipe.mixing_steps
        images, wanted = (jnp.where(mixes, new, old) for new, old in zip(mixed, (images, wanted), strict=True))
    return {'image': images, 'label': batch['label'], 'targets': wanted}


def loss_of(recipe: Recipe, logits, targets):
    """The loss of each example [N], float32."""
    if recipe.loss == 'bce':
        return binary_cross_entropy(logits, targets, **recipe.bce)
    return softmax_cross_entropy(logits, targets)


def gradient(recipe: Recipe, objective: Callable, state: TrainState, batch: Batch, key, scale):
    """Gradients, float32, and (logits, losses, statistics) of the batch, in `accumulation_steps` parts after another.

    Part i holds the examples i, i + n, ... so that each device splits its own; batch norm sees one part at a time.
    """
    derivative = jax.grad(objective, has_aux=True)
    n = recipe.accumulation_steps
    if n == 1:
        return derivative(state.params, state.batch_stats, batch, key, scale)
    parts = jax.tree.map(lambda x: x.reshape(-1, n, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(carry, part):
        total, stats = carry
        i, examples = part
        grads, (logits, losses, stats) = derivative(state.params, stats, examples, jax.random.fold_in(key, i), scale)
        return (jax.tree.map(lambda t, g: t + g.astype(jnp.float32), total, grads), stats), (logits, losses)

    start = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), state.params)
    (total, stats), outputs = jax.lax.scan(add, (start, state.batch_stats), (jnp.arange(n), parts))
    logits, losses = (x.swapaxes(0, 1).reshape(-1, *x.shape[2:]) for x in outputs)
    return jax.tree.map(lambda t: t / n, total), (logits, losses, stats)


def make_eval_step(network: Network, mesh: Mesh) -> Callable[[Any, Any, Totals, Batch], Totals]:
    """A compiled function from parameters, statistics, totals and a batch with a mask to the totals with it counted."""

    def eval_step(params, stats, totals, batch):
        logits, _ = network(params, stats, batch['image'])
        counted = count(logits, batch['label'], cross_entropy(logits, batch['label']), batch['mask'])
        return jax.tree.map(jnp.add, totals, counted)

    options = compiler.options(mesh.devices.flat[0].platform, compiler.FORWARD)
    return jax.jit(eval_step, out_shardings=everywhere(mesh), compiler_options=options)


class Programs:
    """A compiled step for each shape of images, kept apart so that XLA's count of its work can be asked for."""

    def __init__(self, function: Callable):
        self.function, self.compiled = function, {}

    def __call__(self, state: TrainState, totals: Totals, batch: Batch) -> tuple[TrainState, Totals]:
        """Runs the step, compiled at the first call with images of this shape."""
        shape = batch['image'].shape
        if shape not in self.compiled:
            self.compiled[shape] = self.function.lower(state, totals, batch).compile()
        return self.compiled[shape](state, totals, batch)

    def flops_per_image(self, batch: Batch, devices: int) -> float | None:
        """What XLA counts for one image of such a batch; None where it does not count."""
        shape = batch['image'].shape
        counted = self.compiled[shape].cost_analysis() or {}  # of one device's program
        return counted['flops'] * devices / shape[0] if counted.get('flops', 0) > 0 else None
