"""Padding rules: what 'SAME', 'LIKE', 'VALID', a number or explicit pairs mean for one window and one image."""

from jeffnet.core.block import Padding

Pairs = tuple[tuple[int, int], tuple[int, int]]


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """(value, value) for a number."""
    return (value, value) if isinstance(value, int) else tuple(value)


def same(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """TensorFlow's SAME: ceil(size / stride) outputs, the odd pixel of padding at the end."""
    total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def like(kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """PyTorch models' symmetric padding, whatever the size of the image."""
    each = (stride - 1 + dilation * (kernel - 1)) // 2
    return each, each


def resolve(padding: Padding, size, kernel, stride, dilation=(1, 1)) -> Pairs:
    """((top, bottom), (left, right)) in pixels, for sizes given as (height, width) pairs."""
    if padding == 'SAME':
        high, wide = (same(*numbers) for numbers in zip(size, kernel, stride, dilation, strict=True))
    elif padding == 'LIKE':
        high, wide = (like(*numbers) for numbers in zip(kernel, stride, dilation, strict=True))
    elif padding == 'VALID':
        high = wide = (0, 0)
    elif isinstance(padding, int):
        high = wide = (padding, padding)
    elif isinstance(padding, str):
        raise ValueError(f"padding {padding!r}: expected 'SAME', 'LIKE', 'VALID', a number, or ((t, b), (l, r))")
    else:
        high, wide = padding
    return high, wide
