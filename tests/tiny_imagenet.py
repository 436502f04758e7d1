"""A small ImageNet in the real formats, from generated pictures: `python -m tests.tiny_imagenet OUT --prepare`.

    OUT/folders/{train,validation}/n01440764/*.JPEG    class folders
    OUT/archives/ILSVRC2012_img_{train,val}.tar        the official archives, of the same files
    OUT/real.json                                      ImageNet-ReaL labels
    OUT/tfds                                           by `prepare`: TensorFlow Datasets' imagenet2012
    OUT/records                                        by `write_records`: TFRecord files of the TPU and TF-Slim code

Validation images are called as the real set's first, and have the true classes of these names: TensorFlow Datasets has
only a list of labels in the order of names. As in the real set, the training images hold one PNG and CMYK JPEGs (here
one), with the names that converters know, and both splits hold grey images and images with an EXIF orientation.
"""

import argparse
import importlib.util
import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from jeffnet.data.imagenet import synsets

PNG = 'n02105855_2933.JPEG'  # the real set's only PNG
CMYK = 'n01739381_1309.JPEG'  # one of its 22 CMYK images
GREY, ROTATED = 4, 7  # of each ten images of a split, counted from 1, one is grey, one has an EXIF orientation
ORIENTATION = 0x0112  # EXIF's tag
SHARE = 0.6  # of the class's colour in a picture


def write(out: str | Path, images: int = 12, classes: int = 0, per_class: int = 1, seed: int = 0) -> Path:
    """Writes class folders, both archives and real.json below OUT: so many images for validation, and for each class.

    The training set has the classes of the validation images and of the two exceptions, and others up to `classes`.
    """
    out = Path(out)
    labels = validation_labels(images)
    train = train_files(labels, classes, per_class)
    (out / 'folders').mkdir(parents=True)  # fails where an earlier set would be mixed with this one
    for stream, (split, files) in enumerate([('train', train), ('validation', validation_files(labels))]):
        for position, (name, label) in enumerate(files, 1):
            path = out / 'folders' / split / synsets()[label] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(name, label, position, np.random.default_rng([seed, stream, position])))
    (out / 'archives').mkdir()
    write_train_archive(out)
    write_validation_archive(out, seed)
    (out / 'real.json').write_text(json.dumps([reassessed(number, label) for number, label in enumerate(labels, 1)]))
    return out


def validation_labels(images: int) -> list[int]:
    """The true classes of the real validation images 1 to `images`."""
    spec = importlib.util.find_spec('tensorflow_datasets')  # only found, not imported: that takes seconds
    assert spec and spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / 'datasets' / 'imagenet2012' / 'validation_labels.txt'
    ids = path.read_text().split()
    if not 1 <= images <= len(ids):
        raise ValueError(f'images is {images}; the real set has 1 to {len(ids)}')
    index = {wordnet_id: label for label, wordnet_id in enumerate(synsets())}
    return [index[wordnet_id] for wordnet_id in ids[:images]]


def validation_files(labels: list[int]) -> list[tuple[str, int]]:
    """(name, label) of each validation image, in the order of names."""
    return [(f'ILSVRC2012_val_{number:08d}.JPEG', label) for number, label in enumerate(labels, 1)]


def train_files(labels: list[int], classes: int, per_class: int) -> list[tuple[str, int]]:
    """(name, label) of each training image, in class order: `per_class` of each class, and the two exceptions."""
    exceptions = {synsets().index(name.split('_')[0]): name for name in (PNG, CMYK)}
    chosen = {*exceptions, *labels}
    others = [label for label in range(len(synsets())) if label not in chosen]
    chosen.update(others[: max(classes - len(chosen), 0)])
    files = []
    for label in sorted(chosen):
        names = [f'{synsets()[label]}_{number}.JPEG' for number in range(1, per_class + 1)]
        files += [(name, label) for name in [*names, *([exceptions[label]] if label in exceptions else [])]]
    return files


def encoded(name: str, label: int, position: int, rng: np.random.Generator) -> bytes:
    """An image file of a class: a JPEG in one of the many ways that occur, or one of the exceptions."""
    image, buffer = Image.fromarray(picture(label, rng)), io.BytesIO()
    if name == PNG:
        image.save(buffer, 'PNG')
        return buffer.getvalue()
    options = {'quality': 75 + position % 20, 'subsampling': position % 3, 'progressive': position % 5 == 0}
    if name == CMYK:
        image = image.convert('CMYK')
    elif position % 10 == GREY:
        image = image.convert('L')
    elif position % 10 == ROTATED:
        options['exif'] = exif = Image.Exif()
        exif[ORIENTATION] = 6  # to be shown turned by 90 degrees
    image.save(buffer, 'JPEG', **options)
    return buffer.getvalue()


