"""The `pil` transform is timm's bit for bit, in both readers, and does not depend on the Pillow version."""

# timm brings torchvision, which must come before TensorFlow: in the other order their two copies of LLVM abort the
# process.
import timm.data  # isort: skip

import os

import numpy as np
import pytest
import tensorflow
from PIL import Image

from jeffnet.data import Augmentation, ClassFolder, DataError, Preprocessing, images, pt, tf
from jeffnet.data.preprocessing import least_size, resized_size
from tests import golden_pixels

# (height, width)
SHAPES = [
    (50, 300), (333, 61), (97, 97), (180, 241), (301, 148), (64, 40), (41, 29), (260, 200), (375, 500), (17, 23),
    (129, 400), (500, 334),
]  # fmt: skip
SETTINGS = [
    Preprocessing('pil', 224, 0.875, 'bicubic'),
    Preprocessing('pil', 97, 0.9, 'bilinear'),
    Preprocessing('pil', (64, 112), 0.95, 'bicubic'),
    Preprocessing('pil', 32, 1.0, 'bicubic', mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    Preprocessing('pil', 300, 0.904, 'bilinear'),
    Preprocessing('pil', 96, 1.0, 'bicubic', crop_mode='squash'),
    Preprocessing('pil', (48, 88), 0.9, 'bilinear', crop_mode='squash'),
    Preprocessing('pil', (120, 80), 0.882, 'bilinear', mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
]
SETTING_NAMES = ['224', '97-bilinear', '64x112', '32', '300-bilinear', '96-squash', '48x88-squash', '120x80-bilinear']


def picture(height, width, seed):
    """Noise on coloured blocks: hard edges show a wrong kernel, noise a wrong rounding."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (height // 9 + 1, width // 9 + 1, 3)).repeat(9, 0).repeat(9, 1)[:height, :width]
    return Image.fromarray(np.clip(blocks + rng.integers(-30, 30, blocks.shape), 0, 255).astype(np.uint8))


def turned(image, path):
    """A JPEG whose EXIF says that it is to be shown turned by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


def deep(image, path):
    """16 bits per channel, which Pillow cannot write: the lower bytes are noise."""
    pixels = np.asarray(image).astype(np.uint16) << 8
    noise = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint16)
    data = tensorflow.io.encode_png(pixels + noise).numpy()
    path.write_bytes(data)


WRITERS = {
    '420.jpg': lambda image, path: image.save(path, quality=85),
    '422.jpg': lambda image, path: image.save(path, quality=85, subsampling='4:2:2'),
    '444.jpg': lambda image, path: image.save(path, quality=85, subsampling=0),
    'progressive.jpeg': lambda image, path: image.save(path, progressive=True),
    'grey.jpg': lambda image, path: image.convert('L').save(path),
    'cmyk.jpg': lambda image, path: image.convert('CMYK').save(path),
    'turned.JPEG': turned,
    'png-inside.JPEG': lambda image, path: image.save(path, 'PNG'),
    'rgb.png': lambda image, path: image.save(path),
    'rgb16.png': deep,
    'rgba.png': lambda image, path: image.convert('RGBA').save(path),
    'palette.png': lambda image, path: image.convert('P').save(path, transparency=bytes([9] * 256)),
    'grey.png': lambda image, path: image.convert('L').save(path),
    'grey-alpha.png': lambda image, path: image.convert('LA').save(path),
    'bilevel.png': lambda image, path: image.convert('1').save(path),
    'one.bmp': lambda image, path: image.save(path),
    'lossy.webp': lambda image, path: image.save(path),
    'alpha.webp': lambda image, path: image.convert('RGBA').save(path, lossless=True),
    'one.tiff': lambda image, path: image.save(path),
    'one.ppm': lambda image, path: image.save(path),
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Every format and mode in every shape: 240 images."""
    root = tmp_path_factory.mktemp('images')
    for number, (name, write) in enumerate(WRITERS.items()):
        target = root / f'class{number % 2}'
        target.mkdir(exist_ok=True)
        for index, shape in enumerate(SHAPES):
            write(picture(*shape, seed=20 * number + index), target / f'{index}-{name}')
    found = ClassFolder.open(root)
    assert len(found) == len(WRITERS) * len(SHAPES) >= 200
    return found


def pixels(reader, folder, preprocessing):
    """All images of a set as one reader gives them."""
    batches = list(reader.evaluation_batches(folder, preprocessing, 25, workers=0 if reader is pt else None))
    assert {batch['image'].shape[0] for batch in batches} == {25}
    mask = np.concatenate([batch['mask'] for batch in batches])
    labels = np.concatenate([batch['label'] for batch in batches])
    assert (labels[mask] == folder.labels).all()
    return np.concatenate([batch['image'] for batch in batches])[mask]


def pillow_13_reverses(image, preprocessing):
    """Whether Pillow 13 runs the vertical pass first in timm's resize, which changes timm's own pixels."""
    height, width = resized_size(image.height, image.width, preprocessing)
    return image.height - height > max(0, 2 * (image.width - width))


@pytest.mark.parametrize('preprocessing', SETTINGS, ids=SETTING_NAMES)
def test_pil_equals_timm_in_both_readers(folder, preprocessing):
    from_pt, from_tf = pixels(pt, folder, preprocessing), pixels(tf, folder, preprocessing)
    assert (from_pt == from_tf).all()
    transform = timm.data.create_transform(
        preprocessing.image_size,
        interpolation=preprocessing.interpolation,
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
    compared = 0
    for path, ours in zip(folder.paths, from_pt, strict=True):
        image = Image.open(path)
        image.info.pop('transparency', None)  # or Pillow warns
        image = image.convert('RGB')
        if not pillow_13_reverses(image, preprocessing):
            assert (transform(image).permute(1, 2, 0).numpy() == ours).all(), path
            compared += 1
    assert compared >= (130 if preprocessing.crop_mode == 'squash' else 200)  # a squash of tall images reverses more


@pytest.mark.parametrize('preprocessing', [SETTINGS[0], SETTINGS[2]], ids=['224', '64x112'])
def test_grey_is_the_same_in_both_readers(folder, preprocessing):
    grey = Preprocessing.of(preprocessing.to_dict(), in_chans=1)
    from_pt = pixels(pt, folder, grey)
    assert from_pt.shape[-1] == 1
    assert (from_pt == pixels(tf, folder, grey)).all()


def exact_resize(image, size, interpolation):
    """Horizontal, then vertical pass in whole numbers, [H, W, 3]: what every Pillow before 13 computes."""
    for axis, n_out in ((1, size[1]), (0, size[0])):
        matrix = np.zeros((n_out, image.shape[axis]))
        scale = image.shape[axis] / n_out
        stretch = max(scale, 1)
        for i, row in enumerate(matrix):
            reach = stretch * (2 if interpolation == 'bicubic' else 1)
            centre = (i + 0.5) * scale
            taps = np.arange(max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), image.shape[axis]))
            x = np.abs((taps - centre + 0.5) / stretch)
            cubic = np.where(
                x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0)
            )
            weight = cubic if interpolation == 'bicubic' else np.maximum(1 - x, 0)
            row[taps] = weight / weight.sum()
        whole = np.trunc(matrix * 2**22 + np.copysign(0.5, matrix))
        total = np.moveaxis(np.tensordot(whole, image.astype(float), (1, axis)), 0, axis)
        image = np.clip((total.astype(np.int64) + 2**21) >> 22, 0, 255).astype(np.uint8)
    return image


@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear'])
@pytest.mark.parametrize(
    ('shape', 'size'),
    [((333, 61), (349, 64)), ((301, 148), (32, 32)), ((50, 300), (20, 45)), ((9, 7), (31, 40)), ((2900, 40), (24, 24))],
)
def test_resize_is_exact_whatever_the_pillow_version(shape, size, interpolation):
    image = picture(*shape, seed=0)
    expected = exact_resize(np.asarray(image), size, interpolation)
    assert (np.asarray(images.resize(image, size, interpolation)) == expected).all()
    for top, left, height, width in [(3, 5, 11, 13), (0, 0, 9, 3), (size[0] - 8, size[1] - 6, 8, 6), (0, 0, *size)]:
        box = images.resized_box(image, size, (top, left, height, width), interpolation)
        assert (np.asarray(box) == expected[top : top + height, left : left + width]).all()


def test_an_image_covers_its_crop_after_the_resize():
    for preprocessing in SETTINGS:
        for height, width in np.random.default_rng(1).integers(1, 3000, (40, 2)):
            size = resized_size(int(height), int(width), preprocessing)
            assert all(side >= least for side, least in zip(size, least_size(preprocessing), strict=True))


def test_training_pixels_are_equal_in_both_readers_and_after_a_restart(folder):
    preprocessing, augmentation = Preprocessing('pil', (40, 48)), Augmentation(scale=(0.1, 1), interpolation='bilinear')

    def batches(reader, start):
        stream = reader.training_batches(folder, preprocessing, augmentation, 32, seed=4, start_step=start)
        found = [next(stream) for _ in range(start, 5)]  # runs across the end of the first epoch
        stream.close()
        return found

    straight = batches(pt, 0)
    for found, expected in ((batches(tf, 0), straight), (batches(pt, 3), straight[3:]), (batches(tf, 3), straight[3:])):
        for a, b in zip(found, expected, strict=True):
            assert (a['image'] == b['image']).all() and (a['label'] == b['label']).all()
    assert straight[0]['image'].shape == (32, 40, 48, 3) and straight[0]['image'].dtype == np.float32
    assert (straight[0]['image'] != straight[3]['image']).any()


def test_workers_give_the_same_batches(folder):
    alone = pt.evaluation_batches(folder, SETTINGS[3], 25, workers=0)
    shared = pt.evaluation_batches(folder, SETTINGS[3], 25, workers=1)
    for _ in range(2):  # the worker stays for the second pass
        for a, b in zip(alone, shared, strict=True):
            assert all((a[key] == b[key]).all() for key in a)


BAD = {
    'cut.jpg': lambda good: good['jpg'][: len(good['jpg']) // 2],
    'end.jpg': lambda good: good['jpg'][:-40],
    'head.jpg': lambda good: b'\xff\xd8\xff\xe0 broken JPEG',
    'cut.png': lambda good: good['png'][: len(good['png']) // 2],
    'flipped.png': lambda good: good['png'][:-30] + bytes([good['png'][-30] ^ 255]) + good['png'][-29:],
    'text.jpg': lambda good: b'no image',
    'empty.jpg': lambda good: b'',
    'cut.webp': lambda good: good['webp'][: len(good['webp']) // 2],
}


@pytest.fixture(scope='module')
def spoilt(tmp_path_factory):
    """A folder of one good image, all kinds of bad ones, and a good one."""
    root = tmp_path_factory.mktemp('spoilt') / 'a'
    root.mkdir()
    good = {}
    for kind in ('jpg', 'png', 'webp'):
        picture(61, 83, seed=0).save(root / f'0.{kind}')
        good[kind] = (root / f'0.{kind}').read_bytes()
        (root / f'0.{kind}').unlink()
    for name in ('0.jpg', 'zz.jpg'):
        (root / name).write_bytes(good['jpg'])
    for name, spoil in BAD.items():
        (root / name).write_bytes(spoil(good))
    return root.parent


@pytest.mark.parametrize('kind', ['pil', 'tf'])
@pytest.mark.parametrize('reader', [pt, tf])
def test_bad_images_are_named_or_skipped(reader, kind, spoilt):
    folder, preprocessing = ClassFolder.open(spoilt), Preprocessing(kind, 32)
    with pytest.raises(DataError, match=r'cut\.jpg: cannot be read as an image'):
        list(reader.evaluation_batches(folder, preprocessing, 4))
    for batch_size in (1, 3, 64):
        batches = reader.evaluation_batches(folder, preprocessing, batch_size, on_bad_image='skip')
        for _ in range(2):  # faults are those of one pass
            found = list(batches)
            index, mask = (np.concatenate([batch[key] for batch in found]) for key in ('index', 'mask'))
            assert index[index >= 0].tolist() == list(range(len(folder)))
            assert [folder.paths[i].rpartition('/')[2] for i in index[mask]] == ['0.jpg', 'zz.jpg']
            assert [fault.partition(':')[0].rpartition('/')[2] for fault in batches.faults] == sorted(BAD)
            images = np.concatenate([batch['image'] for batch in found])
            assert (images[mask][0] == images[mask][1]).all() and images[mask].any() and not images[~mask].any()


def test_names_may_hold_any_bytes(tmp_path):
    (tmp_path / 'a').mkdir()
    with open(os.path.join(os.fsencode(tmp_path), b'a', b'\xff\xfe [x] 100%.jpg'), 'wb') as file:
        picture(20, 20, seed=0).save(file, 'JPEG')
    folder = ClassFolder.open(tmp_path)
    ours, theirs = (next(iter(reader.evaluation_batches(folder, SETTINGS[3], 1)))['image'] for reader in (pt, tf))
    assert (ours == theirs).all() and ours.any()


def test_a_bad_image_of_a_worker_is_named(spoilt):
    batches = pt.evaluation_batches(ClassFolder.open(spoilt), SETTINGS[3], 2, workers=1)
    with pytest.raises(DataError, match=r'cut\.jpg: cannot be read as an image'):
        list(batches)


@pytest.mark.parametrize('reader', [pt, tf])
def test_a_file_that_has_gone_is_named(reader, tmp_path):
    (tmp_path / 'a').mkdir()
    for name in ('1.png', '2.png'):
        picture(20, 20, seed=0).save(tmp_path / 'a' / name)
    folder = ClassFolder.open(tmp_path)
    (tmp_path / 'a' / '2.png').unlink()
    with pytest.raises(DataError, match=r'2\.png: cannot be read as an image'):
        list(reader.evaluation_batches(folder, SETTINGS[3], 2))


# --- settings


@pytest.mark.parametrize(
    ('setting', 'message'),
    [
        ({'kind': 'keras'}, "preprocessing is 'keras'; allowed: pil, tf"),
        ({'image_size': 0}, 'image_size is 0; allowed'),
        ({'image_size': (3, 4, 5)}, 'image_size is'),
        ({'crop_pct': 1.5}, 'crop_pct is 1.5; allowed: above 0, at most 1'),
        ({'crop_pct': float('nan')}, 'crop_pct is nan'),
        ({'interpolation': 'lanczos'}, "interpolation is 'lanczos'; allowed: bicubic, bilinear"),
        ({'mean': (1.0, 2.0)}, 'mean is'),
        ({'std': (0.2, 0.0, 0.2)}, 'std is .*; allowed: above 0'),
        ({'in_chans': 4}, r'in_chans is 4; allowed: 1 \(grey\) or 3 \(RGB\)'),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**setting)


@pytest.mark.parametrize('setting', [{'scale': (0.5, 2)}, {'ratio': (2, 1)}, {'hflip': 2}, {'interpolation': 'box'}])
def test_bad_augmentations_are_named(setting):
    with pytest.raises(ValueError, match=f'{next(iter(setting))} is .*; allowed'):
        Augmentation(**setting)


def test_settings_survive_json_and_overrides():
    import json

    preprocessing = Preprocessing('tf', (96, 64), 0.9, in_chans=1)
    assert preprocessing.mean == (pytest.approx(0.449),)
    assert Preprocessing.of(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing
    changed = Preprocessing.of(preprocessing.to_dict(), image_size=32, crop_pct=None, mean=(0.5,))
    assert (changed.image_size, changed.crop_pct, changed.mean) == ((32, 32), 0.9, (0.5,))
    with pytest.raises(ValueError, match=r"preprocessing field is \['crop'\]; allowed: bgr, crop_mode, crop_pct"):
        Preprocessing.of(preprocessing.to_dict(), crop=1)


def test_description_reads_in_order():
    assert SETTINGS[0].describe() == (
        'pil: RGB, resize short side to 256 (bicubic, antialiased), crop centre 224x224, '
        'mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225)'
    )


def test_16_bit_grey_is_read_alike(tmp_path):
    (tmp_path / 'a').mkdir()
    values = np.random.default_rng(0).integers(0, 2**16, (40, 40)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / 'a' / '0.png')
    folder, preprocessing = ClassFolder.open(tmp_path), Preprocessing('pil', 32, 1.0)
    ours, theirs = (next(iter(reader.evaluation_batches(folder, preprocessing, 1)))['image'] for reader in (pt, tf))
    np.testing.assert_array_equal(ours, theirs)
    assert ours.std() > 0.3  # neither cut at white nor black


def test_pixels_are_those_of_every_pillow_version():
    # The hashes are the same under Pillow 10.4, 11.3, 12.0 and 13.0: `python -m tests.golden_pixels` in each.
    assert golden_pixels.different() == []
