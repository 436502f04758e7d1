"""The training loop."""

import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jeffnet
from jeffnet.train import metrics
from jeffnet.train.checkpoints import Checkpoints
from jeffnet.train.feed import Feed
from jeffnet.train.hardware import Work, peak_flops
from jeffnet.train.log_files import replace as replace_file
from jeffnet.train.mesh import everywhere, split
from jeffnet.train.plan import Plan
from jeffnet.train.plateau import Plateau
from jeffnet.train.report import Report
from jeffnet.train.schedules import table
from jeffnet.train.state import TrainState
from jeffnet.train.step import Programs, zeros
from jeffnet.train.stopping import StopRequests
from jeffnet.train.trace import Trace

NOTHING = {'step': 0, 'top1': -1.0, 'top5': -1.0, 'loss': math.inf}


def run(plan: Plan) -> dict:
    """Trains to the end; returns the figures of the best evaluation (`step`, `top1`, `top5`, `loss`).

    Writes into `config.output_dir`: `checkpoints/STEP`, the weights `best` (highest top-1; of equal ones the lowest
    loss) and `last`, `config.json`, logs and plots. SIGTERM or SIGINT ends it early, with a checkpoint. Raises
    FloatingPointError when steps stay without finite gradients, OSError if the last checkpoint cannot be written.
    """
    config, folder, started = plan.config, Path(plan.config.output_dir), time.perf_counter()
    state, plan_state = plan.state, plan.state
    best = dict(NOTHING)

    with ExitStack() as stack:
        # --- resume
        checkpoints = Checkpoints(folder / 'checkpoints', keep_last=config.keep_last, keep_best=config.keep_best)
        stack.callback(checkpoints.close)
        if plan.resume == 'auto' and checkpoints.steps():
            state, best, passed_over = restore(checkpoints, plan_state)
        else:
            passed_over = []
        step = int(state.step)

        # --- output
        main = plan.shard.rank == 0
        if main:
            replace_file(folder / 'config.json', json.dumps(config.to_dict(), indent=2) + '\n')
        report = stack.enter_context(closing(open_report(plan, step, main)))
        for line in heading(plan):
            report.line(line)
        for fault in passed_over:
            report.event(step, 'checkpoint_failed', f'passed over: {fault}')
        if step:
            report.event(step, 'resumed', f'resumed after step {step} of {plan.steps}')

        # --- rhythm
        eval_steps = max(1, round(config.eval_every_epochs * plan.steps_per_epoch))
        save_steps = config.checkpoint_every_steps or eval_steps
        trace = Trace(config.profile_steps, folder / 'profile', report)
        stack.callback(lambda: trace.end(step))
        train_step = Programs(plan.train_step)
        first, rollbacks, totals = True, 0, zeros(plan.mesh)
        told: set[str] = set()
        feed = open_feed(plan, state)
        stack.callback(lambda: feed.close())
        stops = stack.enter_context(StopRequests())
        previous = totals

        # --- loop
        while step < plan.steps:
            trace.before(step + 1)
            with report.waiting():
                batch = next(feed)
            before = previous
            previous = totals
            state, totals = train_step(state, totals, batch)
            jax.block_until_ready(before)  # one step is computed while the next is dispatched, and no more
            step += 1
            report.trained(config.batch_size)
            if first:
                first = False
                jax.block_until_ready(totals)
                report.work = work_of(plan, train_step.flops_per_image(batch, plan.mesh.size))
                report.line(f'first step, compilation included: {time.perf_counter() - started:.1f} s')
                report.start_clock()
            trace.after(step, totals)
            is_last, stop = step == plan.steps, stops.at(step)

            # --- log
            if step % config.log_every_steps == 0 or is_last or stop:
                report.interval(step, figures_of(plan, state, totals, step))  # waits for the devices
                tell_faults(plan, report, step, told)
                totals = previous = zeros(plan.mesh)
                if int(state.skipped_in_row) >= config.nonfinite_limit:
                    state, rollbacks = roll_back(plan, checkpoints, state, report, rollbacks)
                    step = int(state.step)
                    feed.close()
                    feed = open_feed(plan, state)
                    continue

            # --- evaluation
            judged = None
            if step % eval_steps == 0 or is_last:
                judged = {'step': step, **validate(plan, state, report, step, best)}
                is_best = better(judged, best)
                best = judged if is_best else best
                if config.schedule == 'plateau':
                    state = replace(state, plateau=next_plateau(plan, state.plateau, judged))
                names = ('last', 'best') if is_best else ('last',)
                attempt(report, step, is_last, export, plan, state, judged, folder, names)
                report.start_clock()

            # --- checkpoint
            if is_last or stop or ((judged or step % save_steps == 0) and not int(state.skipped_in_row)):
                attempt(report, step, is_last or stop, save, plan, checkpoints, step, state, best, judged)
                if is_last or stop:
                    attempt(report, step, True, checkpoints.wait)
                report.start_clock()
            if stop and not is_last:
                if not judged:
                    attempt(report, step, False, export, plan, state, {'step': step}, folder, ('last',))
                report.event(step, 'stopped', f'stopped as asked, after step {step}; go on with --resume auto')
                break

        # --- end
        result = f'best: top-1 {best["top1"]:.2f} % after step {best["step"]}' if best['step'] else 'not validated yet'
        report.line(f'{step} steps, {time.perf_counter() - started:.1f} s; {result}; checkpoints in {folder}')
        report.plots(schedule_points=table(plan.schedule, plan.steps))
    return best


