"""Learning-rate schedules by name: a shape after a linear warm-up."""

import optax


def constant(peak: float, steps: int) -> optax.Schedule:
    """`peak` throughout."""
    return optax.constant_schedule(peak)


def cosine(peak: float, steps: int) -> optax.Schedule:
    """Half a cosine from `peak` to 0 in `steps` (Loshchilov & Hutter, 2017, without restarts)."""
    return optax.cosine_decay_schedule(peak, steps)


SCHEDULES = {'constant': constant, 'cosine': cosine}


def make_schedule(name: str, *, peak: float, total_steps: int, warmup_steps: int = 0) -> optax.Schedule:
    """A function from the number of steps done to the learning rate.

    The rate rises linearly from 0 to `peak` in `warmup_steps`; the shape fills what is left of `total_steps`.
    Raises ValueError for an unknown name and for a warm-up that leaves nothing.
    """
    if name not in SCHEDULES:
        raise ValueError(f'unknown schedule {name!r}: expected one of {", ".join(SCHEDULES)}')
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f'a warm-up of {warmup_steps} steps does not fit into {total_steps} steps')
    shape = SCHEDULES[name](peak, total_steps - warmup_steps)
    if not warmup_steps:
        return shape
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), shape], [warmup_steps])
