"""Writes the tables of the README and the docs from results/*.csv and the table of models.

python -m tools.tables            # rewrites what stands between <!-- table NAME --> and <!-- end -->
python -m tools.tables --check    # status 1 if a table is not what it would write
"""

import argparse
import csv
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import jeffnet

ROOT = Path(__file__).parents[1]
PAGES = ('README.md', 'docs/models.md', 'docs/performance.md')
MARKED = re.compile(r'(<!-- table (\S+) -->\n).*?(<!-- end -->)', re.DOTALL)
# The families of the JSON files, as people speak of them, in the order of the table.
FAMILIES: dict[str, tuple[str, ...]] = {
    'EfficientNet': ('efficientnet',),
    'EfficientNet, AdvProp weights': ('efficientnet_advprop',),
    'EfficientNet, NoisyStudent weights': ('efficientnet_noisystudent',),
    'EfficientNet-Lite': ('efficientnet_lite',),
    'EfficientNet-EdgeTPU': ('efficientnet_edgetpu',),
    'EfficientNetV2': ('efficientnetv2',),
    'EfficientNet-X, -H': ('efficientnet_x',),
    "EfficientNet, timm's test networks": ('efficientnet_test',),
    'MixNet': ('mixnet',),
    'MobileNetV1': ('mobilenetv1',),
    'MobileNetV2': ('mobilenetv2',),
    'MobileNetV3': ('mobilenetv3',),
    'MobileNetV4': ('mobilenetv4',),
    'MobileNet-EdgeTPU': ('mobilenet_edgetpu',),
    'MNASNet, FBNet-C, Single-Path NAS': ('mnasnet_a1', 'mnasnet_b1', 'mnasnet_small', 'fbnetc', 'spnasnet'),
    'FBNetV3': ('fbnetv3',),
    'TinyNet': ('tinynet',),
    'LCNet': ('lcnet',),
    'ResNet': ('resnet',),
    'ResNet, CIFAR': ('resnet_cifar',),
    'ResNet, anti-aliased': ('resnet_antialiased',),
    'ResNeXt, Wide ResNet': ('resnext', 'wide_resnet'),
    'SE-ResNet, SE-ResNeXt, SENet': ('seresnet',),
    'ECA-ResNet': ('ecaresnet',),
    'ResNet-RS': ('resnetrs',),
    'SKNet': ('sknet',),
    'ResNeSt': ('resnest',),
    'DenseNet': ('densenet',),
    'RegNet X, Y, Z, V': ('regnetx', 'regnety', 'regnetz', 'regnetv'),
    'ResNetV2': ('resnetv2',),
    'ResNetV2, Big Transfer': ('resnetv2_bit',),
    'VGG': ('vgg',),
    'Inception-V3, Inception-V4, Inception-ResNet-V2': ('inception_v3', 'inception_v4', 'inception_resnet_v2'),
    'Xception': ('xception',),
    'Xception, aligned': ('xception_aligned',),
    'NASNet, PNASNet': ('nasnet', 'pnasnet'),
    'ConvNeXt': ('convnext',),
    'ConvNeXt V2': ('convnextv2',),
    'ConvMixer': ('convmixer',),
    'ResNet, Keras': ('resnet_keras',),
    'ResNet-RS, Keras': ('resnetrs_keras',),
    'ResNetV2, Keras': ('resnetv2_keras',),
    'DenseNet, Keras': ('densenet_keras',),
    'VGG, Keras': ('vgg_keras',),
    'Inception-V3, Inception-ResNet-V2, Xception, Keras': (
        'inception_v3_keras',
        'inception_resnet_v2_keras',
        'xception_keras',
    ),
    'NASNet, Keras': ('nasnet_keras',),
    'EfficientNet, Keras': ('efficientnet_keras',),
    'EfficientNetV2, Keras': ('efficientnetv2_keras',),
    'MobileNet V1, V2, V3, Keras': ('mobilenetv1_keras', 'mobilenetv2_keras', 'mobilenetv3_keras'),
    'ConvNeXt, Keras': ('convnext_keras',),
    'Vision Transformer': ('vit',),
    'HorNet': ('hornet',),
    'VAN': ('van',),
}
NETWORKS = {
    'efficientnet_b0': 'EfficientNet-B0', 'mobilenetv3_large_100': 'MobileNetV3-L', 'mixnet_s': 'MixNet-S',
    'resnet50': 'ResNet-50', 'vit_small_patch16_224': 'ViT-S/16', 'efficientnet_b7': 'EfficientNet-B7',
    'vit_base_patch16_224': 'ViT-B/16',
}  # fmt: skip
SIDES = {
    'jeffnet linen': 'jeffnet', 'timm compiled': 'timm, torch.compile', 'timm': 'timm',
    'keras tensorflow': 'Keras, TensorFlow', 'plain flax': 'plain Flax', 'keras jax': 'Keras, JAX',
}  # fmt: skip


