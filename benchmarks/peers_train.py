"""The same networks and the same training step as users of Flax and of timm would write them.

In plain Flax: ResNet-50 (He et al., arXiv 1512.03385) and EfficientNet-B0 (Tan & Le, 1905.11946) in `flax.linen`, with
the train state of Flax's ImageNet example. In PyTorch: timm's networks, channels last. Each peer has one
case, a step on the batch in memory that gives its loss, and tells its parameters and the floating-point operations of a
step as its framework counts them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.turns import Side

RATE, MOMENTUM, WEIGHT_DECAY, SMOOTHING = 0.01, 0.9, 1e-4, 0.1


def counted(program: Any) -> float:
    """Floating-point operations of a lowered JAX program, before the compiler rewrites it."""
    return float(program.cost_analysis()['flops'])


# ------------------------------------------------------------------------------------------------------------- Flax


def flax_networks() -> dict[str, Callable]:
    """Constructors of the plain networks by name; flax is imported here, so that PyTorch's process does without it."""
    import flax.linen as nn
    import jax.numpy as jnp

    conv = partial(nn.Conv, use_bias=False)

    class Bottleneck(nn.Module):
        """1x1, 3x3 and 1x1 convolution beside a shortcut."""

        features: int
        stride: int
        norm: Callable

        @nn.compact
        def __call__(self, x):  # [N, H, W, C]
            shortcut = x
            x = nn.relu(self.norm()(conv(self.features, (1, 1))(x)))
            x = nn.relu(self.norm()(conv(self.features, (3, 3), self.stride)(x)))
            x = self.norm(scale_init=nn.initializers.zeros)(conv(4 * self.features, (1, 1))(x))
            if shortcut.shape != x.shape:
                shortcut = self.norm()(conv(4 * self.features, (1, 1), self.stride)(shortcut))
            return nn.relu(shortcut + x)

    class ResNet50(nn.Module):
        """Four stages of bottlenecks."""

        classes: int

        @nn.compact
        def __call__(self, x, training: bool = True):  # [N, H, W, 3]
            norm = partial(nn.BatchNorm, use_running_average=not training, momentum=0.9, epsilon=1e-5)
            x = nn.relu(norm()(conv(64, (7, 7), 2, padding=3)(x)))
            x = nn.max_pool(x, (3, 3), (2, 2), 'SAME')
            for i, repeats in enumerate((3, 4, 6, 3)):
                for j in range(repeats):
                    x = Bottleneck(64 * 2**i, 2 if i and not j else 1, norm)(x)
            return nn.Dense(self.classes)(jnp.mean(x, (1, 2)))

    class MBConv(nn.Module):
        """Expand, depthwise, squeeze and excite, project."""

        expand: int
        features: int
        kernel: int
        stride: int
        norm: Callable

        @nn.compact
        def __call__(self, x):  # [N, H, W, C]
            shortcut, width = x, x.shape[-1] * self.expand
            squeezed = x.shape[-1] // 4
            if self.expand > 1:
                x = nn.silu(self.norm()(conv(width, (1, 1))(x)))
            x = conv(width, (self.kernel, self.kernel), self.stride, feature_group_count=width)(x)
            x = nn.silu(self.norm()(x))
            gates = nn.silu(nn.Conv(squeezed, (1, 1))(jnp.mean(x, (1, 2), keepdims=True)))
            x = x * nn.sigmoid(nn.Conv(width, (1, 1))(gates))
            x = self.norm()(conv(self.features, (1, 1))(x))
            return shortcut + x if shortcut.shape == x.shape else x

    class EfficientNetB0(nn.Module):
        """Table 1 of the paper."""

        classes: int

        @nn.compact
        def __call__(self, x, training: bool = True):  # [N, H, W, 3]
            norm = partial(nn.BatchNorm, use_running_average=not training, momentum=0.9, epsilon=1e-5)
            x = nn.silu(norm()(conv(32, (3, 3), 2)(x)))
            for expand, features, repeats, stride, kernel in (
                (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
                (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
            ):  # fmt: skip
                for j in range(repeats):
                    x = MBConv(expand, features, kernel, 1 if j else stride, norm)(x)
            x = nn.silu(norm()(conv(1280, (1, 1))(x)))
            return nn.Dense(self.classes)(jnp.mean(x, (1, 2)))

    return {'resnet50': ResNet50, 'efficientnet_b0': EfficientNetB0}


def plain_flax(name: str, images: np.ndarray, labels: np.ndarray, classes: int) -> Side:
    """A step in the manner of Flax's ImageNet example: loss and accuracy of the batch, and no more."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax.training import train_state

    class TrainState(train_state.TrainState):
        batch_stats: Any

    network = flax_networks()[name](classes)
    variables = jax.jit(network.init)(jax.random.key(0), images)
    optimizer = optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), optax.sgd(RATE, MOMENTUM, nesterov=True))
    state = TrainState.create(
        apply_fn=network.apply, params=variables['params'], tx=optimizer, batch_stats=variables['batch_stats']
    )
    parameters = sum(array.size for array in jax.tree.leaves(state.params))

    @partial(jax.jit, donate_argnums=0)
    def train_step(state, images, labels):
        def loss_of(params):
            variables = {'params': params, 'batch_stats': state.batch_stats}
            logits, changed = state.apply_fn(variables, images, mutable=['batch_stats'])
            targets = optax.smooth_labels(jax.nn.one_hot(labels, classes), SMOOTHING)
            return optax.softmax_cross_entropy(logits, targets).mean(), (logits, changed)

        (loss, (logits, changed)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        state = state.apply_gradients(grads=grads, batch_stats=changed['batch_stats'])
        return state, {'loss': loss, 'accuracy': jnp.mean(logits.argmax(-1) == labels)}

    batch = jax.device_put((images, labels))
    flops = counted(train_step.lower(state, *batch))

    def step():
        nonlocal state
        state, metrics = train_step(state, *batch)
        return float(metrics['loss'])

    return Side({'step': step}, {'parameters': parameters, 'gflops': flops / 1e9})


# ------------------------------------------------------------------------------------------------------------- timm


def timm_torch(
    name: str, images: np.ndarray, labels: np.ndarray, classes: int, compiled: bool = False, amp: bool = False
) -> Side:
    """A plain PyTorch step of timm's network, channels last.

    `compiled`: by torch.compile; `amp`: in bfloat16 by autocast, on a GPU if there is one.
    """
    import timm
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(2)
    torch.manual_seed(0)
    device = 'cuda' if amp and torch.cuda.is_available() else 'cpu'
    network = timm.create_model(name, num_classes=classes).to(device, memory_format=torch.channels_last).train()
    parameters = sum(array.numel() for array in network.parameters())
    optimizer = torch.optim.SGD(
        network.parameters(), RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True, foreach=True
    )
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    batch = torch.from_numpy(images.transpose(0, 3, 1, 2)).to(device).contiguous(memory_format=torch.channels_last)
    wanted = torch.from_numpy(labels).long().to(device)

    def step(call: Callable[..., Any] = network):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            loss = criterion(call(batch), wanted)
        loss.backward()
        optimizer.step()
        return loss.item()

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(batch)
    flops = 3 * counter.get_total_flops()  # forward and two gradients; of these it counts grouped ones far too high
    call = torch.compile(network) if compiled else network
    return Side({'step': partial(step, call)}, {'parameters': parameters, 'gflops': flops / 1e9})
