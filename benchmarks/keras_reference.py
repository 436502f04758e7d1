"""Keras Applications as the judge: networks with random weights, their files in every format, logits and feature maps.

Keras runs on its NumPy back end, which needs no TensorFlow, or on that of KERAS_BACKEND: PyTorch is several times as
fast in float64, but cannot build NASNet. A process that has Keras already keeps its back end.
"""

import os
import zlib
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

os.environ.setdefault('KERAS_BACKEND', 'numpy')

import h5py
import jax
import keras
import numpy as np
from keras.src.backend.common import dtypes

import jeffnet

# What Keras 3 writes, with the whole model in the legacy format, and `hosted`: legacy as the published files.
FORMATS = ('weights.h5', 'hosted', 'keras', 'h5')
SIZES = ((64, 64), (97, 75))  # even; odd, and not square
LARGER = {  # by the beginning of the name, where Keras takes no smaller ones or random networks get unstable
    'keras_inception': ((96, 96), (107, 90)), 'keras_xception': ((71, 71), (97, 82)), 'keras_vgg': ((224, 224),),
    'keras_efficientnet_b7': ((96, 96), (97, 75)), 'keras_efficientnet_v2_l': ((96, 96), (129, 107)),
    'keras_efficientnet_v2': ((96, 96), (97, 75)), 'keras_nasnet_large': ((96, 96), (97, 75)),
}  # fmt: skip
Image = tuple[int, int]  # height, width


def build(name: str, size: Image, drawn: bool = True, **options: Any) -> Any:
    """The network of a name of ours with random weights, ending in logits, for images of one size."""
    info = jeffnet.model_info(name)
    keras.utils.set_random_seed(zlib.crc32(name.encode()))
    keras.backend.clear_session()  # the numbers of layers without names begin anew
    options = {
        'weights': None, 'classifier_activation': None, 'input_shape': (*size, 3), **info.keras_options, **options
    }  # fmt: skip
    model = getattr(keras.applications, info.keras)(**options)
    if not drawn:
        return model
    randomise(model, size)
    for layer in normalisations(model):
        layer.adapt_mean.assign(np.asarray(info.mean))
        layer.adapt_variance.assign(np.square(info.std))
        layer.finalize_state()
    return model


def randomise(model: Any, size: Image) -> None:
    """Draws every array so that no default zero or one hides a mistake, and the output depends on the input.

    Fan-in-scaled kernels; random scales and biases; statistics of batch norms measured on random images, layer by
    layer, each perturbed before the next is measured. The scales at the end of residual branches, or the kernels of
    those that Inception-ResNet scales by a constant, are small, so that deep networks are not chaotic.
    """
    rng = np.random.default_rng(zlib.crc32(model.name.encode()))
    last = {name for layer in model.layers if isinstance(layer, keras.layers.Add) for name in parents(layer)}
    scaled = {name for layer in model.layers if type(layer).__name__ == 'CustomScaleLayer' for name in parents(layer)}
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in model.layers:
        for variable in layer.variables:
            shape = tuple(variable.shape)
            if variable.name.endswith('kernel'):
                spatial = int(np.prod(shape[:2])) if variable.name.startswith('depthwise') else int(np.prod(shape[:-1]))
                variable.assign(rng.normal(0, (0.4 if layer.name in scaled else 1) * (2 / spatial) ** 0.5, shape))
            elif type(layer).__name__ == 'LayerScale':  # its variable has no name
                variable.assign(rng.uniform(0.2, 0.6, shape))
            elif variable.name == 'gamma':
                low, high = (0.2, 0.6) if layer.name in last else (0.5, 1.5)
                variable.assign(rng.uniform(low, high, shape))
            elif variable.name in ('beta', 'bias'):
                variable.assign(rng.normal(0, 0.3, shape))
    usual = [norm.call for norm in norms]
    for norm in norms:
        norm.call = partial(calibrated, norm, norm.call, rng)
    logits(model, rng.standard_normal((4, *size, 3)).astype(np.float32))
    for norm, call in zip(norms, usual, strict=True):
        norm.call = call


def calibrated(norm: Any, call: Callable, rng: np.random.Generator, x: Any, **_: Any) -> Any:
    """Sets the statistics of a batch norm to those of its input, perturbed; its output with them."""
    x = keras.ops.convert_to_numpy(x)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    norm.moving_mean.assign(mean + 0.2 * np.sqrt(var) * rng.standard_normal(mean.shape))
    norm.moving_variance.assign((var + 0.5 * var.mean()) * np.exp(0.3 * rng.standard_normal(var.shape)))
    return call(x, training=False)