def main() -> int:
    """Rewrites the tables, or checks them; returns the exit status."""
    parser = argparse.ArgumentParser(description='Writes the tables of the README and the docs.')
    parser.add_argument('--check', action='store_true', help='write nothing, and fail if a table is out of date')
    args = parser.parse_args()
    stale = [page for page in PAGES if refresh(ROOT / page, args.check)]
    for page in stale:
        print(f'{page}: {"is not what tools/tables.py writes" if args.check else "written"}')
    return 1 if args.check and stale else 0


def refresh(page: Path, check: bool) -> bool:
    """Brings the tables of a page up to date, unless only to check; whether they were not."""
    old = page.read_text()
    new = MARKED.sub(lambda match: f'{match[1]}{TABLES[match[2]]()}{match[3]}', old)
    if new != old and not check:
        page.write_text(new)
    return new != old


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [head, ['---'] * len(head), *rows]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def rows_of(name: str, **chosen: str) -> list[dict[str, str]]:
    """The rows of results/NAME.csv with these values."""
    with (ROOT / 'results' / f'{name}.csv').open(newline='') as file:
        return [row for row in csv.DictReader(file) if all(row[key] == value for key, value in chosen.items())]


def machine(name: str) -> str:
    """On what results/NAME.csv was measured, and when."""
    about = json.loads((ROOT / 'results' / f'{name}.machine.json').read_text())
    packages = about['packages']
    versions = ', '.join(f'{each} {packages[each]}' for each in ('jax', 'torch', 'timm', 'keras'))
    return f'\n{about["cores"]} cores of {about["processor"].split(",")[0]}; {versions}; {about["measured"]}.\n'


def families() -> str:
    """How many names and published weights each family has."""
    names = [jeffnet.model_info(name) for name in jeffnet.list_models()]
    known = {family for members in FAMILIES.values() for family in members}
    missing = {info.family for info in names} - known
    if missing:
        raise ValueError(f'tools/tables.py: FAMILIES lacks {", ".join(sorted(missing))}')
    rows = []
    for title, members in FAMILIES.items():
        own = [info for info in names if info.family in members]
        smallest, largest = min(own, key=lambda info: info.parameters), max(own, key=lambda info: info.parameters)
        weights = str(sum(info.weights is not None for info in own))
        size = f'{smallest.parameters / 1e6:.1f} to {largest.parameters / 1e6:.1f} M'
        rows.append([title, str(len(own)), weights, size, f'`{smallest.name}` ... `{largest.name}`'])
    rows.append(['all', str(len(names)), str(sum(info.weights is not None for info in names)), '', ''])
    return markdown(['family', 'names', 'with weights', 'parameters', 'smallest, largest'], rows)


def first_run() -> str:
    """What `make demo` ended with, and how long after the clone."""
    from jeffnet.demo import HEADER, line

    rows = rows_of('first-run')
    lines = [line({**row, 'images': round(float(row['images_per_second']) * float(row['seconds']))}) for row in rows]
    about = json.loads((ROOT / 'results/first-run.machine.json').read_text())
    minutes, seconds = divmod(int(rows[-1]['since_clone']), 60)
    words = f'{minutes} minutes and {seconds} seconds after the clone, on {about["cores"]} cores, the first ends with'
    return '\n'.join([words, '', '```text', HEADER, *lines, '```', ''])


