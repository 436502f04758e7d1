"""Learning-rate schedules by name: a linear warm-up, a shape, a cool-down."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Shape = Callable[[jax.Array], jax.Array]
Schedule = Callable[[jax.typing.ArrayLike], jax.Array]


@dataclass(frozen=True)
class Span:
    """What a shape is drawn in: the highest rate, the number of its steps, the steps of an epoch."""

    peak: float
    steps: int
    epoch: float


def constant(span: Span) -> Shape:
    """The peak throughout."""
    return lambda t: jnp.full(jnp.shape(t), span.peak, jnp.float32)


def step(span: Span, *, decay_rate: float, decay_epochs: float, staircase: bool) -> Shape:
    """Times `decay_rate` every `decay_epochs`, at once or (`staircase=False`) evenly."""
    if not staircase:
        return exponential(span, decay_rate=decay_rate, decay_epochs=decay_epochs, min_rate=0.0)
    count = math.ceil(span.steps / (decay_epochs * span.epoch))
    return steps_down(span, np.arange(1, count + 1) * decay_epochs, decay_rate)


def multistep(span: Span, *, milestones: tuple[float, ...], decay_rate: float) -> Shape:
    """Times `decay_rate` at each of `milestones`, in epochs."""
    return steps_down(span, np.sort(np.asarray(milestones, np.float64)), decay_rate)


def exponential(span: Span, *, decay_rate: float, decay_epochs: float, min_rate: float) -> Shape:
    """Evenly times `decay_rate` in `decay_epochs`, never below `min_rate`."""
    slope = math.log(decay_rate) / (decay_epochs * span.epoch)
    return lambda t: jnp.maximum(span.peak * jnp.exp(slope * t), min_rate)


def cosine(span: Span, *, min_rate: float, k: float) -> Shape:
    """Half a cosine from the peak to `min_rate` (Loshchilov & Hutter, 2017); `k` bends it (Zhang & Li, 2020)."""
    return lambda t: half_cosine(span.peak, min_rate, share(t, span.steps), k)


def cosine_restarts(
    span: Span, *, min_rate: float, k: float, cycle_epochs: float, cycle_mult: float, cycle_decay: float
) -> Shape:
    """Half cosines, each `cycle_mult` times as long and `cycle_decay` times as high as the one before."""
    lengths, ends = [cycle_epochs * span.epoch], [cycle_epochs * span.epoch]  # in steps
    while ends[-1] < span.steps:
        lengths.append(lengths[-1] * cycle_mult)
        ends.append(ends[-1] + lengths[-1])
    peaks = span.peak * cycle_decay ** np.arange(len(ends))
    starts = np.array([0.0, *ends[:-1]])

    def rate(t):
        cycle = done(ends[:-1], t)
        within = t - constants(starts)[cycle]
        return half_cosine(constants(peaks)[cycle], min_rate, share(within, constants(lengths)[cycle]), k)

    return rate


def poly(span: Span, *, power: float, min_rate: float) -> Shape:
    """From the peak to `min_rate` as a power of the share that is left; 1 is a line."""
    return lambda t: min_rate + (span.peak - min_rate) * (1 - share(t, span.steps)) ** power


def rsqrt(span: Span, *, timescale: float) -> Shape:
    """The peak over the square root of 1 + t / `timescale`, in steps: big_vision's, made to be cooled down anywhere."""
    return lambda t: span.peak / jnp.sqrt(1 + t / timescale)


def steps_down(span: Span, epochs: np.ndarray, decay_rate: float) -> Shape:
    """The peak times `decay_rate` to the power of the number of `epochs` that are over."""
    rates = span.peak * decay_rate ** np.arange(len(epochs) + 1)
    return lambda t: constants(rates)[done(epochs * span.epoch, t)]


def done(ends, t: jax.Array) -> jax.Array:
    """How many of the sorted `ends`, in steps, step `t` has reached."""
    # In whole numbers: a float32 quotient may round to the other side of an end. The margin forgives 3 * 0.4 * 10 > 12.
    whole = np.ceil(np.asarray(ends, np.float64) - 1e-6)
    return jnp.searchsorted(constants(whole), t, side='right')


def half_cosine(peak, low: float, share: jax.Array, k: float) -> jax.Array:
    """From `peak` to `low` as `share` goes from 0 to 1."""
    return low + 0.5 * (peak - low) * (1 + jnp.cos(math.pi * share**k))


def share(t: jax.Array, steps) -> jax.Array:
    """How much of `steps` is done, from 0 to 1."""
    return jnp.clip(t / steps, 0, 1)


def constants(values) -> jax.Array:
    """As float32; made at each call, since an array made under `jit` must not outlive it."""
    return jnp.asarray(values, jnp.float32)