def picture(label: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 [H, W, 3] of odd height and width: blocks with hard edges and noise, tinted with the class's colour."""
    height, width = rng.integers(30, 160, 2) * 2 + 1
    side = rng.integers(5, 20)
    blocks = rng.integers(0, 256, (height // side + 1, width // side + 1, 3)).repeat(side, 0).repeat(side, 1)
    noise = rng.integers(-25, 26, (height, width, 3))
    pixels = SHARE * class_colour(label) + (1 - SHARE) * blocks[:height, :width] + noise
    return np.clip(pixels, 0, 255).astype(np.uint8)


def class_colour(label: int) -> np.ndarray:
    """A colour of its own for each of the 1000 classes, neighbours far apart, as float [3]."""
    place = label * 317 % 1000  # 317 has no factor in common with 1000: all places are taken
    return 20.0 + 24 * np.array([place // 100, place // 10 % 10, place % 10])


def reassessed(number: int, label: int) -> list[int]:
    """ReaL labels of a validation image: mostly its label; of each six, one has another, one two, one none."""
    other = (label + 1) % len(synsets())
    return {0: [], 3: [other], 5: [other, label]}.get(number % 6, [label])


def write_train_archive(out: Path) -> None:
    """The official training archive: a tar of one tar for each class."""
    with tarfile.open(out / 'archives' / 'ILSVRC2012_img_train.tar', 'w') as archive:
        for folder in sorted((out / 'folders' / 'train').iterdir()):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode='w') as inner:
                for path in sorted(folder.iterdir()):
                    add(inner, path.name, path.read_bytes())
            add(archive, f'{folder.name}.tar', buffer.getvalue())


def write_validation_archive(out: Path, seed: int) -> None:
    """The official validation archive: all images side by side, and not in the order of their names."""
    paths = sorted((out / 'folders' / 'validation').glob('*/*.JPEG'), key=lambda path: path.name)
    with tarfile.open(out / 'archives' / 'ILSVRC2012_img_val.tar', 'w') as archive:
        for index in np.random.default_rng(seed).permutation(len(paths)):
            add(archive, paths[index].name, paths[index].read_bytes())


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """Appends a file, without the time and owner that would make archives differ."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def prepare(out: str | Path, shards: int | None = None) -> Path:
    """Runs TensorFlow Datasets' imagenet2012 builder on the archives; the data_dir to open the set with."""
    import tensorflow_datasets as tfds

    # No check had to be relaxed: the builder compares neither the archives in manual_dir with its checksums nor the
    # number of examples with the real one. try_download_gcs would first look for a prepared set in the network.
    out = Path(out)
    config = tfds.download.DownloadConfig(manual_dir=out / 'archives', try_download_gcs=False, num_shards=shards)
    tfds.builder('imagenet2012', data_dir=out / 'tfds').download_and_prepare(download_config=config)
    return out / 'tfds'


def write_records(out: str | Path, split: str = 'validation', shards: int = 2) -> Path:
    """Writes a split as TFRecord files such as validation-00000-of-00002, in the order of names; their folder."""
    import tensorflow as tf

    folder = Path(out) / 'records'
    folder.mkdir(exist_ok=True)
    paths = sorted((Path(out) / 'folders' / split).glob('*/*.JPEG'), key=lambda path: path.name)
    for shard, indices in enumerate(np.array_split(np.arange(len(paths)), shards)):
        with tf.io.TFRecordWriter(str(folder / f'{split}-{shard:05d}-of-{shards:05d}')) as writer:
            for index in indices:
                writer.write(example(paths[index]))
    return folder


def example(path: Path) -> bytes:
    """A serialised tf.Example with the features of the TPU code, which makes RGB JPEGs of the exceptions."""
    import tensorflow as tf

    data = path.read_bytes()
    if path.name in (PNG, CMYK):
        data = tf.io.encode_jpeg(tf.io.decode_image(data), format='rgb', quality=100).numpy()
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    features = {
        'image/height': height,
        'image/width': width,
        'image/colorspace': b'RGB',  # grey images too
        'image/channels': 3,
        'image/class/label': synsets().index(path.parent.name) + 1,  # 0 is the background
        'image/class/synset': path.parent.name.encode(),
        'image/format': b'JPEG',
        'image/filename': path.name.encode(),
        'image/encoded': data,
    }

    def feature(value):
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    values = {name: feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=values)).SerializeToString()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog='tiny_imagenet', description='Writes a small ImageNet of generated pictures.')
    parser.add_argument('out', type=Path, help='the folder to make')
    parser.add_argument('--images', type=int, default=12, help='validation images (12)')
    parser.add_argument('--classes', type=int, default=0, help='at least so many classes in the training set (0)')
    parser.add_argument('--per-class', type=int, default=1, help='training images of each class (1)')
    parser.add_argument('--seed', type=int, default=0, help='of the pictures (0)')
    parser.add_argument('--prepare', action='store_true', help='also make the TFDS set and TFRecord files')
    args = parser.parse_args()
    write(args.out, args.images, args.classes, args.per_class, args.seed)
    if args.prepare:
        prepare(args.out)
        for split in ('train', 'validation'):
            write_records(args.out, split)


if __name__ == '__main__':
    main()
