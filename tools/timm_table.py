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

# By family file, all of whose VARIANTS that timm has become names: the paper where timm states none, of all or by
# family; and, by pattern of the architecture or of the weights (the first that matches), the family if that is not the
# file, what differs from the policy, options of the network, and the dropout of the training recipe where one is known.
# `kept`: patterns of names whose entries stay as they are.
FAMILIES: dict[str, dict[str, Any]] = {
    'densenet': {'paper': 'arXiv:1608.06993'},
    'efficientnet': EFFICIENTNET,
    'mobilenetv4': {'paper': 'arXiv:2404.10518'},
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
        fresh = {}
        for arch in importlib.import_module(f'jeffnet.models.{file}').VARIANTS:
            for theirs in filter(timm.is_model, (arch, f'tf_{arch}')):
                found = names(theirs, entries)
                fresh |= {name: entry(file, theirs, weights, measured) for name, weights in found.items()}
        fresh = {name: each for name, each in fresh.items() if name not in entries or not is_kept(file, name)}
        kept = {n: e for n, e in entries.items() if n in fresh or is_kept(file, n) or e['flavour'] not in ('pt', 'tf')}
        write(path, kept | fresh)
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
    paper = about['paper'] if isinstance(about['paper'], str) else about['paper'][family]
    classes = {} if config.num_classes == 1000 else {'num_classes': config.num_classes}
    return {
        'family': family, 'arch': arch.removeprefix('tf_'), 'flavour': flavour,
        'options': classes | (chosen['options'] or {}), 'parameters': 0, 'multiply_adds': 0,
        'input_size': [height, width, 3], 'crop_pct': config.crop_pct, 'interpolation': config.interpolation,
        'mean': list(config.mean), 'std': list(config.std), 'preprocessing': 'tf' if flavour == 'tf' else 'pil',
        'weights': weights, 'timm': arch, 'licence': config.license, 'paper': config.paper_ids or paper,
        'top1': top1, 'top5': top5, 'top_image_size': height if row else None, 'drop_rate': chosen['drop_rate'] or 0.0,
        'policy': chosen['policy'] or {},
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
    entries = json.loads(path.read_text())
    for name in fresh:
        entries[name]['parameters'] = parameter_count(plan(name).block, policy_of(jeffnet.model_info(name)))
        entries[name]['multiply_adds'] = multiply_adds(name)
    write(path, entries)
    table.cache_clear()


if __name__ == '__main__':
    main()
