"""Every variant against timm's or Keras': the same weights by the ordinary `weights=`, logits in three frameworks.

    python -m benchmarks.parity [--models 'tf_*' --out FILE] [--resume]

Names that differ in their weights or number of classes alone share one proof. Networks of more than 100 million
parameters are compared at one size and in one framework: all three compute the same, as the others show.

Freshly initialised networks say little: their logits are almost all bias. So the weights are drawn to make the output
depend on the input (`randomise`), and errors are measured against the spread of the logits between inputs. The judge's
own float32 against its float64, the floor, shows what float32 can give.
"""

import argparse
import copy
import csv
import gc
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import jax
import jax.numpy as jnp
import numpy as np
import torch

import jeffnet
from benchmarks.table import parse
from benchmarks.torch_reference import reference, save_weights, torch_logits
from jeffnet.models.table import definition, network_of
from jeffnet.weights.judges import move_stride_to_projection

Sizes = Sequence[tuple[int, int]]  # (height, width) each
Judge = torch.nn.Module | Callable[[np.ndarray], np.ndarray]  # or a function from images to logits, in their type
SIZES = ((64, 64), (97, 75))  # even; odd and not square: SAME padding differs only at even sides
HALVED_SIZES = ((64, 64), (96, 64))  # of networks that timm cannot run where a side has no half
PATCH_SIZES = ((64, 64), (80, 48), (224, 224))  # of networks with a position table: resampled, and as it is stored
BATCH = 4
DEEP = ('b6', 'b7', 'b8', 'l2')  # so ill-conditioned in float32 that float64 has to show the identity
FIELDS = ('name', 'framework', 'size', 'dtype', 'error', 'between_frameworks', 'floor', 'bar', 'seconds', 'ok')
BAR32, BAR64, BAR_FRAMEWORKS = 2e-4, 1e-8, 1e-6
HOPELESS = 1e-2  # a bar in float32 that alone says nothing
LARGE = 100e6  # parameters


def images(size: tuple[int, int], seed: int = 1, channels: int = 3) -> np.ndarray:
    """Random float32 images `[BATCH, H, W, C]`."""
    return np.random.default_rng(seed).standard_normal((BATCH, *size, channels)).astype(np.float32)


def spread(logits: np.ndarray) -> float:
    """How much the logits differ between inputs: their std over the batch after removing the batch mean."""
    return float(np.sqrt(np.mean((logits - logits.mean(0)) ** 2)))


def frameworks(name: str, weights: Path, only: Sequence[str] = jeffnet.FRAMEWORKS, **options):
    """(framework, function from images to logits) of the model in each framework."""
    for framework in only:
        made = jeffnet.create_model(name, framework, weights=weights, **options)
        yield framework, jeffnet.predictor(*made) if framework == 'linen' else jeffnet.predictor(made)


def compare(name: str, model: Judge, weights: Path, sizes=SIZES, dtype=np.float32, **options) -> list[dict]:
    """One row of the table per framework and size."""
    judge = partial(torch_logits, model) if isinstance(model, torch.nn.Module) else model
    inputs = {size: images(size).astype(dtype) for size in sizes}
    exact = {size: judge(x.astype(np.float64)) for size, x in inputs.items()}
    expected = exact if dtype == np.float64 else {size: judge(x) for size, x in inputs.items()}
    rows, first = [], {}
    for framework, run in frameworks(name, weights, dtype=jnp.dtype(dtype), **options):
        for size, x in inputs.items():
            start = time.perf_counter()
            logits = np.asarray(run(x))
            scale = spread(exact[size])
            error = np.abs(logits - expected[size]).max() / scale
            floor = np.abs(expected[size] - exact[size]).max() / scale
            between = np.abs(logits - first.setdefault(size, logits)).max() / scale
            bar = BAR64 if dtype == np.float64 else max(BAR32, 5 * floor)
            rows.append(
                {
                    'name': name,
                    'framework': framework,
                    'size': 'x'.join(map(str, size)),
                    'dtype': np.dtype(dtype).name,
                    'error': f'{error:.2e}',
                    'between_frameworks': f'{between:.2e}',
                    'floor': f'{floor:.2e}',
                    'bar': f'{bar:.2e}',
                    'seconds': f'{time.perf_counter() - start:.1f}',
                    'ok': bool(error <= bar and between <= BAR_FRAMEWORKS),
                }
            )
        del run
        gc.collect()
    return rows


def has_positions(name: str) -> bool:
    """Whether a network has a position table, and so a fixed image size."""
    return hasattr(definition(jeffnet.model_info(name)), 'POSITION_TABLES')


def judged_by_keras(name: str) -> bool:
    """Whether Keras is a name's reference; for Keras' ResNet-RS, which Keras 3 left out, it is timm."""
    info = jeffnet.model_info(name)
    return info.keras is not None and info.timm == name


def sizes_of(name: str) -> tuple[tuple[int, int], ...]:
    """The image sizes, (height, width), at which a name is compared."""
    if judged_by_keras(name):
        from benchmarks import keras_reference

        return keras_reference.sizes_of(name)
    halved = getattr(network_of(jeffnet.model_info(name)), 'anti_alias', '') == 'avg'
    sizes = PATCH_SIZES if has_positions(name) else HALVED_SIZES if halved else SIZES
    return sizes[:1] if is_large(name) else sizes


