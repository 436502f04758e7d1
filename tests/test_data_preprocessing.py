"""Each model's own transform: that of the table, and by family what was published with its weights."""

import json
from pathlib import Path

import pytest

import jeffnet
from jeffnet.data import Preprocessing
from tools import timm_table

TABLE = json.loads((Path(jeffnet.__file__).parent / 'models' / 'efficientnet.json').read_text())
# Of the table by hand; Keras' are in test_keras.py, those generated from timm in test_timm_networks.py.
TABLE = {n: e for n, e in TABLE.items() if e['flavour'] != 'keras' and timm_table.is_kept('efficientnet', n)}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Families of TensorFlow's weights that were trained on values of -1 to 1.
INCEPTION_FAMILIES = {'efficientnet_advprop', 'efficientnet_edgetpu', 'efficientnet_lite', 'mobilenetv3'}
BILINEAR = {'pt_fbnetc_100', 'pt_spnasnet_100', 'tf_efficientnet_lite3', 'tf_efficientnet_lite4'}
SIZES = {'b0': 224, 'b1': 240, 'b2': 260, 'b3': 300, 'b4': 380, 'b5': 456, 'b6': 528, 'b7': 600, 'b8': 672}


@pytest.mark.parametrize('name', sorted(TABLE))
def test_every_model_gets_its_own_transform(name):
    entry, found = TABLE[name], Preprocessing.of(jeffnet.model_info(name))
    assert found == Preprocessing(
        entry['preprocessing'], tuple(entry['input_size'][:2]), entry['crop_pct'], entry['interpolation'],
        tuple(entry['mean']), tuple(entry['std']),
    )  # fmt: skip
    is_inception = name.startswith('tf_') and entry['family'] in INCEPTION_FAMILIES
    assert (found.mean, found.std) == (INCEPTION if is_inception else IMAGENET)
    is_bilinear = name in BILINEAR or name.startswith('tf_mobilenetv3')
    assert found.interpolation == ('bilinear' if is_bilinear else 'bicubic')


@pytest.mark.parametrize('name', [name for name in sorted(TABLE) if name.startswith('tf_efficientnet_b')])
def test_tensorflows_models_have_the_sizes_and_shares_of_their_paper(name):
    size = SIZES[name.split('_')[2]]
    found = Preprocessing.of(jeffnet.model_info(name))
    assert found.image_size == (size, size)
    assert found.crop_pct == pytest.approx(size / (size + 32), abs=1e-3)  # three places, that of b6 is cut


def test_overrides_change_what_they_name():
    info = jeffnet.model_info('tf_efficientnet_lite4')
    changed = Preprocessing.of(info, kind='tf', image_size=224, interpolation=None, mean=None)
    assert (changed.kind, changed.image_size, changed.interpolation) == ('tf', (224, 224), 'bilinear')
    assert changed.mean == info.mean and changed.crop_pct == info.crop_pct
