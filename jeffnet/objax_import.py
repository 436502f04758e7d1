"""Imports objax 1.8.0 (its last release) so that it works on current JAX, and quickly; the one place that does so.

- Importing objax imports TensorFlow, where that is installed, for an export helper and through tensorboard: seconds of
  time and, beside torchvision, a crash. It is kept out unless the user has imported it already.
- It imports `scipy.stats`, a second of time, for one initialiser; scipy loads that by itself when it is used.
- Its check of every assignment names a class that JAX has removed (`PmapSharding`), and there are no arrays of that
  kind any more.
"""

import contextlib
import sys
import types

import jax


@contextlib.contextmanager
def _stand_in(name: str, module: types.ModuleType | None):
    """Puts `module` (or with None, an ImportError) in the place of a module that has not been imported yet."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = module  # type: ignore[assignment]  None is Python's own sign for "fail this import"
    try:
        yield
    finally:
        if sys.modules.get(name) is module:
            del sys.modules[name]


try:
    with _stand_in('tensorflow', None), _stand_in('scipy.stats', types.ModuleType('scipy.stats')):
        import objax
        import objax.util.check
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"jeffnet.objax needs the packages objax and six ({error}); install them with: pip install 'jeffnet[objax]'"
    ) from error

if not hasattr(jax.sharding, 'PmapSharding'):
    objax.util.check.split_shape_and_device = lambda array: (None, array.shape)

__all__ = ['objax']
