"""The check of a network's input: one clear error instead of a wrong number."""

import jax
import jax.numpy as jnp
import numpy as np


def check_images(x, in_chans: int, smallest: int = 1):
    """Returns `x` if it is a batch of float images `[N, H, W, in_chans]` of at least `smallest` pixels a side.

    Raises ValueError for another shape and TypeError for another type.
    """
    if not isinstance(x, jax.Array | np.ndarray):
        kind = f'{type(x).__module__}.{type(x).__name__}'
        raise TypeError(f'images must be a JAX or NumPy array [N, H, W, {in_chans}], not {kind}')
    check_batch(x, in_chans)
    if x.shape[3] != in_chans:
        nchw = x.shape[1] == in_chans
        hint = '; this looks like [N, C, H, W]: use x.transpose(0, 2, 3, 1)' if nchw else '; see the argument in_chans'
        raise ValueError(f'images must have the shape [N, H, W, {in_chans}], not {tuple(x.shape)}{hint}')
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f'images must be floating-point and normalised, not {x.dtype}: scale to [0, 1], subtract the mean and '
            'divide by the std of jeffnet.model_info(name)'
        )
    if min(x.shape[1:3]) < smallest:
        raise ValueError(
            f'images of {x.shape[1]} x {x.shape[2]} pixels: this network takes at least {smallest} x {smallest}'
        )
    return x


def check_batch(images, in_chans: int | str = 'C'):
    """Raises ValueError for what has not the four axes of a batch of images."""
    shape = getattr(images, 'shape', None)
    if shape is None:
        raise ValueError(f'images must be an array [N, H, W, {in_chans}], not {type(images).__name__}')
    if len(shape) != 4:
        hint = '; add the batch axis with x[None]' if len(shape) == 3 else ''
        raise ValueError(f'images must have the shape [N, H, W, {in_chans}], not {tuple(shape)}{hint}')
