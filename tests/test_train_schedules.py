"""Schedules against timm.scheduler, optax and closed forms; the plateau against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import timm.scheduler as timm_scheduler
import torch

from jeffnet.train.plateau import Plateau
from jeffnet.train.schedules import SCHEDULES, make_schedule, table

PEAK, START, WARMUP, TOTAL, EPOCH = 0.4, 0.01, 12, 120, 10
STEPS = np.arange(TOTAL)


def ours(name, warmup=WARMUP, **options):
    schedule = make_schedule(
        name, peak=PEAK, total_steps=TOTAL, steps_per_epoch=EPOCH, warmup_steps=warmup, warmup_start=START,
        options=options,
    )  # fmt: skip
    return np.asarray(schedule(STEPS))


def timms(kind, **keywords):
    """The rates of a timm scheduler that counts steps, after the same warm-up."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    warmup = {'warmup_t': WARMUP, 'warmup_lr_init': START, 't_in_epochs': False}
    scheduler = getattr(timm_scheduler, kind)(optimizer, **warmup | keywords)
    return np.array([scheduler._get_lr(int(step))[0] for step in STEPS])


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-7)  # float32, and its cosine near 0


# ------------------------------------------------------------------------------------------------ shapes


@pytest.mark.parametrize('prefix', [False, True])  # timm's word for counting from the end of the warm-up
@pytest.mark.parametrize('name', ['step', 'multistep', 'cosine', 'bent cosine', 'cosine_restarts', 'poly'])
def test_like_timm(name, prefix):
    steps = TOTAL - WARMUP if prefix else TOTAL
    count_from = {'count_from': 'warmup_end' if prefix else 'start', 'cooldown': 'hold'}
    keywords = {'warmup_prefix': prefix}
    match name:
        case 'step':
            found = ours('step', decay_rate=0.9, decay_epochs=2.4, **count_from)
            expected = timms('StepLRScheduler', decay_t=24, decay_rate=0.9, **keywords)
        case 'multistep':  # timm counts milestones one step early
            found = ours('multistep', milestones=[3, 6.5], decay_rate=0.3, **count_from)
            expected = timms('MultiStepLRScheduler', decay_t=[31, 66], decay_rate=0.3, **keywords)
        case 'cosine':
            found = ours('cosine', min_rate=0.02, **count_from)
            expected = timms('CosineLRScheduler', t_initial=steps, lr_min=0.02, **keywords)
        case 'bent cosine':
            found = ours('cosine', k=1.5, **count_from)
            expected = timms('CosineLRScheduler', t_initial=steps, k_decay=1.5, **keywords)
        case 'cosine_restarts':
            found = ours(
                'cosine_restarts', cycle_epochs=2, cycle_mult=1.5, cycle_decay=0.6, min_rate=0.02, **count_from
            )
            cycles = {'cycle_mul': 1.5, 'cycle_decay': 0.6, 'cycle_limit': 99}
            expected = timms('CosineLRScheduler', t_initial=20, lr_min=0.02, **cycles, **keywords)
        case 'poly':
            found = ours('poly', power=1.7, min_rate=0.02, **count_from)
            expected = timms('PolyLRScheduler', t_initial=steps, power=1.7, lr_min=0.02, **keywords)
    assert_close(found, expected)


def test_cosine_restarts_of_equal_length_like_optax():
    cycle = {'init_value': PEAK, 'peak_value': PEAK, 'warmup_steps': 0, 'decay_steps': 30, 'end_value': 0.02}
    expected = optax.sgdr_schedule([cycle] * 4)(STEPS)
    assert_close(ours('cosine_restarts', warmup=0, cycle_epochs=3, min_rate=0.02), expected)


def test_like_optax():
    assert_close(
        ours('cosine'), np.where(STEPS < WARMUP, warm(), optax.cosine_decay_schedule(PEAK, 108)(STEPS - WARMUP))
    )
    decay = optax.exponential_decay(PEAK, 24, 0.9, end_value=0.3)
    assert_close(ours('exponential', warmup=0, decay_rate=0.9, decay_epochs=2.4, min_rate=0.3), decay(STEPS))
    decay = optax.exponential_decay(PEAK, 24, 0.9)
    assert_close(ours('step', warmup=0, decay_rate=0.9, decay_epochs=2.4, staircase=False), decay(STEPS))
    assert_close(ours('poly', warmup=0, power=2.0), optax.polynomial_schedule(PEAK, 0.0, 2.0, TOTAL)(STEPS))


def warm():
    return START + (PEAK - START) * STEPS / WARMUP


def test_constant_shapes():
    for name in ('constant', 'plateau'):
        assert_close(ours(name), np.where(STEPS < WARMUP, warm(), PEAK))


def test_rsqrt():
    expected = np.where(STEPS < WARMUP, warm(), PEAK / np.sqrt(1 + (STEPS - WARMUP) / 30))
    assert_close(ours('rsqrt', timescale=30), expected)


def test_tensorflow_staircase_of_a_whole_run_in_whole_numbers():
    """350 epochs of ImageNet in batches of 2048: times 0.97 every 2.4 epochs, counted from step 0 under the warm-up."""
    epoch, total = 1281167 / 2048, 218949
    schedule = make_schedule(
        'step', peak=0.128, total_steps=total, steps_per_epoch=epoch, warmup_steps=round(5 * epoch)
    )
    steps = np.arange(total)
    expected = 0.128 * 0.97 ** np.floor(steps / (2.4 * epoch))
    expected = np.where(steps < round(5 * epoch), 0.128 * steps / round(5 * epoch), expected)
    np.testing.assert_allclose(schedule(steps), expected, rtol=1e-6)


