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

# By family file, all of whose VARIANTS that timm has become names: the paper where timm states none, and, by pattern of
# the architecture (the first that matches), another paper, its family if that is not the file, what differs from the
# policy; by pattern of the weights, what they fix beside timm's number of classes, or against it.
FAMILIES: dict[str, dict[str, Any]] = {
    'convmixer': {'paper': 'arXiv:2201.09792'},
    'convnext': {
        'paper': 'arXiv:2201.03545',
        'papers': {'convnextv2_*': 'arXiv:2301.00808'},
        'family': {'convnextv2_*': 'convnextv2'},
        'options': {'*.fcmae': {'num_classes': 0}},  # without even the norm of the pooled features
    },
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
        entries = json.loads(path.read_text())
        pinned = {e['timm']: e['weights'] for name, e in entries.items() if name == f'pt_{e["timm"]}'}
        fresh = {}
        for arch in importlib.import_module(f'jeffnet.models.{file}').VARIANTS:
            if timm.is_model(arch):
                for name, weights in names(arch, pinned.get(arch)).items():
                    fresh[name] = entry(file, arch, weights, measured)
        write(path, fresh | {name: old for name, old in entries.items() if not name.startswith('pt_')})
        table.cache_clear()
        count(path, fresh)


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
    top1, top5 = (float(row[key]) if row else None for key in ('top1', 'top5'))
    paper = of_pattern(family.get('papers', {}), arch) or family['paper']
    # timm's 0 classes are pooled features, our -1.
    options = {'num_classes': config.num_classes or -1} if config.num_classes != 1000 else {}
    options |= of_pattern(family.get('options', {}), weights or arch) or {}
    return {
        'family': of_pattern(family.get('family', {}), arch) or file, 'arch': arch, 'flavour': 'pt', 'options': options,
        'parameters': 0, 'multiply_adds': 0,
        'input_size': [height, width, 3], 'crop_pct': config.crop_pct, 'interpolation': config.interpolation,
        'mean': list(config.mean), 'std': list(config.std), 'preprocessing': 'pil', 'weights': weights, 'timm': arch,
        'licence': config.license, 'paper': config.paper_ids or paper, 'top1': top1, 'top5': top5,
        'top_image_size': height if row else None, 'drop_rate': 0.0,
        'policy': of_pattern(family.get('policy', {}), arch) or {},
    }  # fmt: skip


def of_pattern(values: dict[str, Any], name: str) -> Any:
    """The value of the first pattern that matches, or None."""
    return next((value for pattern, value in values.items() if fnmatch.fnmatchcase(name, pattern)), None)


def count(path: Path, fresh: dict[str, dict]) -> None:
    """Writes the parameters and multiply-adds of new entries."""
    entries = json.loads(path.read_text())
    for name in fresh:
        entries[name]['parameters'] = parameter_count(plan(name).block, policy_of(jeffnet.model_info(name)))
        entries[name]['multiply_adds'] = multiply_adds(name)
    write(path, entries)
    table.cache_clear()


if __name__ == '__main__':
    main()
