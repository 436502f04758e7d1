"""Writes the Keras entries of jeffnet/models/*.json: `python -m tools.keras_table` (needs keras).

Constructors, addresses and checksums come from keras.applications itself, whose downloads are caught; parameters and
multiply-adds are counted from our definitions. Accuracies and licences are those of keras.io/api/applications.
"""

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault('KERAS_BACKEND', 'numpy')

import keras
from keras.src.utils import file_utils

import jeffnet
from jeffnet.create import parameter_count, plan, policy_of
from jeffnet.models.table import table
from tools.efficientnet_table import multiply_adds

MODELS = Path(__file__).parent.parent / 'jeffnet' / 'models'
IMAGENET = {'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]}
UNIT = {'mean': [0.5] * 3, 'std': [0.5] * 3}
CENTRED = {'mean': [128 / 255] * 3, 'std': [128 / 255] * 3}  # x / 128 - 1
CAFFE = {'mean': [value / 255 for value in (103.939, 116.779, 123.68)], 'std': [1 / 255] * 3}
MODES = {'torch': IMAGENET, 'tf': UNIT, 'caffe': CAFFE, 'none': IMAGENET, 'centred': CENTRED}
RESNET = {'padding': 'LIKE', 'bn_eps': 1.001e-5}
# Of weights that Keras has from others, as its documentation says; of ResNetV2 it says nothing.
LICENCES = {
    'vgg_keras': 'cc-by-4.0', 'resnet_keras': 'mit', 'resnetv2_keras': None, 'densenet_keras': 'bsd-3-clause',
    'convnext_keras': 'mit',
}  # fmt: skip
# Keras 3 has no ResNet-RS: size and md5 of the largest file of each, from tf_keras.
RESNET_RS = {
    50: (160, '69d9d925319f00a8bdd4af23c04e4102'), 101: (192, 'eb285be29ab42cf4835ff20a5e3b5d23'),
    152: (256, 'ba6271b99bdeb4e7a9b15c05964ef4ad'), 200: (256, 'a76930b741884e09ce90fa7450747d5f'),
    270: (256, '20d575825ba26176b03cb51012a367a8'), 350: (320, '7ccb858cc738305e8ceb3c0140bee393'),
    420: (320, 'ae0eb9bed39e64fc8d7e0db4018dc7e8'),
}  # fmt: skip
RESNET_RS_FILES = 'https://storage.googleapis.com/tensorflow/keras-applications/resnet_rs/resnet-rs-{}-i{}.h5'
# Family file -> what its networks share, and for each: constructor, its keywords, architecture, side of the image,
# top-1, top-5.
FAMILIES: dict[str, list[tuple[dict[str, Any], dict[str, tuple]]]] = {
    'resnet': [
        (
            {
                'family': 'resnet_keras', 'mode': 'caffe', 'policy': RESNET, 'paper': 'arXiv:1512.03385',
                'options': {'conv_bias': True, 'stride_first': True},
            },
            {
                'keras_resnet50': ('ResNet50', {}, 'resnet50', 224, 74.9, 92.1),
                'keras_resnet101': ('ResNet101', {}, 'resnet101', 224, 76.4, 92.8),
                'keras_resnet152': ('ResNet152', {}, 'resnet152', 224, 76.6, 93.1),
            },
        ),
        (
            {
                'family': 'resnetrs_keras', 'mode': 'none', 'paper': 'arXiv:2103.07579', 'options': {},
                'policy': {'padding': 'LIKE', 'bn_eps': 1e-5, 'bn_momentum': 0.0},
            },
            {
                f'keras_resnetrs{depth}': (f'ResNetRS{depth}', {}, f'resnetrs{depth}', side, None, None)
                for depth, (side, _) in RESNET_RS.items()
            },
        ),
    ],
    'resnetv2': [
        (
            {
                'family': 'resnetv2_keras', 'mode': 'tf', 'policy': RESNET, 'paper': 'arXiv:1603.05027',
                'options': {'conv_bias': True, 'stride_last': True, 'zero_pad_pool': True},
            },
            {
                'keras_resnet50v2': ('ResNet50V2', {}, 'resnetv2_50', 224, 76.0, 93.0),
                'keras_resnet101v2': ('ResNet101V2', {}, 'resnetv2_101', 224, 77.2, 93.8),
                'keras_resnet152v2': ('ResNet152V2', {}, 'resnetv2_152', 224, 78.0, 94.2),
            },
        )
    ],
    'efficientnet': [
        (
            {
                'family': 'efficientnet_keras', 'mode': 'none', 'policy': {}, 'paper': 'arXiv:1905.11946',
                'options': {},
            },
            {
                f'keras_efficientnet_b{i}': (f'EfficientNetB{i}', {}, f'efficientnet_b{i}', *figures)
                for i, figures in enumerate([
                    (224, 77.1, 93.3), (240, 79.1, 94.4), (260, 80.1, 94.9), (300, 81.6, 95.7), (380, 82.9, 96.4),
                    (456, 83.6, 96.7), (528, 84.0, 96.8), (600, 84.3, 97.0),
                ])
            },
        ),
        (
            {
                'family': 'mobilenetv1_keras', 'mode': 'tf', 'policy': {}, 'paper': 'arXiv:1704.04861',
                'options': {'pad_end': True},
            },
            {
                'keras_mobilenet': ('MobileNet', {}, 'mobilenetv1_100', 224, 70.4, 89.5),
                **{
                    f'keras_mobilenet_{round(100 * alpha):03}':
                        ('MobileNet', {'alpha': alpha}, f'mobilenetv1_{round(100 * alpha):03}', 224, None, None)
                    for alpha in (0.25, 0.5, 0.75)
                },
            },
        ),
        (
            {
                'family': 'mobilenetv2_keras', 'mode': 'tf', 'policy': {'bn_momentum': 0.999},
                'paper': 'arXiv:1801.04381', 'options': {},
            },
            {
                'keras_mobilenet_v2': ('MobileNetV2', {}, 'mobilenetv2_100', 224, 71.3, 90.1),
                **{
                    f'keras_mobilenet_v2_{round(100 * alpha):03}':
                        ('MobileNetV2', {'alpha': alpha}, f'mobilenetv2_{round(100 * alpha):03}', 224, None, None)
                    for alpha in (0.35, 0.5, 0.75, 1.3, 1.4)
                },
            },
        ),
        *(
            (
                {
                    'family': 'efficientnetv2_keras', 'mode': mode, 'policy': {'bn_momentum': 0.9},
                    'paper': 'arXiv:2104.00298', 'options': {},
                },
                {
                    f'keras_efficientnet_v2_{k}': (f'EfficientNetV2{k.upper()}', {}, f'efficientnetv2_{k}', *figures)
                    for k, figures in models.items()
                },
            )
            for mode, models in {
                'none': {
                    'b0': (224, 78.7, 94.3), 'b1': (240, 79.8, 95.0), 'b2': (260, 80.5, 95.1), 'b3': (300, 82.0, 95.8),
                },
                'centred': {'s': (384, 83.9, 96.7), 'm': (480, 85.3, 97.4), 'l': (480, 85.7, 97.5)},
            }.items()
        ),
        (
            {
                'family': 'mobilenetv3_keras', 'mode': 'tf', 'policy': {'bn_momentum': 0.999},
                'paper': 'arXiv:1905.02244', 'options': {},
            },
            {
                f'keras_mobilenet_v3_{size.lower()}{suffix}':
                    (f'MobileNetV3{size}', options, f'mobilenetv3_{size.lower()}_{arch}', 224, top1, None)
                for size, suffix, options, arch, top1 in [
                    ('Large', '', {}, '100', 75.6),
                    ('Large', '_075', {'alpha': 0.75}, '075', 73.3),
                    ('Large', '_minimalistic', {'minimalistic': True}, 'minimal_100', 72.3),
                    ('Small', '', {}, '100', 68.1),
                    ('Small', '_075', {'alpha': 0.75}, '075', 65.4),
                    ('Small', '_minimalistic', {'minimalistic': True}, 'minimal_100', 61.9),
                ]
            },
        ),
    ],
    'densenet': [
        (
            {'family': 'densenet_keras', 'mode': 'torch', 'policy': RESNET, 'paper': 'arXiv:1608.06993', 'options': {}},
            {
                'keras_densenet121': ('DenseNet121', {}, 'densenet121', 224, 75.0, 92.3),
                'keras_densenet169': ('DenseNet169', {}, 'densenet169', 224, 76.2, 93.2),
                'keras_densenet201': ('DenseNet201', {}, 'densenet201', 224, 77.3, 93.6),
            },
        )
    ],
    'inception_v3': [
        (
            {
                'family': 'inception_v3_keras', 'mode': 'tf', 'policy': {}, 'paper': 'arXiv:1512.00567',
                'options': {'norm_scale': False, 'count_padding': False},
            },
            {'keras_inception_v3': ('InceptionV3', {}, 'inception_v3', 299, 77.9, 93.7)},
        )
    ],
    'inception_resnet_v2': [
        (
            {
                'family': 'inception_resnet_v2_keras', 'mode': 'tf', 'policy': {}, 'paper': 'arXiv:1602.07261',
                'options': {'norm_scale': False},
            },
            {'keras_inception_resnet_v2': ('InceptionResNetV2', {}, 'inception_resnet_v2', 299, 80.3, 95.3)},
        )
    ],
    'xception': [
        (
            {'family': 'xception_keras', 'mode': 'tf', 'policy': {}, 'paper': 'arXiv:1610.02357', 'options': {}},
            {'keras_xception': ('Xception', {}, 'legacy_xception', 299, 79.0, 94.5)},
        )
    ],
    'vgg': [
        (
            {'family': 'vgg_keras', 'mode': 'caffe', 'policy': {}, 'paper': 'arXiv:1409.1556', 'options': {}},
            {
                'keras_vgg16': ('VGG16', {}, 'vgg16', 224, 71.3, 90.1),
                'keras_vgg19': ('VGG19', {}, 'vgg19', 224, 71.3, 90.0),
            },
        )
    ],
    'nasnet': [
        (
            {
                'family': 'nasnet_keras', 'mode': 'tf', 'policy': {'bn_momentum': 0.9997}, 'paper': 'arXiv:1707.07012',
                'options': {'zero_pad_pool': True},
            },
            {
                'keras_nasnet_mobile': ('NASNetMobile', {}, 'nasnetamobile', 224, 74.4, 91.9),
                'keras_nasnet_large': ('NASNetLarge', {}, 'nasnetalarge', 331, 82.5, 96.0),
            },
        )
    ],
    'convnext': [
        (
            {'family': 'convnext_keras', 'mode': 'none', 'policy': {}, 'paper': 'arXiv:2201.03545', 'options': {}},
            {
                f'keras_convnext_{size.lower()}': (f'ConvNeXt{size}', {}, f'convnext_{size.lower()}', 224, top1, None)
                for size, top1 in {'Tiny': 81.3, 'Small': 82.3, 'Base': 85.3, 'Large': 86.3, 'XLarge': 86.7}.items()
            },
        )
    ],
}  # fmt: skip


def main() -> None:
    for file, groups in FAMILIES.items():
        path = MODELS / f'{file}.json'
        entries = json.loads(path.read_text()) if path.exists() else {}
        fresh = {name: entry(name, shared, *own) for shared, models in groups for name, own in models.items()}
        entries = {name: old for name, old in entries.items() if not name.startswith('keras_')} | fresh
        write(path, entries)
    table.cache_clear()
    for file in FAMILIES:
        path = MODELS / f'{file}.json'
        entries = json.loads(path.read_text())
        for name in entries:
            if name.startswith('keras_'):
                chosen = plan(name)
                entries[name]['parameters'] = parameter_count(chosen.block, policy_of(jeffnet.model_info(name)))
                entries[name]['multiply_adds'] = multiply_adds(name)
        write(path, entries)


def entry(
    name: str,
    shared: dict[str, Any],
    constructor: str,
    options: dict[str, Any],
    arch: str,
    side: int,
    top1: float | None,
    top5: float | None,
) -> dict[str, Any]:
    """An entry of the table, not counted yet."""
    if arch.startswith('resnetrs'):
        depth = int(arch.removeprefix('resnetrs'))
        address, checksum = RESNET_RS_FILES.format(depth, side), RESNET_RS[depth][1]
    else:
        address, checksum = published(constructor, **options)
    return {
        'family': shared['family'], 'arch': arch, 'flavour': 'keras', 'options': shared['options'], 'parameters': 0,
        'multiply_adds': 0, 'input_size': [side, side, 3], 'crop_pct': 0.875, 'interpolation': 'bilinear',
        **MODES[shared['mode']], 'preprocessing': f'keras-{shared["mode"]}', 'weights': address,
        'timm': arch if arch.startswith('resnetrs') else name,
        'licence': LICENCES.get(shared['family'], 'apache-2.0'), 'paper': shared['paper'], 'top1': top1, 'top5': top5,
        'top_image_size': side if top1 else None,
        'drop_rate': 0.0, 'policy': shared['policy'], 'keras': constructor, 'keras_options': options,
        'checksum': checksum,
    }  # fmt: skip


class Caught(Exception):
    """Stands for a download."""


def published(constructor: str, **options: Any) -> tuple[str, str | None]:
    """Address and checksum of the weights that a constructor asks for."""

    def catch(name, origin, *args, file_hash=None, **kwargs):
        raise Caught(origin, file_hash)

    usual, file_utils.get_file = file_utils.get_file, catch
    try:
        getattr(keras.applications, constructor)(weights='imagenet', **options)
    except Caught as caught:
        return caught.args
    finally:
        file_utils.get_file = usual
    raise RuntimeError(f'{constructor} asks for no file')


def write(path: Path, entries: dict[str, dict]) -> None:
    """One line for each entry."""
    lines = [f' {json.dumps(name)}: {json.dumps(each)}' for name, each in entries.items()]
    path.write_text('{\n' + ',\n'.join(lines) + '\n}\n')


if __name__ == '__main__':
    main()