def open_report(plan: Plan, step: int, main: bool) -> Report:
    """The report of the run from `step` on."""
    config = plan.config
    return Report(
        Path(config.output_dir),
        steps=plan.steps,
        steps_per_epoch=plan.steps_per_epoch,
        start_step=step,
        main=main,
        tensorboard=config.tensorboard,
        wandb=config.wandb,
        config=config.to_dict(),
    )


def work_of(plan: Plan, flops_per_image: float | None) -> Work | None:
    """What training costs, for the utilisation of the devices."""
    if flops_per_image is None:
        return None
    kind = jax.devices()[0].device_kind
    return Work(flops_per_image, plan.mesh.size, peak_flops(kind, plan.config.dtype))


def open_feed(plan: Plan, state: TrainState) -> Feed:
    """The batches after this state, on the devices."""
    batches = plan.batches(int(state.step), int(state.data_step))
    return Feed(batches, partial(split, plan.mesh), plan.config.prefetch)


def heading(plan: Plan) -> list[str]:
    """Two lines on what is about to run."""
    config, sizes = plan.config, [size.image_size for _, size in plan.stages]
    size = ' to '.join(f'{height}x{width}' for height, width in dict.fromkeys((sizes[0], sizes[-1])))
    parameters = sum(array.size for array in plan.state.params.values())
    kinds = ', '.join(sorted({device.device_kind for device in jax.devices()}))
    return [
        f'{config.model} ({plan.framework}), {parameters:,} parameters, {config.dtype}; {plan.images:,} + '
        f'{plan.validation_images:,} images of {len(plan.classes)} classes at {size}; batch {config.batch_size}, '
        f'{plan.steps} steps',
        f'{jax.process_count()} process{"es" if jax.process_count() > 1 else ""}, {jax.device_count()} '
        f'device{"s" if jax.device_count() > 1 else ""} ({kinds}), {jax.local_device_count()} in this process; '
        f'mesh {dict(plan.mesh.shape)}, {config.sharding}, batch norm {config.batch_norm}',
    ]


def figures_of(plan: Plan, state: TrainState, totals: metrics.Totals, step: int) -> dict[str, float]:
    """The figures of the steps since the last log."""
    counted = int(totals['steps'])
    rate = float(jnp.asarray(plan.schedule(jnp.int32(step - 1)))) * float(state.plateau.factor)
    return {
        **metrics.summary(totals),
        'learning_rate': rate,
        'grad_norm': float(totals['grad_norm']) / counted if counted else math.nan,
        'skipped': int(state.skipped),
        **({} if state.loss_scale is None else {'loss_scale': float(state.loss_scale.scale)}),
    }


def tell_faults(plan: Plan, report: Report, step: int, told: set[str]) -> None:
    """Reports each image that could not be read, once; a process that keeps no log says so on stderr."""
    while plan.faults:  # the reader's thread may add to it meanwhile
        if (fault := plan.faults.pop(0)) not in told:
            told.add(fault)
            text = f'another image stands in for {fault}'
            report.event(step, 'bad_image', text)
            if not report.main:
                print(text, file=sys.stderr, flush=True)


def validate(plan: Plan, state: TrainState, report: Report, step: int, best: dict) -> dict[str, float]:
    """Evaluates the weights, and the averages if there are any; returns the figures that the run is judged by."""
    judged = {}
    for weights in ('raw', 'ema') if state.ema else ('raw',):
        judged = evaluate(plan, state, average=weights == 'ema')
        is_best = weights == ('ema' if state.ema else 'raw') and better(judged, best)
        report.validation(step, judged, is_best, weights=weights)
    return judged


