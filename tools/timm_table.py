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
from tools.efficientnet_table import multiply_adds
from tools.keras_table import MODELS, write

# By pattern of the architecture or of its weights, the first that matches.
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
# By family file, all of whose VARIANTS that timm has become names: the paper where timm states none, and, by pattern of
# the architecture (the first that matches), its family if that is not the file, and what differs from the policy. The
# paper may go by pattern, too.
FAMILIES: dict[str, dict[str, Any]] = {
    'resnet': {'paper': RESNET_PAPERS, 'family': RESNETS},
    'sknet': {'paper': 'arXiv:1903.06586'},
    'resnest': {'paper': 'arXiv:2004.08955'},
    'densenet': {'paper': 'arXiv:1608.06993'},
}


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
        pinned = {e['timm']: e['weights'] for name, e in entries.items() if name == f'pt_{e["timm"]}'}
        fresh = {}
        for arch in importlib.import_module(f'jeffnet.models.{file}').VARIANTS:
            if timm.is_model(arch):
                for name, weights in names(arch, pinned.get(arch)).items():
                    fresh[name] = entry(file, arch, weights, measured)
        # Keras' entries stay, and those that a person wrote since timm has no such network.
        write(path, fresh | {name: old for name, old in entries.items() if not timms(name, old)})
        table.cache_clear()
        count(path, fresh)


def timms(name: str, entry: dict[str, Any]) -> bool:
    """Whether an entry is timm's."""
    return name.startswith('pt_') and timm.is_model(entry['timm'])


def names(arch: str, pinned: str | None) -> dict[str, str | None]:
    """Our names of an architecture's weights: the bare one for the pinned tag, timm's first unless there is one."""
    every = timm.list_pretrained(f'{arch}.*') or timm.list_pretrained(arch)
    default = f'{arch}.{get_pretrained_cfg(arch).tag}' if every else None
    first = pinned or default
    return {f'pt_{arch}': first} | {f'pt_{weights}': weights for weights in sorted(every) if weights != first}


def entry(file: str, arch: str, weights: str | None, measured: dict) -> dict[str, Any]:
    """An entry of the table, not counted yet."""
    config, family = get_pretrained_cfg(weights or arch), FAMILIES[file]
    _, height, width = config.input_size
    row = measured.get((weights, height))
    paper = family['paper'] if isinstance(family['paper'], str) else of_pattern(family['paper'], arch, weights)
    # Networks that were published without a classifier have none.
    options = {} if config.num_classes == 1000 else {'num_classes': config.num_classes or -1}
    top1, top5 = (float(row[key]) if row else None for key in ('top1', 'top5'))
    return {
        'family': of_pattern(family.get('family', {}), arch) or file, 'arch': arch, 'flavour': 'pt', 'options': options,
        'parameters': 0, 'multiply_adds': 0,
        'input_size': [height, width, 3], 'crop_pct': config.crop_pct, 'interpolation': config.interpolation,
        'mean': list(config.mean), 'std': list(config.std), 'preprocessing': 'pil', 'weights': weights, 'timm': arch,
        'licence': config.license, 'paper': config.paper_ids or paper, 'top1': top1, 'top5': top5,
        'top_image_size': height if row else None, 'drop_rate': 0.0,
        'policy': of_pattern(family.get('policy', {}), arch) or {},
    }  # fmt: skip


def of_pattern(values: dict[str, Any], *names: str | None) -> Any:
    """The value of the first pattern that one of the names matches, or None."""
    matches = (v for pattern, v in values.items() if any(fnmatch.fnmatchcase(name or '', pattern) for name in names))
    return next(matches, None)


def count(path: Path, fresh: dict[str, dict]) -> None:
    """Writes the parameters and multiply-adds of new entries."""
    entries, counted = json.loads(path.read_text()), {}
    for name in fresh:
        info = jeffnet.model_info(name)
        same = (info.arch, info.input_size, str(info.options))  # tags of one network
        if same not in counted:
            counted[same] = parameter_count(plan(name).block, policy_of(info)), multiply_adds(name)
        entries[name]['parameters'], entries[name]['multiply_adds'] = counted[same]
    write(path, entries)
    table.cache_clear()


if __name__ == '__main__':
    main()