def frameworks_of(name: str) -> Sequence[str]:
    """The frameworks in which a name is compared."""
    return jeffnet.FRAMEWORKS[:1] if is_large(name) else jeffnet.FRAMEWORKS


def is_large(name: str) -> bool:
    """Whether a network takes too much time and memory for every comparison; Keras' are compared all the same."""
    return jeffnet.model_info(name).parameters > LARGE and not judged_by_keras(name)


def compare_sizes(name: str, model: torch.nn.Module, weights: Path, sizes: Sizes, **options) -> list[dict]:
    """The rows of all image sizes; for each, both sides make a network with a position table anew and resample it."""
    if not has_positions(name):
        return compare(name, model, weights, sizes, **options)
    rows = []
    for size in sizes:
        resized = copy.deepcopy(model).float()
        resized.set_input_size(size)
        rows += compare(name, resized, weights, (size,), image_size=size, **options)
    return rows


def prove(name: str, sizes: Sizes = ()) -> list[dict]:
    """The rows of one name, of all sizes unless some are given; in float64, where float32 cannot tell, of the first.

    Of other sizes too where their float32 says nothing at all.
    """
    info = jeffnet.model_info(name)
    if judged_by_keras(name):
        return prove_against_keras(name, sizes)
    with tempfile.TemporaryDirectory() as folder:
        model = reference(name)
        if info.options.get('stride_in_projection'):
            move_stride_to_projection(model)
        weights = save_weights(model, Path(folder) / 'model.safetensors')
        sizes = sizes or sizes_of(name)
        rows = compare_sizes(name, model, weights, sizes, only=frameworks_of(name))
        if info.arch.split('_')[-1] in DEEP or coarse(rows):
            hopeless = any(coarse([row], HOPELESS) for row in rows)
            rows += in_float64(partial(compare_sizes, name, model, weights, sizes if hopeless else sizes[:1]))
    jax.clear_caches()
    return rows


def prove_against_keras(name: str, sizes: Sizes = ()) -> list[dict]:
    """The rows of a name of Keras Applications, whose networks are made for one size each."""
    from benchmarks import keras_reference

    rows: list[dict] = []
    for size, kind in zip(sizes or sizes_of(name), itertools.cycle(keras_reference.FORMATS)):
        judge = keras_reference.Judge(name, size)
        with tempfile.TemporaryDirectory() as folder:
            weights, first = keras_reference.save(judge.model, Path(folder), kind), not rows
            new = compare(name, judge, weights, (size,))
            rows += new
            if coarse(new, BAR32 if first else HOPELESS):
                rows += in_float64(partial(compare, name, judge, weights, (size,)))
    jax.clear_caches()
    return rows


def coarse(rows: list[dict], bar: float = BAR32) -> bool:
    """Whether float32 is too coarse to tell, so that float64 has to show the identity."""
    return any(float(row['bar']) > bar for row in rows)


def in_float64(compare_in: Callable[..., list[dict]]) -> list[dict]:
    """The rows in float64, of one framework: in float32 it is seen that all three compute the same."""
    jax.config.update('jax_enable_x64', True)
    try:
        return compare_in(dtype=np.float64, only=jeffnet.FRAMEWORKS[:1])
    finally:
        jax.config.update('jax_enable_x64', False)


def network_key(name: str) -> tuple:
    """What names have in common that differ in their weights, or how many classes these know, alone."""
    info = jeffnet.model_info(name)
    options = {**info.options, 'num_classes': info.options.get('num_classes', 1000) > 0}
    return info.file, info.arch, info.flavour, str(sorted(options.items())), str(sorted(info.policy.items()))


def pattern(text: str) -> str:
    """A shell glob that names match, for `argparse`."""
    if not jeffnet.list_models(text):
        raise argparse.ArgumentTypeError(f'no name matches {text!r}')
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--models', type=pattern, default='*', help='shell glob of names')
    parser.add_argument('--resume', action='store_true', help='keep the rows that the file has, run the other names')
    arguments = parse(parser, 'results/parity.csv')
    rows = []
    if arguments.resume and arguments.out.exists():
        rows = list(csv.DictReader(arguments.out.read_text().splitlines()))
    done = {row['name'] for row in rows}
    proven = {
        network_key(name): [row for row in rows if row['name'] == name] for name in done & set(jeffnet.list_models())
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for name in jeffnet.list_models(arguments.models):
        if name in done:
            continue
        start, key = time.perf_counter(), network_key(name)
        new = [row | {'name': name} for row in (proven.get(key) or prove(name))]
        proven[key] = new
        rows += new
        with arguments.out.open('w', newline='') as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator='\n')
            writer.writeheader()
            writer.writerows(sorted(rows, key=lambda row: row['name']))
        worst = max(new, key=lambda row: float(row['error']) / float(row['bar']))
        print(
            f'{name}: worst error {worst["error"]} ({worst["size"]}, {worst["dtype"]}, bar {worst["bar"]}), '
            f'{time.perf_counter() - start:.0f} s',
            flush=True,
        )
    failed = sorted({row['name'] for row in rows if str(row['ok']) != 'True'})
    print(f'{len({row["name"] for row in rows})} names, {len(rows)} comparisons, {len(failed)} names outside: {failed}')
    return bool(failed)


if __name__ == '__main__':
    sys.exit(main())
