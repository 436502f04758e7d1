"""Arrays of a file fitted to another number of channels or another image size."""

import math

import numpy as np


def channels(kernel: np.ndarray, count: int) -> np.ndarray:
    """A first convolution's kernel `[KH, KW, I, O]` for `count` channels, the same output on equal channels.

    One channel: the sum over the input channels. Others: the channels repeated in turn and scaled by I / count.
    """
    if count == 1:
        return kernel.sum(2, keepdims=True, dtype=np.float32)
    chosen = np.arange(count) % kernel.shape[2]
    return kernel[:, :, chosen].astype(np.float32) * np.float32(kernel.shape[2] / count)


def positions(
    table: np.ndarray, grid: tuple[int, int], prefix_tokens: int = 0, old: tuple[int, int] | None = None
) -> np.ndarray:
    """A position table `[1, prefix + H * W, C]` resampled to `grid`, (height, width): antialiased bicubic, as timm.

    The first `prefix_tokens` rows (class token, registers) stay as they are. `old` is the grid of the table, by default
    a square one; raises ValueError if the table has another number of places.
    """
    prefix, grid_part = table[:, :prefix_tokens], table[:, prefix_tokens:]
    old = old or square_grid(grid_part.shape[1])
    if math.prod(old) != grid_part.shape[1]:
        raise ValueError(f'a position table of {grid_part.shape[1]} places is no grid of {old[0]} x {old[1]}')
    image = grid_part.astype(np.float32).reshape(*old, -1)
    rows, columns = (bicubic_weights(*sizes) for sizes in zip(old, grid, strict=True))
    resampled = np.einsum('hi,wj,ijc->hwc', rows, columns, image, optimize=True)
    return np.concatenate([prefix, resampled.reshape(1, grid[0] * grid[1], -1)], 1).astype(np.float32)


def square_grid(places: int) -> tuple[int, int]:
    """(side, side) of a square of so many places; ValueError if there is none."""
    side = math.isqrt(places)
    if side * side != places:
        raise ValueError(f'a position table of {places} places is no square grid and cannot be resampled')
    return side, side


def bicubic_weights(old: int, new: int) -> np.ndarray:
    """The matrix `[new, old]` of a bicubic resize with antialiasing and half-pixel centres (Keys, a = -0.5)."""
    scale = max(old / new, 1.0)  # the kernel widens when shrinking: that is the antialiasing
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    x = np.abs(np.arange(old)[None] - centres[:, None]) / scale
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