def parents(layer: Any) -> list[str]:
    """The names of the layers whose outputs a layer takes."""
    return [tensor._keras_history.operation.name for node in layer._inbound_nodes for tensor in node.input_tensors]


def sizes_of(name: str) -> tuple[Image, ...]:
    """The image sizes at which a name is compared."""
    return next((sizes for start, sizes in LARGER.items() if name.startswith(start)), SIZES)


class Judge:
    """A function from prepared images to Keras' logits, in the type of the images."""

    def __init__(self, name: str, size: Image, **options: Any):
        self.model = build(name, size, **options)
        self.rebuild = partial(build, name, size, drawn=False, **options)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if x.dtype != np.float64:
            return logits(self.model, x)
        usual, wide = (keras.config.floatx(), jax.config.jax_enable_x64), ('float64', True)
        try:
            set_precision(*wide)  # JAX's too: Keras' NumPy back end convolves with it
            return logits(self.exact, x)
        finally:
            set_precision(*usual)

    @cached_property
    def exact(self) -> Any:
        """The same network in float64."""
        exact = self.rebuild()
        exact.set_weights([array.astype(np.float64) for array in self.model.get_weights()])
        for layer in normalisations(exact):
            layer.finalize_state()
        return exact


def set_precision(floatx: str, x64: bool) -> None:
    """The type of new Keras networks, and whether JAX has 64 bits."""
    dtypes.BIT64_TO_BIT32_DTYPE['float64'] = floatx  # else Keras makes 32 bits of 64 wherever it promotes types
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(floatx)
    jax.config.update('jax_enable_x64', x64)


def save(model: Any, folder: Path, kind: str) -> Path:
    """The model's file in one of `FORMATS`."""
    path = folder / f'{model.name}.{kind}'
    if kind == 'hosted':
        path = folder / f'{model.name}_weights_tf_dim_ordering_tf_kernels.h5'
        save_hosted(model, path)
    elif kind == 'weights.h5':
        model.save_weights(path)
    else:
        model.save(path)
    return path


def save_hosted(model: Any, path: Path) -> None:
    """A legacy file as Keras 2 wrote it: a group for each layer, with the order in attributes, names with `:0`."""
    with h5py.File(path, 'w') as file:
        file.attrs['layer_names'] = [layer.name.encode() for layer in model.layers]
        file.attrs['backend'], file.attrs['keras_version'] = b'tensorflow', b'2.2.4'
        for layer in model.layers:
            group = file.create_group(layer.name)
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            names = [f'{layer.name}/{"depthwise_" * (depthwise and v.name == "kernel")}{v.name}:0'
                     for v in layer.weights]  # fmt: skip
            group.attrs['weight_names'] = [name.encode() for name in names]
            for name, variable in zip(names, layer.weights, strict=True):
                group[name] = keras.ops.convert_to_numpy(variable)


def normalisations(model: Any) -> list[Any]:
    """The layers that normalise the image, with variables of their own."""
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Normalization) and layer.variables]


def unprepared(model: Any, x: np.ndarray) -> np.ndarray:
    """The pixels that a network which prepares its images itself turns into `x`."""
    for layer in reversed(model.layers[:4]):
        if isinstance(layer, keras.layers.Normalization):
            mean, variance = map(keras.ops.convert_to_numpy, (layer.mean, layer.variance))
            x = (x * np.sqrt(variance) + mean).astype(x.dtype)
        elif isinstance(layer, keras.layers.Rescaling):
            x = ((x - np.asarray(layer.offset)) / np.asarray(layer.scale)).astype(x.dtype)
    return x


def logits(model: Any, x: np.ndarray) -> np.ndarray:
    """The network's output for prepared images `[N, H, W, C]`."""
    with np.errstate(over='ignore'):  # Keras' sigmoid in NumPy, of large negative numbers
        return keras.ops.convert_to_numpy(model(unprepared(model, x), training=False))


def feature_maps(model: Any, x: np.ndarray) -> list[np.ndarray]:
    """The outputs `[N, h, w, C]` of all layers and operations for prepared images, in Keras' order."""
    outputs = [step.output for step in model.operations if len(step.output.shape) == 4]
    every = keras.Model(model.inputs[0], outputs)
    with np.errstate(over='ignore'):
        return [keras.ops.convert_to_numpy(output) for output in every(unprepared(model, x), training=False)]
