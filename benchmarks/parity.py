"""Every variant against timm's or Keras': the same weights by the ordinary `weights=`, logits in three frameworks.

    python -m benchmarks.parity [--models 'tf_*' --out FILE] [--resume]

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
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import jax
import jax.numpy as jnp
import numpy as np
import timm
import torch
from safetensors.torch import save_file

import jeffnet
from benchmarks.table import parse
from jeffnet.models.table import definition
from jeffnet.weights.judges import move_stride_to_projection

# One thread: beside JAX's own threads and other processes, PyTorch's spin for each other and take many times as long.
torch.set_num_threads(1)

Sizes = Sequence[tuple[int, int]]  # (height, width) each
Judge = torch.nn.Module | Callable[[np.ndarray], np.ndarray]  # or a function from images to logits, in their type
SIZES = ((64, 64), (97, 97), (76, 50))  # even, odd, and not square: SAME padding differs only at even sides
PATCH_SIZES = ((64, 64), (80, 48), (224, 224))  # of networks with a position table: resampled, and as it is stored
BATCH = 4
DEEP = ('b6', 'b7', 'b8', 'l2')  # so ill-conditioned in float32 that float64 has to show the identity
FIELDS = ('name', 'framework', 'size', 'dtype', 'error', 'between_frameworks', 'floor', 'bar', 'seconds', 'ok')
BAR32, BAR64, BAR_FRAMEWORKS = 2e-4, 1e-8, 1e-6
KNOWN = (torch.nn.Conv2d, torch.nn.Linear, torch.nn.BatchNorm2d, torch.nn.LayerNorm)  # drawn by kind


def reference(name: str, **options) -> torch.nn.Module:
    """timm's model of the same architecture, randomised, in evaluation mode."""
    torch.manual_seed(zlib.crc32(name.encode()))
    return randomise(timm_network(name, **options))


def timm_network(name: str, **options) -> torch.nn.Module:
    """timm's model of the same architecture, with the head of the weights of this name."""
    info = jeffnet.model_info(name)
    classes = info.options.get('num_classes', 1000)  # -1: pooled features, timm's 0
    model = timm.create_model(info.timm, **{'num_classes': max(classes, 0), **options})
    if classes == 0:  # the final feature map
        model.head = torch.nn.Identity()
        model.forward = lambda x: model.forward_features(x).permute(0, 2, 3, 1)
    return model


def randomise(model: torch.nn.Module, size: int = 128) -> torch.nn.Module:
    """Draws every array so that no default zero or one hides a mistake, and the output depends on the input.

    Fan-in-scaled kernels; random scales and biases; batch-norm statistics measured on random images, layer by layer,
    each perturbed before the next is measured. Two things keep deep networks from being chaotic, as training does:
    the scales at the end of residual branches are small, and no channel's variance is far below the others'.
    """
    hooks = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                torch.nn.init.normal_(module.bias, 0, 0.5)
        elif isinstance(module, torch.nn.BatchNorm2d | torch.nn.LayerNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
            if isinstance(module, torch.nn.BatchNorm2d):
                hooks.append(module.register_forward_pre_hook(_calibrate))
        for parameter in module.parameters(recurse=False):
            if parameter.ndim == 3:  # tokens and positions
                torch.nn.init.normal_(parameter, 0, 0.5)
        for kind, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 1 and not isinstance(module, KNOWN):
                _draw_vector(kind, parameter)
    for block in model.modules():
        if getattr(block, 'has_skip', False) or hasattr(block, 'zero_init_last'):
            last = [child for child in block.children() if isinstance(child, torch.nn.BatchNorm2d)][-1]
            torch.nn.init.uniform_(last.weight, 0.2, 0.6)
    model.eval()
    if hooks:
        first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
        with torch.no_grad():
            model(torch.randn(8, first.in_channels, size, size))
    for hook in hooks:
        hook.remove()
    return model


def _draw_vector(kind: str, parameter: torch.nn.Parameter):
    """Draws an array of a layer that PyTorch does not have: a norm's, or the small scale of a residual branch."""
    if kind.endswith('bias'):
        torch.nn.init.normal_(parameter, 0, 0.3)
    else:
        torch.nn.init.uniform_(parameter, *((0.5, 1.5) if kind.endswith('weight') else (0.2, 0.6)))


def _calibrate(norm: torch.nn.BatchNorm2d, inputs):
    """Sets the statistics of a batch norm to those of its input, perturbed."""
    var, mean = torch.var_mean(inputs[0], (0, 2, 3))
    norm.running_mean.copy_(mean + 0.2 * var.sqrt() * torch.randn_like(mean))
    norm.running_var.copy_((var + 0.5 * var.mean()) * torch.exp(0.3 * torch.randn_like(var)))


def save_weights(model: torch.nn.Module, path: Path) -> Path:
    """Writes the model's state dict as a .safetensors file."""
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return path


def images(size: tuple[int, int], seed: int = 1, channels: int = 3) -> np.ndarray:
    """Random float32 images `[BATCH, H, W, C]`."""
    return np.random.default_rng(seed).standard_normal((BATCH, *size, channels)).astype(np.float32)


@torch.no_grad()
def torch_logits(model: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    """timm's logits of NHWC images, in the type of `x`."""
    return model.to(torch.from_numpy(x).dtype)(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()


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
    return PATCH_SIZES if has_positions(name) else SIZES


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
    """The rows of one name, of all sizes unless some are given; in float64, where that is needed, of the first."""
    info = jeffnet.model_info(name)
    if judged_by_keras(name):
        return prove_against_keras(name, sizes)
    with tempfile.TemporaryDirectory() as folder:
        model = reference(name)
        if info.options.get('stride_in_projection'):
            move_stride_to_projection(model)
        weights = save_weights(model, Path(folder) / 'model.safetensors')
        sizes = sizes or sizes_of(name)
        rows = compare_sizes(name, model, weights, sizes)
        if info.arch.split('_')[-1] in DEEP or coarse(rows):
            rows += in_float64(partial(compare_sizes, name, model, weights, sizes[:1]))
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
            rows += compare(name, judge, weights, (size,))
            if first and coarse(rows):
                rows += in_float64(partial(compare, name, judge, weights, (size,)))
    jax.clear_caches()
    return rows


def coarse(rows: list[dict]) -> bool:
    """Whether float32 is too coarse to tell, so that float64 has to show the identity."""
    return any(float(row['bar']) > BAR32 for row in rows)


def in_float64(compare_in: Callable[..., list[dict]]) -> list[dict]:
    """The rows in float64, of one framework: in float32 it is seen that all three compute the same."""
    jax.config.update('jax_enable_x64', True)
    try:
        return compare_in(dtype=np.float64, only=jeffnet.FRAMEWORKS[:1])
    finally:
        jax.config.update('jax_enable_x64', False)


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
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for name in jeffnet.list_models(arguments.models):
        if name in done:
            continue
        start = time.perf_counter()
        new = prove(name)
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
