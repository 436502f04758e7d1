"""Steps of training on 8 devices, in a process of its own: the number of devices is fixed when JAX starts.

Prints a JSON object: for each case the losses of four steps and a digest of the parameters after them.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

import jeffnet
from jeffnet import linen, nnx, objax
from jeffnet.train.mesh import shardings, split
from jeffnet.train.optimizers import make_optimizer
from jeffnet.train.schedules import make_schedule
from jeffnet.train.state import TrainState
from jeffnet.train.step import Recipe, make_train_step, zeros
from tests.tiny_model import register

BACK_ENDS = {'linen': linen, 'nnx': nnx, 'objax': objax}
STEPS, BATCH, CLASSES = 4, 16, 5
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(STEPS, BATCH, 32, 32, 3)).astype(np.float32)
LABELS = RNG.integers(0, CLASSES, (STEPS, BATCH)).astype(np.int32)
RECIPE = Recipe(
    label_smoothing=0.1, ema_decay=0.9, mixing={'mixup_alpha': 0.3, 'cutmix_alpha': 1.0}, erasing={'prob': 0.5},
)  # fmt: skip


def steps(devices=1, framework='linen', sharding='replicated', recipe=RECIPE, images=IMAGES, batches=STEPS, **options):
    """Losses of each step, and the state after them."""
    mesh = jax.make_mesh((devices,), ('data',), (AxisType.Auto,), devices=jax.devices()[:devices])
    scale, decay = options.pop('loss_scale', None), options.pop('weight_decay', 1e-4)
    options = {'num_classes': CLASSES, 'drop_rate': 0.0, **options}
    # Swish is smooth: a ReLU that switches makes much of a rounding error.
    made = jeffnet.create_model(register('tf_tiny'), framework=framework, **options)
    network, params, stats = BACK_ENDS[framework].functional(*(made if isinstance(made, tuple) else (made, None)))
    optimizer = make_optimizer('momentum', weight_decay=decay)
    schedule = make_schedule('cosine', peak=0.05, total_steps=40, warmup_steps=1)
    state = TrainState.create(params, stats, optimizer, ema=recipe.ema_decay > 0, loss_scale=scale)
    placed = shardings(mesh, state, sharding, 200)
    state = jax.device_put(state, placed)
    step = make_train_step(network, optimizer, schedule, recipe, classes=CLASSES, mesh=mesh, shardings=placed)
    losses = []
    for i in range(batches):
        totals = zeros(mesh)
        batch = {'image': images[i % STEPS], 'label': LABELS[i % STEPS]}
        state, totals = step(state, totals, split(mesh, batch))
        losses.append(float(totals['loss']) / BATCH)
    return losses, jax.device_get(state)


def largest(a, b):
    """The largest difference of two trees, relative to the largest value of each array."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(x - y).max() / (np.abs(x).max() + 1e-3)) for x, y in pairs)


def differences():
    """By case, the largest difference from one device."""
    losses, one = steps()
    found, trees = {}, (one.params, one.batch_stats, one.ema)
    cases = {
        '8 devices': {'devices': 8},
        'fsdp': {'devices': 8, 'sharding': 'fsdp'},
        'nnx': {'framework': 'nnx', 'devices': 8},
        'objax': {'framework': 'objax', 'devices': 8},
        'remat': {'recipe': dataclasses.replace(RECIPE, remat='blocks')},
    }
    for name, case in cases.items():
        others, state = steps(**case)
        found[name] = max(largest(trees, (state.params, state.batch_stats, state.ema)), largest(losses, others))
    # Each device's part is a group; on one device, groups of that size are the same.
    groups = steps(bn_group_size=2)[1]
    found['replica'] = largest(groups.params, steps(devices=8, bn_group_size=2)[1].params)
    found['groups are not global'] = largest(groups.params, one.params)
    # Parts of a batch: the same gradients where nothing looks across examples but batch norm, which is frozen.
    plain = dataclasses.replace(RECIPE, erasing={})
    whole = steps(recipe=plain, bn_frozen=True)[1]
    parts = steps(recipe=dataclasses.replace(plain, accumulation_steps=4), devices=4, bn_frozen=True)[1]
    found['accumulation'] = largest(whole.params, parts.params)
    some = dataclasses.replace(RECIPE, frozen=frozenset({'conv_stem.kernel'}))
    gradient_free = steps(recipe=some, weight_decay=0.0)[1].opt_state  # momentum stays 0 without a gradient
    found['frozen'] = max(float(np.abs(x).max()) for x in jax.tree.leaves(gradient_free) if np.shape(x) == (3, 3, 3, 8))
    found['frozen statistics'] = largest(whole.batch_stats, steps(batches=0)[1].batch_stats)
    return found


def not_finite():
    """What a batch with a NaN leaves alone, and that training goes on."""
    broken = IMAGES.copy()
    broken[1, 3, 0, 0, 0] = np.nan
    before, after = steps(batches=1)[1], steps(batches=2, images=broken)[1]
    fields = ('params', 'batch_stats', 'opt_state', 'ema')
    untouched = all(
        np.array_equal(x, y)
        for field in fields
        for x, y in zip(jax.tree.leaves(getattr(before, field)), jax.tree.leaves(getattr(after, field)), strict=True)
        if not (field == 'opt_state' and np.ndim(x) == 0)  # the injected rate
    )
    losses, later = steps(batches=4, images=broken)
    counts = [int(x) for x in (after.step, after.skipped, after.skipped_in_row, later.skipped, later.skipped_in_row)]
    return {'untouched': untouched, 'counts': counts, 'finite': bool(np.isfinite(losses[2:]).all())}


def half():
    """Training in float16 with a loss scale far too high at first, and in bfloat16."""
    found = {}
    for dtype, scale in ((jnp.float16, 2.0**24), (jnp.bfloat16, None)):
        recipe = Recipe(loss_scale_growth=50)
        losses, state = steps(dtype=dtype, loss_scale=scale, recipe=recipe, batches=24)
        kinds = {str(x.dtype) for x in jax.tree.leaves((state.params, state.batch_stats, state.ema))}
        found[jnp.dtype(dtype).name] = {
            'skipped': int(state.skipped),
            'scale': state.loss_scale and float(state.loss_scale.scale),
            'kinds': sorted(kinds),
            'loss': float(np.mean(losses[-4:])),
        }
    found['float32'] = {'loss': float(np.mean(steps(batches=24, recipe=Recipe())[0][-4:]))}
    return found


if __name__ == '__main__':
    print(json.dumps({'differences': differences(), 'not_finite': not_finite(), 'half': half()}))