def evaluate(plan: Plan, state: TrainState, average: bool = False) -> dict[str, float]:
    """Loss, top-1 and top-5 over the whole validation set, each image counted once."""
    totals = metrics.zeros(everywhere(plan.mesh))
    params, stats = state.weights(average)
    for batch in plan.validated():
        batch = {name: batch[name] for name in ('image', 'label', 'mask')}
        totals = plan.eval_step(params, stats, totals, split(plan.mesh, batch))
    if int(totals['images']) != plan.validation_images:
        raise RuntimeError(f'validation saw {int(totals["images"])} images of {plan.validation_images}')
    return metrics.summary(totals)


def better(figures: dict, best: dict) -> bool:
    """Whether an evaluation beats the best: higher top-1, or the same with a lower loss."""
    return (figures['top1'], -figures['loss']) > (best['top1'], -best['loss'])


def next_plateau(plan: Plan, plateau: Plateau, figures: dict) -> Plateau:
    """The plateau after an evaluation."""
    rules = plan.config.plateau.to_dict()
    metric = rules.pop('metric')
    after = plateau.update(figures[metric], mode='max' if metric == 'top1' else 'min', **rules)
    return jax.device_put(after, everywhere(plan.mesh))


def restore(checkpoints: Checkpoints, like: TrainState) -> tuple[TrainState, dict, list[str]]:
    """The newest checkpoint that can be read, the best evaluation up to it, and what is wrong with later ones.

    Raises OSError if there is none, and with several processes, which would not agree, if it is not the newest.
    """
    faults = []
    for step in reversed(checkpoints.steps()):
        try:
            state, extra = checkpoints.restore(step, like)
        except OSError as error:
            faults.append(str(error))
            if jax.process_count() > 1:
                break
            continue
        checkpoints.forget(after=step)
        return state, extra['best'], faults
    raise OSError(f'--resume auto: {faults[0]}; remove it to go on from an earlier one, or take another output_dir')


def roll_back(
    plan: Plan, checkpoints: Checkpoints, state: TrainState, report: Report, rollbacks: int
) -> tuple[TrainState, int]:
    """The last good checkpoint, which goes on with batches not yet seen, and the number of roll-backs so far."""
    step, row = int(state.step), int(state.skipped_in_row)
    advice = 'lower config.learning_rate, lengthen config.warmup_epochs or set config.clip_norm'
    checkpoints.wait()
    good = [saved for saved in checkpoints.steps() if saved <= step - row]
    if rollbacks == plan.config.max_rollbacks or not good:
        why = f'after {rollbacks} roll-backs' if good else 'and there is no checkpoint before them'
        raise FloatingPointError(f'{row} steps in a row up to step {step} were not finite, {why}: {advice}')
    restored, _ = checkpoints.restore(good[-1], state)
    checkpoints.forget(after=good[-1])  # a run that resumes must not take the way that was left
    report.event(
        step,
        'rolled_back',
        f'{row} steps in a row were not finite: back to the checkpoint after step {good[-1]}, on with batch '
        f'{int(state.data_step)} of the data; {advice} if this comes again',
    )
    return replace(restored, data_step=state.data_step), rollbacks + 1


def save(plan: Plan, checkpoints: Checkpoints, step: int, state: TrainState, best: dict, judged: dict | None) -> None:
    """Starts to write the checkpoint after `step`."""
    checkpoints.save(step, state, {'best': best, 'framework': plan.framework}, judged)


def attempt(report: Report, step: int, must: bool, write: Callable[..., None], *arguments: Any) -> None:
    """Writes to disk; if that fails, training goes on with what was written before, unless it `must` succeed."""
    try:
        write(*arguments)
    except OSError as error:
        if must:
            raise OSError(
                f'the checkpoint after step {step} could not be written, earlier ones are whole: {error}'
            ) from error
        report.event(step, 'checkpoint_failed', f'a checkpoint could not be written, going on without it: {error}')


def export(plan: Plan, state: TrainState, figures: dict, folder: Path, names: tuple[str, ...]) -> None:
    """Writes checkpoint folders that `create_model(weights=folder)` and the validate scripts read."""
    whole = jax.jit(lambda tree: tree, out_shardings=everywhere(plan.mesh))  # with FSDP, no process has all parts
    params, stats, ema = whole((state.params, state.batch_stats, state.ema))
    if plan.shard.rank != 0:
        return
    average = {**ema['params'], **ema['batch_stats']} if ema else None
    variables, average = jax.device_get(({**params, **stats}, average))
    for name in names:
        jeffnet.weights.save(
            folder / name,
            model=plan.config.model,
            options=plan.options,
            variables=variables,
            average=average,
            preprocessing=plan.preprocessing.to_dict(),
            classes=list(plan.classes),
            metrics=figures,
        )
