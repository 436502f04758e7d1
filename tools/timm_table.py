"""Writes timm's entries of jeffnet/models/*.json: `python -m tools.timm_table results-imagenet.csv` (needs timm).

The file is timm's own results/results-imagenet.csv, from its repository. Tags, image sizes, statistics, interpolation
and licences are those of timm's configurations; parameters and multiply-adds are counted from our definitions. Names
that are in a table keep the tag that they are pinned to.
"""

import argparse
import csv
import fnmatch
import importlib
import json
from pathlib import Path
from typing import Any

import timm
from timm.models import get_pretrained_cfg

import jeffnet
from jeffnet.create import parameter_count, plan, policy_of
from jeffnet.models.table import table
from tools.efficientnet_table import EFFICIENTNET, multiply_adds
from tools.keras_table import MODELS, write

RESNET_PAPERS = {
    '*.fb_wsl*': 'arXiv:1805.00932', '*.fb_s*': 'arXiv:1905.00546', '*_pruned': 'arXiv:2002.08258',
    'eca*': 'arXiv:1910.03151', '*aa*': 'arXiv:1904.11486', '*blur*': 'arXiv:1904.11486', 'se*': 'arXiv:1709.01507',
    'resnext*': 'arXiv:1611.05431', 'wide*': 'arXiv:1605.07146', 'resnetrs*': 'arXiv:2103.07579',
    '*_gn': 'arXiv:1803.08494', 'resnet*[cdst]': 'arXiv:1812.01187', '*': 'arXiv:1512.03385',
}  # fmt: skip
RESNETS = {
    'eca*': 'ecaresnet', '*aa*': 'resnet_antialiased', '*blur*': 'resnet_antialiased', 'se*': 'seresnet',
    'resnext*': 'resnext', 'wide*': 'wide_resnet', 'resnetrs*': 'resnetrs',
}  # fmt: skip
TENSORFLOW = {'*': {'bn_eps': 1e-3}}
# By family file, all of whose VARIANTS that timm has become names: the paper where timm states none; and, by pattern of
# the architecture, of `<arch>.<tag>` or of the family (the first that matches), papers, the family if that is not the
# file, what differs from the policy, options of the network, and the dropout of the training recipe where one is known.
# `kept`: patterns of names whose entries stay as they are.
FAMILIES: dict[str, dict[str, Any]] = {
    'efficientnet': EFFICIENTNET,
    'mobilenetv4': {'paper': 'arXiv:2404.10518'},
    'resnet': {'paper': RESNET_PAPERS, 'family': RESNETS},
    'sknet': {'paper': 'arXiv:1903.06586'},
    'resnest': {'paper': 'arXiv:2004.08955'},
    'resnetv2': {
        'paper': {
            '*_bit.goog_distilled_*': 'arXiv:2106.05237', '*_bit.goog_teacher_*': 'arXiv:2106.05237',
            '*_bit.*': 'arXiv:1912.11370', '*': 'arXiv:1603.05027',
        },
        'family': {'*_bit': 'resnetv2_bit'},
    },
    'regnet': {
        'paper': {
            '*.seer*': 'arXiv:2103.01988', '*.swag*': 'arXiv:2201.08371', 'regnetz_*': 'arXiv:2103.06877',
            '*': 'arXiv:2003.13678',
        },
        'family': {'regnetx_*': 'regnetx', 'regnety_*': 'regnety', 'regnetv_*': 'regnetv', 'regnetz_*': 'regnetz'},
    },
    'convnext': {
        'paper': {'convnextv2_*': 'arXiv:2301.00808', '*': 'arXiv:2201.03545'},
        'family': {'convnextv2_*': 'convnextv2'},
        'options': {'*.fcmae': {'num_classes': 0}},  # without even the norm of the pooled features
    },
    'convmixer': {'paper': 'arXiv:2201.09792'},
    'densenet': {'paper': 'arXiv:1608.06993'},
    'vgg': {'paper': 'arXiv:1409.1556'},
    'inception_v3': {'paper': 'arXiv:1512.00567', 'policy': TENSORFLOW},
    'inception_v4': {'paper': 'arXiv:1602.07261', 'policy': TENSORFLOW},
    'inception_resnet_v2': {'paper': 'arXiv:1602.07261', 'policy': TENSORFLOW},
    'xception': {'paper': 'arXiv:1610.02357'},
    'xception_aligned': {'paper': 'arXiv:1802.02611', 'policy': {'xception41p': {}, **TENSORFLOW}},
    'nasnet': {'paper': 'arXiv:1707.07012', 'policy': TENSORFLOW},
    'pnasnet': {'paper': 'arXiv:1712.00559', 'policy': TENSORFLOW},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('results', type=Path, help='results-imagenet.csv')
    parser.add_argument('families', nargs='*', default=list(FAMILIES), help='all unless some are given')
    args = parser.parse_args()
    rows = csv.DictReader(args.results.read_text().splitlines())
    measured = {(row['model'], int(row['img_size'])): row for row in rows}
    for file in args.families:
        path = MODELS / f'{file}.json'
        entries = json.loads(path.read_text()) if path.exists() else {}
        fresh = {}
        for arch in importlib.import_module(f'jeffnet.models.{file}').VARIANTS:
            for theirs in filter(timm.is_model, (arch, f'tf_{arch}')):
                found = names(theirs, entries)
                fresh |= {name: entry(file, theirs, weights, measured) for name, weights in found.items()}
        fresh = {name: each for name, each in fresh.items() if name not in entries or not is_kept(file, name)}
        others = {n: e for n, e in entries.items() if n in fresh or is_kept(file, n) or not timm.is_model(e['timm'])}
        write(path, others | fresh)
        table.cache_clear()
        count(path, fresh)


def names(arch: str, entries: dict[str, dict]) -> dict[str, str | None]:
    """Our names of an architecture's weights: the bare one for the pinned tag, timm's first unless there is one."""
    prefix = '' if arch.startswith('tf_') else 'pt_'
    known = {e['weights']: name for name, e in entries.items() if e['weights']}
    every = timm.list_pretrained(f'{arch}.*') or timm.list_pretrained(arch)
    default = f'{arch}.{get_pretrained_cfg(arch).tag}' if every else None
    first = entries.get(prefix + arch, {}).get('weights') or default
    others = {known.get(weights, prefix + weights): weights for weights in sorted(every) if weights != first}
    return {known.get(first, prefix + arch): first} | others


def entry(file: str, arch: str, weights: str | None, measured: dict) -> dict[str, Any]:
    """An entry of the table, not counted yet."""
    config, about = get_pretrained_cfg(weights or arch), FAMILIES[file]
    flavour, _, height, width = 'tf' if arch.startswith('tf_') else 'pt', *config.input_size
    row = measured.get((weights, height))
    top1, top5 = (float(row[key]) if row else None for key in ('top1', 'top5'))
    chosen = {key: of_pattern(about.get(key, {}), arch, weights or arch) for key in PATTERNS}
    family = chosen['family'] or file
    papers = about['paper'] if isinstance(about['paper'], dict) else {'*': about['paper']}
    paper = config.paper_ids or of_pattern(papers, family, arch, weights or arch)
    # timm's 0 classes are pooled features, our -1.
    classes = {} if config.num_classes == 1000 else {'num_classes': config.num_classes or -1}
    return {
        'family': family, 'arch': arch.removeprefix('tf_'), 'flavour': flavour,
        'options': classes | (chosen['options'] or {}), 'parameters': 0, 'multiply_adds': 0,
        'input_size': [height, width, 3], 'crop_pct': config.crop_pct, 'interpolation': config.interpolation,
        'mean': list(config.mean), 'std': list(config.std), 'preprocessing': 'tf' if flavour == 'tf' else 'pil',
        'weights': weights, 'timm': arch, 'licence': config.license, 'paper': paper,
        'top1': top1, 'top5': top5, 'top_image_size': height if row else None, 'drop_rate': chosen['drop_rate'] or 0.0,
        'policy': chosen['policy'] or {},
        # TensorFlow's releases squash images from 320 pixels on and crop smaller ones.
        **({'crop_mode': 'squash'} if config.crop_mode == 'squash' and (flavour == 'pt' or height >= 320) else {}),
    }  # fmt: skip


PATTERNS = ('family', 'policy', 'options', 'drop_rate')


def is_kept(file: str, name: str) -> bool:
    """Whether the entry of a name is stated by hand."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in FAMILIES[file].get('kept', ()))


def of_pattern(values: dict[str, Any], *texts: str) -> Any:
    """The value of the first pattern that matches one of the texts, or None."""
    matches = (value for pattern, value in values.items() if any(fnmatch.fnmatchcase(text, pattern) for text in texts))
    return next(matches, None)


def count(path: Path, fresh: dict[str, dict]) -> None:
    """Writes the parameters and multiply-adds of new entries."""
    entries, counted = json.loads(path.read_text()), {}
    for name in fresh:
        info = jeffnet.model_info(name)
        same = (info.arch, info.flavour, info.input_size, str(info.options))  # tags of one network
        if same not in counted:
            counted[same] = parameter_count(plan(name).block, policy_of(info)), multiply_adds(name)
        entries[name]['parameters'], entries[name]['multiply_adds'] = counted[same]
    write(path, entries)
    table.cache_clear()


if __name__ == '__main__':
    main()
