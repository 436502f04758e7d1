"""JPEG files decoded as TensorFlow does, bit for bit: the judge is `tf.io.decode_and_crop_jpeg`."""

import io

import numpy as np
import pytest
import tensorflow
from PIL import Image

from jeffnet.data import jpeg


def encoded(rng, height, width, kind):
    """A JPEG of noise on coloured blocks."""
    blocks = rng.integers(0, 256, (height // 9 + 1, width // 9 + 1, 3)).repeat(9, 0).repeat(9, 1)[:height, :width]
    image = Image.fromarray(np.clip(blocks + rng.integers(-30, 30, blocks.shape), 0, 255).astype(np.uint8))
    options = {'quality': int(rng.integers(40, 98))}
    if kind in ('4:4:4', '4:2:2', '4:2:0', '4:1:1'):
        options['subsampling'] = kind
    elif kind == '4:4:0':  # Pillow does not write it: the file of a 4:2:2 one, its factors exchanged
        options['subsampling'] = '4:2:2'
    elif kind == 'progressive':
        options['progressive'] = True
    elif kind == 'rgb':
        options['keep_rgb'] = True
    elif kind in ('L', 'CMYK'):
        image = image.convert(kind)
    file = io.BytesIO()
    image.save(file, 'jpeg', **options)
    data = bytearray(file.getvalue())
    if kind == '4:4:0':
        place = data.find(b'\xff\xc0') + 11
        assert data[place] == 0x21
        data[place] = 0x12
    return bytes(data)


@pytest.mark.parametrize('kind', ['4:4:4', '4:2:2', '4:2:0', '4:1:1', '4:4:0', 'progressive', 'L', 'CMYK', 'rgb'])
def test_every_box_of_every_kind_of_jpeg(kind):
    rng = np.random.default_rng(len(kind))
    for trial in range(60):
        height, width = (int(side) for side in rng.integers(1, 9 if trial % 4 == 0 else 110, 2))
        data = encoded(rng, height, width, kind)
        box = (0, 0, height, width)
        if trial % 3:
            high, wide = (int(rng.integers(1, side + 1)) for side in (height, width))
            box = (int(rng.integers(0, height - high + 1)), int(rng.integers(0, width - wide + 1)), high, wide)
        expected = tensorflow.io.decode_and_crop_jpeg(data, box, channels=3).numpy()
        found = jpeg.decode_box(Image.open(io.BytesIO(data)), box)
        assert found.dtype == np.uint8 and (found == expected).all(), (height, width, box)
