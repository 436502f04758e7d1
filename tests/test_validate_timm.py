"""Against timm's own validation: its data set, its loader, its network, on the same files and weights.

The images lie in the folders of what timm answers, every second one in the folder of its second answer: top-1 is then
near one half, and each image that is read or answered differently changes it.
"""

import csv
import os

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image

from benchmarks import torch_reference
from jeffnet import validate
from jeffnet.data.imagenet import synsets

# timm's data set leaves every file that it opens to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings('ignore:unclosed file:ResourceWarning'),
    pytest.mark.filterwarnings('ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning'),
]
MODEL, SIZE, IMAGES = 'pt_mnasnet_small', 64, 500
FORMATS = (('.jpg', {'quality': 90}), ('.JPEG', {'subsampling': 0}), ('.png', {}))


def timm_top5(network, folder):
    """timm's five likeliest classes by file name, through the loader of its validate.py."""
    data = timm.data.create_dataset('', root=str(folder), class_map='')
    loader = timm.data.create_loader(
        data, input_size=(3, SIZE, SIZE), batch_size=50, is_training=False, use_prefetcher=False, num_workers=0,
        interpolation='bicubic', crop_pct=0.875, device=torch.device('cpu'),
    )  # fmt: skip
    with torch.no_grad():
        top = torch.cat([network(images).topk(5).indices for images, _ in loader])
    return {os.path.basename(name): row.tolist() for name, row in zip(data.filenames(), top, strict=True)}


@pytest.fixture(scope='module')
def judged(tmp_path_factory, state, write):
    """Images in class folders, the weights file, and timm's answers."""
    root, rng = tmp_path_factory.mktemp('judged'), np.random.default_rng(0)
    (root / 'flat' / 'one').mkdir(parents=True)
    for index in range(IMAGES):
        height, width = rng.integers(40, 130, 2)
        blocks = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)[:height, :width]
        pixels = np.clip(blocks + rng.integers(-40, 40, blocks.shape), 0, 255).astype(np.uint8)
        suffix, options = FORMATS[index % len(FORMATS)]
        Image.fromarray(pixels).save(root / 'flat' / 'one' / f'{index:04d}{suffix}', **options)
    network = torch_reference.reference(MODEL).eval()
    top = timm_top5(network, root / 'flat')
    names = synsets()
    for index, (name, answers) in enumerate(sorted(top.items())):
        target = root / 'data' / names[answers[index % 2]]
        target.mkdir(parents=True, exist_ok=True)
        (root / 'flat' / 'one' / name).rename(target / name)
    write(state, root / 'weights.safetensors')
    return root, top


@pytest.mark.parametrize(('framework', 'pipeline'), [('linen', 'pt'), ('objax', 'tf'), ('nnx', 'pt')])
def test_every_answer_is_timms(framework, pipeline, judged, tmp_path):
    root, top = judged
    argv = [
        str(root / 'data'),
        '--model',
        MODEL,
        '--weights',
        str(root / 'weights.safetensors'),
        '--img-size',
        str(SIZE),
    ]
    argv += ['--batch-size', '50', '--predictions', str(tmp_path / 'a.csv'), '--results-file', str(tmp_path / 'r.csv')]
    assert validate.main(framework, pipeline, argv) == 0
    with (tmp_path / 'a.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == IMAGES
    for row in rows:
        assert int(row['top1']) == top[os.path.basename(row['image'])][0], row['image']
    with (tmp_path / 'r.csv').open(newline='') as file:
        (figures,) = csv.DictReader(file)
    names = synsets()
    right = [(label_of(row['image'], names), top[os.path.basename(row['image'])]) for row in rows]
    assert float(figures['top1']) == 100 * sum(label == answers[0] for label, answers in right) / IMAGES == 50.0
    assert float(figures['top5']) == 100 * sum(label in answers for label, answers in right) / IMAGES


def label_of(path, names):
    """The class that an image's folder names."""
    return names.index(path.split('/')[-2])
