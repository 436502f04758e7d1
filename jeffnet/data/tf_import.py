"""TensorFlow as the reader needs it: without GPUs, and without its lines on standard error.

    from jeffnet.data.tf_import import tf

A process that needs torchvision as well must import that first: after TensorFlow, it aborts the process.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Hides standard error: TensorFlow writes lines there while it is imported, whatever its log level is."""
    kept = os.dup(2)
    with open(os.devnull, 'w') as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')  # it has nothing for images, and logs that as an error
if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':  # nobody's wish: jax sets 1
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'  # what TensorFlow logs as an error, it raises too
with quiet():
    import tensorflow as tf

    tf.get_logger().setLevel('ERROR')  # it warns of what TensorFlow Datasets calls
    tf.config.set_visible_devices([], 'GPU')  # it would otherwise take all of the memory that JAX needs