def test_an_end_in_the_middle_of_float_noise():
    # 0.4 epochs of 10 steps are 4 steps, though 3 * 0.4 * 10 is above 12.
    found = ours('step', warmup=0, decay_epochs=0.4, decay_rate=0.9)
    np.testing.assert_allclose(found, PEAK * 0.9 ** (STEPS // 4), rtol=1e-6)


# --------------------------------------------------------------------------------------- cool-down, calls, errors


@pytest.mark.parametrize('name', SCHEDULES)
def test_cooldown(name):
    held, linear = cooled(name, 'hold'), cooled(name, 'linear')
    np.testing.assert_array_equal(held[:100], linear[:100])
    assert_close(held[100:], np.full(20, held[100]))
    assert_close(linear[100:], held[100] + (0.001 - held[100]) * np.arange(20) / 20)


def cooled(name, kind):
    schedule = make_schedule(
        name, peak=PEAK, total_steps=TOTAL, steps_per_epoch=EPOCH, warmup_steps=WARMUP, cooldown_steps=20,
        options={'cooldown': kind, 'cooldown_rate': 0.001},
    )  # fmt: skip
    return np.asarray(schedule(STEPS))


def test_timms_cooldown_stays_at_the_lowest_rate():
    found = cooled('cosine', 'hold')
    assert_close(found[WARMUP:], timms('CosineLRScheduler', t_initial=88, warmup_prefix=True)[WARMUP:])


@pytest.mark.parametrize('name', SCHEDULES)
def test_one_step_as_many_compiled_or_not(name):
    schedule = make_schedule(name, peak=PEAK, total_steps=TOTAL, steps_per_epoch=EPOCH, warmup_steps=WARMUP)
    whole = schedule(STEPS)
    assert whole.dtype == jnp.float32 and whole.shape == STEPS.shape
    one = jax.jit(schedule)(jnp.int32(57))
    assert one.dtype == jnp.float32 and one.shape == ()
    np.testing.assert_allclose(one, whole[57], rtol=1e-6)
    assert float(schedule(10 * TOTAL)) == pytest.approx(float(schedule(TOTAL)))  # the end lasts


def test_table():
    schedule = make_schedule('cosine', peak=PEAK, total_steps=1000, warmup_steps=10)
    steps, rates = table(schedule, 1000, points=50)
    assert len(steps) == 50 and steps[0] == 0 and steps[-1] == 999
    np.testing.assert_array_equal(rates, schedule(steps))
    assert len(table(schedule, 7, points=50)[0]) == 7


@pytest.mark.parametrize(
    ('name', 'keywords', 'message'),
    [
        ('cosin', {}, r"unknown schedule 'cosin'.*constant, .*cosine"),
        ('cosine', {'warmup_steps': 10}, r'a warm-up of 10 and a cool-down of 0 steps do not fit into 10 steps'),
        ('cosine', {'options': {'decay': 1}}, r"cosine has no option 'decay'; allowed: min_rate, k, count_from, cool"),
        ('step', {'options': {'decay_rate': 0}}, r'decay_rate of schedule step is 0; allowed: above 0'),
        (
            'step',
            {'options': {'count_from': 'end'}},
            r"count_from of .* is 'end'; allowed: start, warmup_end",
        ),
        ('multistep', {'options': {'milestones': 3}}, r'milestones of schedule multistep is 3; allowed: a list'),
        ('cosine_restarts', {'options': {'cycle_mult': 0.5}}, r'cycle_mult .* is 0\.5; allowed: 1 or more'),
    ],
)
def test_errors(name, keywords, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(name, peak=1.0, total_steps=10, **keywords)


# --------------------------------------------------------------------------------------------------- plateau


@pytest.mark.parametrize('mode', ['max', 'min'])
@pytest.mark.parametrize(('patience', 'cooldown', 'threshold'), [(2, 0, 1e-4), (0, 3, 0.05), (1, 2, 0.0)])
def test_plateau_like_torch(mode, patience, cooldown, threshold):
    rules = {'mode': mode, 'patience': patience, 'cooldown': cooldown, 'threshold': threshold}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    judge = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, min_lr=0.01, **rules)
    update = jax.jit(lambda state, value: state.update(value, decay=0.5, min_factor=0.01, **rules))
    state, factors, expected = Plateau.create(), [], []
    for value in np.random.default_rng(0).normal(3, 1, size=60).round(2):
        judge.step(float(value))
        expected.append(optimizer.param_groups[0]['lr'])
        state = update(state, value)
        factors.append(float(state.factor))
    np.testing.assert_allclose(factors, expected, rtol=1e-6)
    assert min(factors) == pytest.approx(0.01) and len(set(factors)) > 4


def test_plateau_error_and_state():
    state = Plateau.create()
    assert [str(leaf.dtype) for leaf in jax.tree.leaves(state)] == ['float32', 'float32', 'int32', 'int32']
    with pytest.raises(ValueError, match=r"mode is 'best'; allowed: max, min"):
        state.update(1.0, mode='best')
