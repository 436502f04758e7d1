"""The training loop."""

import json
import math
import time
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp

import jeffnet
from jeffnet.train.mesh import everywhere, split
from jeffnet.train.metrics import summary, zeros
from jeffnet.train.plan import Plan
from jeffnet.train.report import Report
from jeffnet.train.state import TrainState


def run(plan: Plan) -> dict:
    """Trains to the end; returns the figures of the best evaluation (`step`, `top1`, `top5`, `loss`).

    Writes the checkpoint folders `best` (highest top-1; of equal ones the lowest loss) and `last`, `config.json` and
    `log.jsonl` into `config.output_dir`. Raises FloatingPointError when the loss is no longer a number.
    """
    config, started = plan.config, time.perf_counter()

    # --- output
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'config.json').write_text(json.dumps(config.to_dict(), indent=2) + '\n')
    eval_steps = max(1, round(config.eval_every_epochs * plan.steps_per_epoch))
    state, totals = plan.state, zeros(everywhere(plan.mesh))
    best = {'top1': -1.0, 'loss': math.inf}
    batches = plan.training(start_step=0)
    report = Report(folder, plan.steps, plan.steps_per_epoch)
    with closing(report), closing(batches):
        report.line(heading(plan))

        # --- loop
        for step in range(1, plan.steps + 1):
            before = totals
            state, totals = plan.train_step(state, totals, split(plan.mesh, next(batches)))
            jax.block_until_ready(before)  # one step is computed while the next batch is read, and no more
            report.trained(config.batch_size)
            if step == 1:
                jax.block_until_ready(totals)
                report.line(f'first step, compilation included: {time.perf_counter() - started:.1f} s')
                report.start_clock()
            if step % config.log_every_steps == 0 or step == plan.steps:
                figures = finite(summary(totals), step)  # waits for the devices
                report.interval(step, figures, float(jnp.asarray(plan.schedule(step - 1))))
                totals = zeros(everywhere(plan.mesh))

            # --- evaluation and checkpoints
            if step % eval_steps == 0 or step == plan.steps:
                figures = {'step': step, **evaluate(plan, state)}
                is_best = (figures['top1'], -figures['loss']) > (best['top1'], -best['loss'])
                best = figures if is_best else best
                for name in ('last', 'best') if is_best else ('last',):
                    save(folder / name, plan, state, figures)
                report.validation(step, figures, is_best)
                report.start_clock()
        report.line(
            f'{plan.steps} steps in {time.perf_counter() - started:.1f} s; best: top-1 {best["top1"]:.2f} % '
            f'after step {best["step"]}; checkpoints in {folder}'
        )
    return best


def heading(plan: Plan) -> str:
    """One line on what is about to run."""
    config, size = plan.config, 'x'.join(map(str, plan.preprocessing.image_size))
    parameters = sum(array.size for array in jax.tree.leaves(plan.state.params))
    images = f'{plan.images:,} + {plan.validation.size:,} images'
    devices = f'{plan.mesh.size} {jax.default_backend()} device{"s" if plan.mesh.size > 1 else ""}'
    return (
        f'{config.model}, {parameters:,} parameters, {config.dtype}; {images} of {len(plan.classes)} classes at '
        f'{size}; {devices}, batch {config.batch_size}, {plan.steps} steps'
    )


def finite(figures: dict, step: int) -> dict:
    """`figures`; FloatingPointError if the loss among them is not finite."""
    if not math.isfinite(figures['loss']):
        raise FloatingPointError(
            f'the loss is {figures["loss"]} at step {step}: lower config.learning_rate or lengthen config.warmup_epochs'
        )
    return figures


def evaluate(plan: Plan, state: TrainState) -> dict[str, float]:
    """Loss, top-1 and top-5 over the whole validation set, each image counted once."""
    totals = zeros(everywhere(plan.mesh))
    for batch in plan.validation:
        totals = plan.eval_step(state.variables, totals, split(plan.mesh, batch))
    if int(totals['images']) != plan.validation.size:
        raise RuntimeError(f'validation saw {int(totals["images"])} images of {plan.validation.size}')
    return summary(totals)


def save(folder: Path, plan: Plan, state: TrainState, figures: dict) -> None:
    """Writes a checkpoint folder that `create_model(weights=folder)` and the validate scripts read."""
    jeffnet.weights.save(
        folder,
        model=plan.config.model,
        options=plan.options,
        variables=jax.device_get(jeffnet.flat_variables(state.variables)),
        preprocessing=plan.preprocessing.to_dict(),
        classes=plan.classes,
        metrics=figures,
    )