def speeds(name: str, **chosen: str) -> dict[str, dict[str, list[str]]]:
    """Images per second of results/NAME.csv: by network and side, one for each batch size."""
    found = defaultdict(lambda: defaultdict(list))
    for row in rows_of(name, **chosen):
        speed = row['images_per_second']
        found[row['model']][row['side']].append(speed if speed == 'n/a' else f'{float(speed):.0f}')
    return found


def inference() -> str:
    """Images per second at both batch sizes, each side in its default process."""
    found = speeds('bench-inference', allocator='default')
    rows = [[NETWORKS[model], *(' / '.join(of.get(side, ['-'])) for side in SIDES)] for model, of in found.items()]
    return markdown(['', *SIDES.values()], rows) + machine('bench-inference')


WANTED = {'efficientnet_b0': '1.2 / 1', 'mobilenetv3_large_100': '1.2 / 1', 'mixnet_s': '1.2 / 1', 'resnet50': '1 / 1',
          'vit_small_patch16_224': '1.6 / 1.6'}  # fmt: skip


def ratios() -> str:
    """How many times as fast as torch.compile, at both batch sizes, with either allocator."""
    found = defaultdict(lambda: defaultdict(list))
    for row in rows_of('bench-inference', side='jeffnet linen'):
        found[row['model']][row['allocator']].append(row['of_timm_compiled'])
    rows = [
        [NETWORKS[model], ' / '.join(of['default']), WANTED[model], ' / '.join(of['tuned']), '1 / 1']
        for model, of in found.items()
    ]
    return markdown(['', 'default', 'wanted', 'memory kept for both', 'wanted'], rows)


def training() -> str:
    """Images per second of a training step."""
    sides = [side for side in SIDES if any(row['side'] == side for row in rows_of('bench-train'))]
    found = {(row['model'], row['side']): row['images_per_second'] for row in rows_of('bench-train')}
    models = dict.fromkeys(model for model, _ in found)
    rows = [
        [NETWORKS[model], *(f'{float(found[model, side]):.1f}' if (model, side) in found else '-' for side in sides)]
        for model in models
    ]
    return markdown(['', *(SIDES[side] for side in sides)], rows) + machine('bench-train')


def cold_start() -> str:
    """Seconds from the start of a process to the first logits."""
    found = {(row['model'], row['side']): row for row in rows_of('bench-cold-start')}
    models, sides = (dict.fromkeys(key[i] for key in found) for i in (0, 1))
    rows = [[model, *(found[model, side]['seconds'] for side in sides)] for model in models]
    return markdown(['', *sides], rows) + machine('bench-cold-start')


def compiling() -> str:
    """Seconds that programs take to compile, of inference and of a training step."""
    found = {(row['model'], row['job'], row['side']): row['seconds'] for row in rows_of('bench-compile')}
    models, jobs, sides = (dict.fromkeys(key[i] for key in found) for i in (0, 1, 2))
    columns = [(job, side) for job in jobs for side in sides]
    rows = [[NETWORKS[model], *(found.get((model, *column), '-') for column in columns)] for model in models]
    return markdown(['', *(f'{job}: {SIDES[side]}' for job, side in columns)], rows) + machine('bench-compile')


def parity() -> str:
    """How far every network is from its reference, in float32."""
    rows = rows_of('parity', dtype='float32')
    found = defaultdict(list)
    for row in rows:
        found['Keras' if row['name'].startswith('keras_') else 'PyTorch', row['framework']].append(row)
    lines = []
    for (reference, framework), own in sorted(found.items(), reverse=True):
        errors = sorted(float(row['error']) for row in own)
        share = max(float(row['error']) / float(row['bar']) for row in own)
        names, inside = len({row['name'] for row in own}), sum(row['ok'] == 'True' for row in own)
        middle = f'{errors[len(errors) // 2]:.1e}'
        lines.append([reference, framework, str(names), f'{inside} of {len(own)}', middle, f'{share:.2f}'])
    head = ['reference', 'framework', 'names', 'comparisons within the bar', 'median error', 'largest, of its bar']
    return markdown(head, lines)


TABLES: dict[str, Callable[[], str]] = {
    'first-run': first_run,
    'families': families,
    'inference': inference,
    'ratios': ratios,
    'training': training,
    'cold-start': cold_start,
    'compile': compiling,
    'parity': parity,
}

if __name__ == '__main__':
    sys.exit(main())