# Each shape with its options and their defaults. `count_from` says whether its steps are counted from the `start` of
# training, under the warm-up, as TensorFlow's recipes and timm's script do, or from `warmup_end`.
SCHEDULES: dict[str, tuple[Callable[..., Shape], dict[str, Any]]] = {
    'constant': (constant, {}),
    'step': (step, {'decay_rate': 0.97, 'decay_epochs': 2.4, 'staircase': True, 'count_from': 'start'}),
    'multistep': (multistep, {'milestones': (30, 60, 80), 'decay_rate': 0.1, 'count_from': 'start'}),
    'cosine': (cosine, {'min_rate': 0.0, 'k': 1.0, 'count_from': 'warmup_end'}),
    'cosine_restarts': (
        cosine_restarts,
        {'min_rate': 0.0, 'k': 1.0, 'cycle_epochs': 10.0, 'cycle_mult': 1.0, 'cycle_decay': 1.0}
        | {'count_from': 'warmup_end'},
    ),
    'poly': (poly, {'power': 1.0, 'min_rate': 0.0, 'count_from': 'warmup_end'}),
    'exponential': (
        exponential,
        {'decay_rate': 0.97, 'decay_epochs': 2.4, 'min_rate': 0.0, 'count_from': 'warmup_end'},
    ),
    'rsqrt': (rsqrt, {'timescale': 10000.0, 'count_from': 'warmup_end'}),
    'plateau': (constant, {}),  # plateau.py has the factor that evaluations lower
}
# Of every schedule: the rate at the end of a `linear` cool-down; `hold` keeps the rate that the shape ends with.
COOLDOWN = {'cooldown': 'linear', 'cooldown_rate': 0.0}

RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    'staircase': (lambda value: isinstance(value, bool), 'true, false'),
    'count_from': (lambda value: value in ('start', 'warmup_end'), 'start, warmup_end'),
    'cooldown': (lambda value: value in ('linear', 'hold'), 'linear, hold'),
    'milestones': (
        lambda value: isinstance(value, (list, tuple)) and all(is_number(end) and end > 0 for end in value),
        'a list of epochs above 0',
    ),
    'cycle_mult': (lambda value: is_number(value) and value >= 1, '1 or more'),
    'min_rate': (lambda value: is_number(value) and value >= 0, '0 or more'),
    'cooldown_rate': (lambda value: is_number(value) and value >= 0, '0 or more'),
}
ABOVE_0 = (lambda value: is_number(value) and value > 0, 'above 0')  # of every other option


def make_schedule(
    name: str,
    *,
    peak: float,
    total_steps: int,
    steps_per_epoch: float = 1.0,
    warmup_steps: int = 0,
    warmup_start: float = 0.0,
    cooldown_steps: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Schedule:
    """A function from the number of steps done, of any shape, to the learning rate in float32.

    The rate rises linearly from `warmup_start` to `peak` in `warmup_steps`; the shape ends `cooldown_steps` before
    `total_steps`. Raises ValueError for an unknown name or option, a bad value, and steps that do not fit.
    """
    values = checked_options(name, options or {})
    if warmup_steps < 0 or cooldown_steps < 0 or warmup_steps + cooldown_steps >= total_steps:
        raise ValueError(
            f'a warm-up of {warmup_steps} and a cool-down of {cooldown_steps} steps do not fit into {total_steps} steps'
        )
    cooldown, cooldown_rate = values.pop('cooldown'), values.pop('cooldown_rate')
    start = warmup_steps if values.pop('count_from', 'start') == 'warmup_end' else 0
    end = total_steps - cooldown_steps
    shape = SCHEDULES[name][0](Span(peak, end - start, steps_per_epoch), **values)

    def schedule(steps_done):
        t = jnp.asarray(steps_done, jnp.float32)  # exact up to 2**24 steps
        rate = shape(jnp.clip(t, warmup_steps, end) - start)
        if cooldown_steps and cooldown == 'linear':
            rate += share(t - end, cooldown_steps) * (cooldown_rate - rate)
        if warmup_steps:
            rate = jnp.where(t < warmup_steps, warmup_start + (peak - warmup_start) * t / warmup_steps, rate)
        return jnp.asarray(rate, jnp.float32)

    return schedule


def checked_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a schedule with the defaults of those not given; ValueError for what it has not or cannot be."""
    if name not in SCHEDULES:
        raise ValueError(f'unknown schedule {name!r}: expected one of {", ".join(SCHEDULES)}')
    values = SCHEDULES[name][1] | COOLDOWN
    for key in options:
        if key not in values:
            raise ValueError(f'schedule {name} has no option {key!r}; allowed: {", ".join(values)}')
        allowed, meaning = RULES.get(key, ABOVE_0)
        if not allowed(options[key]):
            raise ValueError(f'option {key} of schedule {name} is {options[key]!r}; allowed: {meaning}')
    return values | dict(options)


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def table(schedule: Schedule, total_steps: int, points: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Steps done and their rates, at most `points` of each and evenly spread, for a plot."""
    steps = np.unique(np.linspace(0, total_steps - 1, min(points, total_steps)).round().astype(np.int64))
    return steps, np.asarray(schedule(steps))
