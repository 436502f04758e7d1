"""Writes jeffnet/models/hornet.json and van.json, of families that timm lacks: `python -m tools.hornet_van_table`.

Parameters and multiply-adds are counted from our definitions. Accuracies are those of the papers, preprocessing is that
of the authors' evaluation: HorNet's squeezes images to 384 pixels without a crop, to which a crop of everything is the
nearest that there is. The authors' weights are torch files elsewhere than on timm's hub, so that `weights` stays empty,
and top-1 is what they reach. ImageNet-22k stands for the 10450 classes that the authors' counts of parameters imply.
"""

import json
from typing import Any

from jeffnet.models.table import table
from tools.keras_table import MODELS, write
from tools.timm_table import count

IMAGENET = {'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]}
UNIT = {'mean': [0.5] * 3, 'std': [0.5] * 3}  # of timm 0.4.12's Vision Transformers, whose settings VAN's authors take
HORNETS = {'tiny': (82.8, 83.0), 'small': (83.8, 84.0), 'base': (84.2, 84.3)}  # top-1 with 7x7 kernels, with filters
VANS = {'b0': 75.4, 'b1': 81.1, 'b2': 82.8, 'b3': 83.9, 'b4': None, 'b5': None, 'b6': None}


def main() -> None:
    hornets: dict[str, dict] = {}
    for size, (plain, filtered) in HORNETS.items():
        hornets |= hornet(size, plain) | hornet(f'{size}_gf', filtered) | hornet(f'{size}_gf_384', None, 384)
    for kind, side in (('', 224), ('_gf', 224), ('_gf_384', 384)):
        hornets |= hornet(f'large{kind}', None, side, '_in22k', {'num_classes': 10450})
    save('hornet', hornets)
    save('van', {f'pt_van_{size}': van(f'van_{size}', top1) for size, top1 in VANS.items()})


def hornet(kind: str, top1: float | None, side: int = 224, ending: str = '', options: dict | None = None) -> dict:
    """The entry of a HorNet, by its name."""
    name = f'pt_hornet_{kind}{ending}'
    published = top1 is not None or ending == '_in22k'
    return {
        name: entry(name, f'hornet_{kind}', 'arXiv:2207.14284', top1, 'mit' if published else None)
        | {'options': options or {}, 'input_size': [side, side, 3], 'crop_pct': 1.0 if side == 384 else 0.875}
        | ({'crop_mode': 'squash'} if side == 384 else {})
        | IMAGENET
    }


def van(arch: str, top1: float | None) -> dict:
    """The entry of a VAN."""
    return entry(f'pt_{arch}', arch, 'arXiv:2202.09741', top1, 'apache-2.0' if top1 else None) | UNIT


def entry(name: str, arch: str, paper: str, top1: float | None, licence: str | None) -> dict[str, Any]:
    """What the entries of both families have in common, not counted yet."""
    return {
        'family': arch.partition('_')[0], 'arch': arch, 'flavour': 'pt', 'options': {}, 'parameters': 0,
        'multiply_adds': 0, 'input_size': [224, 224, 3], 'crop_pct': 0.9, 'interpolation': 'bicubic', 'mean': [],
        'std': [], 'preprocessing': 'pil', 'weights': None, 'timm': name, 'licence': licence, 'paper': paper,
        'top1': top1, 'top5': None, 'top_image_size': 224 if top1 else None, 'drop_rate': 0.0,
    }  # fmt: skip


def save(file: str, entries: dict[str, dict]) -> None:
    """Writes the table of a family."""
    path = MODELS / f'{file}.json'
    write(path, entries)
    table.cache_clear()
    count(path, json.loads(path.read_text()))


if __name__ == '__main__':
    main()
