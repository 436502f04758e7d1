"""Pixels that must never change, whatever the version of Pillow: files in tests/data/pixels and the hashes of outputs.

    python -m tests.golden_pixels            checks, and names the version of Pillow; exit status 1 if pixels differ
    python -m tests.golden_pixels --write    makes files and hashes anew

It needs NumPy and Pillow only, so that one environment per version of Pillow is quickly made.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from jeffnet.data.images import evaluation_image
from jeffnet.data.preprocessing import Preprocessing

FOLDER = Path(__file__).parent / 'data' / 'pixels'
HASHES = FOLDER / 'hashes.json'
SETTINGS = {
    'pil 64 bicubic': Preprocessing('pil', 64, 0.875, 'bicubic'),
    'pil 40x56 bilinear': Preprocessing('pil', (40, 56), 0.95, 'bilinear'),
    'pil 32 bicubic grey': Preprocessing('pil', 32, 1.0, 'bicubic', in_chans=1),
    'tf 64 bicubic': Preprocessing('tf', 64, 64 / 96, 'bicubic'),
}
# A tall image is where Pillow 13 reverses the two passes of a resize.
SHAPES = {'tall-420.jpg': (190, 61), 'wide-422.jpg': (70, 133), 'cmyk.jpg': (80, 90), 'palette.png': (95, 77)}


def write_files() -> None:
    """Small files of noise on coloured blocks."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for seed, (name, (height, width)) in enumerate(SHAPES.items()):
        rng = np.random.default_rng(seed)
        blocks = rng.integers(0, 256, (height // 9 + 1, width // 9 + 1, 3)).repeat(9, 0).repeat(9, 1)[:height, :width]
        image = Image.fromarray(np.clip(blocks + rng.integers(-20, 20, blocks.shape), 0, 255).astype(np.uint8))
        if name == 'cmyk.jpg':
            image = image.convert('CMYK')
        if name == 'palette.png':
            image = image.convert('P')
        options = {'subsampling': '4:2:2'} if '422' in name else {}
        image.save(FOLDER / name, **options)


def hashes() -> dict[str, str]:
    """SHA-256 of the float32 values of every file under every setting."""
    return {
        f'{name}, {setting}': hashlib.sha256(
            np.ascontiguousarray(evaluation_image((FOLDER / name).read_bytes(), preprocessing), '<f4').tobytes()
        ).hexdigest()
        for name in SHAPES
        for setting, preprocessing in SETTINGS.items()
    }


def different() -> list[str]:
    """What does not have the pixels that it had."""
    expected, found = json.loads(HASHES.read_text()), hashes()
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--write', action='store_true')
    if parser.parse_args().write:
        write_files()
        HASHES.write_text(json.dumps(hashes(), indent=1) + '\n')
        return 0
    wrong = different()
    print(
        f'Pillow {PIL.__version__}, NumPy {np.__version__}: {len(wrong)} of {len(hashes())} differ', *wrong, sep='\n  '
    )
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
