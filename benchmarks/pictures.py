"""Photograph-like JPEG files for the benchmarks: the sizes of ImageNet's images, smooth areas, edges and fine noise."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZES = [(375, 500), (500, 375), (333, 500), (500, 333), (500, 500), (400, 300), (768, 1024)]  # (height, width)
CLASSES = 8


def picture(index: int) -> Image.Image:
    """One picture; about 0.2 byte per pixel as JPEG of quality 90."""
    rng = np.random.default_rng(index)
    height, width = SIZES[index % len(SIZES)]
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    edges = rng.integers(-60, 60, (height // 40 + 1, width // 40 + 1, 1)).repeat(40, 0).repeat(40, 1)[:height, :width]
    noise = rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + edges + noise, 0, 255).astype(np.uint8))


def write(folder: Path, images: int) -> Path:
    """Class folders of so many files."""
    for index in range(images):
        target = folder / f'class{index % CLASSES}'
        target.mkdir(parents=True, exist_ok=True)
        picture(index).save(target / f'{index:05d}.jpg', quality=90)
    return folder
