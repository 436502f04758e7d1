"""Inference beside timm, Keras and plain Flax: images per second of the same networks on the same machine.

    python -m benchmarks.bench_inference --out results/bench-inference.csv [--rounds 5] [--seconds 2]

Random weights, float32, normalised images in memory. Ours is `jeffnet.predictor` as the validate scripts run it. Each
side is a process of its own, and they take turns; all run under the C library's allocator as it comes, but that ours
sets it as the scripts do, and again under the same one that keeps what is freed (`tuned`), which spares everyone the
page faults of large arrays. The peak of memory is that of the whole process.
"""

import math
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.table import write_table
from benchmarks.turns import ALLOCATORS, Case, Result, Side, command, compare

# Bars of jeffnet's speed over timm's under torch.compile: by model, (default allocator, largest batch), (default, batch
# 1), and under the tuned allocator at both.
BARS = {
    'efficientnet_b0': (1.2, 1.0, 1.0),
    'mobilenetv3_large_100': (1.2, 1.0, 1.0),
    'mixnet_s': (1.2, 1.0, 1.0),
    'resnet50': (1.0, 1.0, 1.0),
    'vit_small_patch16_224': (1.6, 1.6, 1.0),
}
BATCHES = (16, 1)
SIZE = 224
KERAS = {
    'efficientnet_b0': 'EfficientNetB0',
    'mobilenetv3_large_100': 'MobileNetV3Large',
    'resnet50': 'ResNet50',
}


def images(batch: int) -> np.ndarray:
    """Normalised images [N, H, W, 3]."""
    return np.random.default_rng(0).standard_normal((batch, SIZE, SIZE, 3), np.float32)


def cases(run: Callable[[Any], Any], made: Callable[[np.ndarray], Any], sizes: Sequence[int]) -> dict[str, Case]:
    """A case for each batch size: `run` on what `made` makes of the images; its number is a sum of logits."""
    batches = {str(batch): made(images(batch)) for batch in sizes}
    return {name: lambda batch=batch: float(np.asarray(run(batch)).sum()) for name, batch in batches.items()}


def jeffnet(
    framework: str, name: str, sizes: Sequence[int] = BATCHES, dtype: str = 'float32', fuse: bool = True
) -> Side:
    """Our predictor; on an accelerator, the images lie there already, as the peers' do."""
    import jax
    import jax.numpy as jnp

    import jeffnet
    from jeffnet import machine
    from jeffnet.create import parameter_count, plan

    machine.keep_memory()
    model = jeffnet.create_model(f'pt_{name}', framework, dtype=jnp.dtype(dtype))
    predict = jeffnet.predictor(*(model if framework == 'linen' else (model,)), fuse=fuse)
    made = (lambda x: x) if jax.default_backend() == 'cpu' else jax.device_put
    facts = {'parameters': parameter_count(plan(f'pt_{name}').block)}
    return Side(cases(predict, made, sizes), facts)


def plain_flax(name: str, sizes: Sequence[int] = BATCHES) -> Side:
    """The network as Flax's own layers give it."""
    import jax

    from benchmarks.peers_train import flax_networks

    network = flax_networks()[name](1000)
    variables = jax.jit(partial(network.init, training=False))(jax.random.key(0), images(1))
    run = jax.jit(lambda x: network.apply(variables, x, training=False))
    parameters = sum(array.size for array in jax.tree.leaves(variables['params']))
    return Side(cases(run, jax.device_put, sizes), {'parameters': parameters})


def timm(name: str, sizes: Sequence[int] = BATCHES, compiled: bool = False, amp: bool = False) -> Side:
    """timm's network, channels last; `compiled`: by torch.compile; `amp`: in bfloat16, on a GPU if there is one."""
    import timm
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    device = 'cuda' if amp and torch.cuda.is_available() else 'cpu'
    network = timm.create_model(name).eval().to(device, memory_format=torch.channels_last)
    parameters = sum(array.numel() for array in network.parameters())
    call = torch.compile(network) if compiled else network

    def run(batch):
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=amp):
            return call(batch).float().cpu().numpy()

    def made(x):
        return torch.from_numpy(x.transpose(0, 3, 1, 2)).to(device).contiguous(memory_format=torch.channels_last)

    return Side(cases(run, made, sizes), {'parameters': parameters})


