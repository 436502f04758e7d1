"""The table of all models: which names exist, what each one is, and where its weights come from.

The data lie beside this file, one JSON file per family file; no framework is imported to list or describe models.
"""

import difflib
import fnmatch
import functools
import importlib.util
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FAMILY_FILES = (
    'efficientnet', 'mobilenetv4', 'resnet', 'sknet', 'resnest', 'resnetv2', 'regnet', 'densenet', 'vgg',
    'inception_v3', 'inception_v4', 'inception_resnet_v2', 'xception', 'xception_aligned', 'nasnet', 'pnasnet',
    'convnext', 'convmixer', 'hornet', 'van', 'vit',
)  # fmt: skip


@dataclass(frozen=True)
class ModelInfo:
    """What is known about one set of weights of one architecture."""

    name: str  # e.g. tf_efficientnet_b0_ns
    family: str  # e.g. efficientnet_noisystudent
    file: str  # module of jeffnet.models that defines it
    arch: str  # key of VARIANTS in that module
    flavour: str  # 'pt': PyTorch's padding and batch norm; 'tf': TensorFlow's; 'keras': Keras Applications'
    options: dict = field(hash=False)  # fields of the architecture that these weights fix
    parameters: int  # trained ones, as published
    multiply_adds: int  # per image at input_size
    input_size: tuple[int, int, int]  # (H, W, C)
    crop_pct: float
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    preprocessing: str  # 'pil': resize then crop; 'tf': crop then resize; 'keras-...': as `pil`, Keras' pixels
    weights: str | None  # <timm architecture>.<tag>, or the address of Keras' file; None if none were published
    timm: str  # timm architecture, or the name itself where timm has none
    licence: str | None
    paper: str
    top1: float | None  # ImageNet-1k validation, percent, as published with the weights (timm's results)
    top5: float | None
    top_image_size: int | None  # pixels, at which top1 and top5 were measured
    drop_rate: float  # dropout of the published training recipe; models are built with 0 unless asked
    revision: str | None = None  # commit of the hub's repository that holds `weights`; None: its newest
    policy: dict = field(default_factory=dict, hash=False)  # where batch norm and padding are not the flavour's
    keras: str | None = None  # constructor in keras.applications
    keras_options: dict = field(default_factory=dict, hash=False)  # its keywords for this name
    crop_mode: str = 'center'  # or 'squash': the image is resized to both sides, whatever its shape
    checksum: str | None = None  # of the file `weights`, as Keras publishes it: md5, or sha-256 if it has 64 digits

    @property
    def in_timm(self) -> bool:
        """Whether timm has the architecture; of ours, only the names of the flavour tf can be timm's too."""
        return self.timm != self.name or self.flavour == 'tf'

    @property
    def tag(self) -> str | None:
        """timm's tag of these weights."""
        return (self.weights and self.keras is None and self.weights.partition('.')[2]) or None


@functools.cache
def table() -> dict[str, ModelInfo]:
    """All models by name, sorted."""
    found = {}
    for file in FAMILY_FILES:
        for name, entry in json.loads(Path(__file__).with_name(f'{file}.json').read_text()).items():
            if name in found:
                raise ValueError(f'the model name {name!r} is defined twice')
            entry |= {k: tuple(entry[k]) for k in ('input_size', 'mean', 'std')}
            found[name] = ModelInfo(name=name, file=file, **entry)
    return dict(sorted(found.items()))


@functools.cache
def tagged() -> dict[str, str]:
    """Model name by `<arch>.<tag>`, with the prefix of the name: `tf_efficientnet_b0.ns_jft_in1k`."""
    found = {}
    for info in table().values():
        if info.weights and info.flavour != 'keras':
            prefix = '' if info.weights.startswith(f'{info.flavour}_') else f'{info.flavour}_'
            found[prefix + info.weights] = info.name
    return found


def model_info(name: str) -> ModelInfo:
    """The table's entry of a name or `<name>.<tag>`; ValueError with the closest names if there is none."""
    name_or_tag = tagged().get(name, name)
    if name_or_tag not in table():
        known = [*table(), *tagged()]
        close = difflib.get_close_matches(str(name).lower(), known, n=3, cutoff=0.5) or sorted(known)[:3]
        raise ValueError(
            f'unknown model {name!r}; the closest names are {", ".join(close)} (all of them: jeffnet.list_models())'
        )
    return table()[name_or_tag]


def list_models(pattern: str | None = None, *, family: str | None = None, pretrained: bool | None = None) -> list[str]:
    """Sorted model names that match a shell glob, a family, and whether published weights exist."""
    return [
        info.name
        for info in table().values()
        if (pattern is None or fnmatch.fnmatchcase(info.name, pattern))
        and (family is None or info.family == family)
        and (pretrained is None or (info.weights is not None) == pretrained)
    ]


def find_models(pattern: str | None = None, *, family: str | None = None, pretrained: bool | None = None) -> list[str]:
    """Sorted model names that match a pattern, a family, and whether published weights exist.

    The pattern is a shell glob of whole names or, if none matches, a regular expression that is searched in them, as
    flaim's. Raises ValueError for a pattern that is neither.
    """
    which = {'family': family, 'pretrained': pretrained}
    found = list_models(pattern, **which)
    if found or pattern is None:
        return found
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise ValueError(f'pattern {pattern!r}: no name matches this glob, and it is no regular expression') from error
    return [name for name in list_models(**which) if search(name)]


def definition(info: ModelInfo):
    """The module of jeffnet.models that defines this model."""
    return importlib.import_module(f'jeffnet.models.{info.file}')


def network_of(info: ModelInfo, **options) -> Any:
    """The network as published, but for these fields."""
    return definition(info).VARIANTS[info.arch](**{**info.options, **options})


def foreign_names(info: ModelInfo) -> Any:
    """The module of names that other publishers than timm use for this family's arrays, or None.

    It has a function for each of its publishers: `torchvision_modules` beside `is_torchvision` (and, if its batch norm
    differs, `TORCHVISION_POLICY`), `predecessor_modules`, `tensorflow_arrays`.
    """
    name = f'jeffnet.models.{info.file}_names'
    return importlib.import_module(name) if importlib.util.find_spec(name) else None
