"""ResNet-RS as Keras 2 has it, which Keras 3 left out: `python -m benchmarks.tf_keras_reference FOLDER [ResNetRS50]`.

Writes `model.h5`, `model.weights.h5` and `model.keras` of a network with random weights, and `logits.npz` with images
`x`, prepared as jeffnet takes them, and logits `y`, both in float64. A process of its own: it needs TensorFlow.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np
import tf_keras as keras

SIZE = (64, 64)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the layer that normalises the images


def main(folder: str, constructor: str = 'ResNetRS50') -> None:
    rng = np.random.default_rng(0)
    build = getattr(keras.applications, constructor)
    options = {'weights': None, 'classifier_activation': None, 'input_shape': (*SIZE, 3)}
    model = build(**options)
    for layer in model.layers:
        if not isinstance(layer, keras.layers.Normalization):  # keeps the images' statistics
            layer.set_weights([drawn(rng, variable.name, tuple(variable.shape)) for variable in layer.weights])
    for kind in ('h5', 'weights.h5', 'keras'):
        (model.save if kind == 'keras' else model.save_weights)(Path(folder) / f'model.{kind}')
    keras.backend.set_floatx('float64')
    exact = build(**options)
    exact.set_weights([array.astype(np.float64) for array in model.get_weights()])
    x = rng.standard_normal((4, *SIZE, 3))
    y = exact(255 * (x * STD + MEAN), training=False)
    np.savez(Path(folder) / 'logits.npz', x=x, y=np.asarray(y))


def drawn(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A random array for a variable: no default zero or one hides a mistake, and none makes the network chaotic."""
    if 'kernel' in name:
        return rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape)
    if 'gamma' in name or 'variance' in name:
        return rng.uniform(0.5, 1.5, shape) if 'variance' in name else rng.uniform(0.3, 0.9, shape)
    return rng.normal(0, 0.3, shape)


if __name__ == '__main__':
    main(*sys.argv[1:])