def keras(backend: str, name: str, sizes: Sequence[int] = BATCHES) -> Side:
    """The network of Keras Applications, its own normalisation of pixels included where it is part of the network."""
    os.environ['KERAS_BACKEND'] = backend
    import keras

    network = getattr(keras.applications, KERAS[name])(weights=None)
    parameters = sum(math.prod(v.shape) for v in network.trainable_variables)
    return Side(cases(network.predict_on_batch, lambda x: x, sizes), {'parameters': parameters})


SIDES: dict[str, Callable[..., Side]] = {
    **{f'jeffnet {framework}': partial(jeffnet, framework) for framework in ('linen', 'nnx', 'objax')},
    'unfused jeffnet': partial(jeffnet, 'linen', fuse=False),
    'plain flax': plain_flax,
    'timm': timm,
    'timm compiled': partial(timm, compiled=True),
    **{f'keras {backend}': partial(keras, backend) for backend in ('tensorflow', 'jax')},
}
PEERS = {'plain flax': ('efficientnet_b0', 'resnet50'), 'keras tensorflow': tuple(KERAS), 'keras jax': tuple(KERAS)}


def measure(name: str, allocator: str, sides: list[str], rounds: int, length: float) -> list[dict[str, Any]]:
    """The rows of one network under one allocator."""
    chosen = [side for side in sides if name in PEERS.get(side, BARS)]  # the other peers do not have it
    commands = {side: ['-m', 'benchmarks.bench_inference', '--side', side, name] for side in chosen}
    environments = dict.fromkeys(chosen, ALLOCATORS[allocator])
    results = compare(commands, [str(batch) for batch in BATCHES], rounds, length, environments)
    return [row(name, allocator, side, batch, results) for batch in BATCHES for side in chosen]


def row(name: str, allocator: str, side: str, batch: int, results: dict[str, Result]) -> dict[str, Any]:
    """One line of the table; of a side that did not start, n/a."""
    found = {'model': name, 'allocator': allocator, 'batch': batch, 'side': side}
    columns = ('parameters', 'images_per_second', 'of_timm_compiled', 'of_timm', 'of_plain_flax', 'peak_mb')
    if side not in results:
        return {**found, **dict.fromkeys(columns, 'n/a'), 'bar': '', 'ok': side.startswith('keras')}
    own = results[side]
    speeds = {side: batch / result.seconds[str(batch)] for side, result in results.items()}
    ratios = [
        speeds[side] / speeds[peer] if peer in speeds else math.nan for peer in ('timm compiled', 'timm', 'plain flax')
    ]
    large, single, tuned = BARS[name]
    bar = tuned if allocator == 'tuned' else single if batch == 1 else large
    judged = side.startswith('jeffnet') and not math.isnan(ratios[0])
    figures = (
        own.facts['parameters'], f'{speeds[side]:.1f}',
        *('n/a' if math.isnan(ratio) else f'{ratio:.2f}' for ratio in ratios),
        'n/a' if own.peak_bytes is None else f'{own.peak_bytes / 1e6:.0f}',
    )  # fmt: skip
    found |= dict(zip(columns, figures, strict=True))
    return {**found, 'bar': bar if judged else '', 'ok': bool(own.finite and not (judged and ratios[0] < bar))}


def side_of(side: str, name: str) -> Side:
    """The side that a child process serves."""
    return SIDES[side](name)


def main() -> int:
    out = 'results/bench-inference.csv'
    arguments, rows = command(__doc__, out, list(BARS), list(SIDES), 2.0, side_of, measure)
    if rows is None:
        return 0
    status = write_table(arguments.out, rows)
    if 'default' in arguments.allocators:
        from benchmarks.chart import draw

        draw(arguments.out.with_suffix('.svg'), rows, max(BATCHES))
    return status


if __name__ == '__main__':
    sys.exit(main())
