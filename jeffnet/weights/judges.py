"""The reference implementations as judges of a file: the same arrays, the same images, how far are the logits apart."""

import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import jeffnet
from jeffnet.core.derive import block_class, fields
from jeffnet.models.table import ModelInfo, definition, model_info
from jeffnet.weights import files
from jeffnet.weights.names import timm_names, to_timm

JUDGES = ('timm', 'torchvision')
SIZES = ((96, 96), (97, 97))  # even and odd: SAME padding differs from symmetric padding at even sides only
BAR = (
    2e-4  # of the spread of the logits, as in the parity table; where the judge's own rounding is larger, 5 times that
)
TORCHVISION = {
    **{f'efficientnet_b{i}': f'efficientnet_b{i}' for i in range(8)},
    **{f'efficientnetv2_{size}': f'efficientnet_v2_{size}' for size in 'sml'},
    **{f'convnext_{size}': f'convnext_{size}' for size in ('tiny', 'small', 'base', 'large')},
    'mobilenetv2_100': 'mobilenet_v2', 'mnasnet_100': 'mnasnet1_0',
    'mobilenetv3_large_100': 'mobilenet_v3_large', 'mobilenetv3_small_100': 'mobilenet_v3_small',
    'regnetx_004_tv': 'regnet_x_400mf', 'regnetx_008': 'regnet_x_800mf', 'regnetx_016': 'regnet_x_1_6gf',
    'regnetx_032': 'regnet_x_3_2gf', 'regnetx_080': 'regnet_x_8gf', 'regnetx_160': 'regnet_x_16gf',
    'regnetx_320': 'regnet_x_32gf', 'regnety_004': 'regnet_y_400mf', 'regnety_008_tv': 'regnet_y_800mf',
    'regnety_016': 'regnet_y_1_6gf', 'regnety_032': 'regnet_y_3_2gf', 'regnety_080_tv': 'regnet_y_8gf',
    'regnety_160': 'regnet_y_16gf', 'regnety_320': 'regnet_y_32gf', 'regnety_1280': 'regnet_y_128gf',
}  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """How far our logits are from a judge's, in units of the spread of the logits."""

    judge: str
    error: float
    rounding: float  # the judge's own, float32 against float64

    @property
    def bar(self) -> float:
        """What is still the same function."""
        return max(BAR, 5 * self.rounding)

    @property
    def inside(self) -> bool:
        """Whether the two networks are the same function."""
        return self.error <= self.bar

    def describe(self) -> str:
        """One line for people."""
        verdict = 'the same function' if self.inside else 'NOT the same function'
        return (
            f'logits differ from those of {self.judge} by at most {self.error:.1e} of their spread (bar '
            f"{self.bar:.1e}; the judge's own rounding: {self.rounding:.1e}): {verdict}"
        )


def prepare() -> None:
    """Imports the judges, before anything imports TensorFlow: the other order ends the process."""
    try:
        import timm  # noqa: F401  for its place in the order of imports
        import torchvision  # noqa: F401  likewise
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"--against needs {error.name}: pip install 'jeffnet[torch]' timm") from error


def compare(judge: str, path: Path, module: Any, variables: dict, use_ema: bool = True) -> Comparison:
    """The logits of a Linen model and of the judge, which gets the arrays of the same file."""
    import torch

    info = model_info(module.variant)
    network = judge_of(judge, info, path, module, variables, use_ema)
    predict = jeffnet.predictor(module, variables)
    errors, roundings = [], []
    for size in [module.image_size] if hasattr(module, 'image_size') else SIZES:
        x = np.random.default_rng(0).standard_normal((4, *size, module.in_chans)).astype(np.float32)
        with torch.no_grad():
            images = torch.from_numpy(x).permute(0, 3, 1, 2)
            rough, exact = network.float()(images).numpy(), network.double()(images.double()).numpy()
        spread = np.sqrt(np.mean((exact - exact.mean(0)) ** 2))
        errors.append(np.abs(np.asarray(predict(x)) - rough).max() / spread)
        roundings.append(np.abs(rough - exact).max() / spread)
    moved = judge == 'timm' and getattr(module, 'stride_in_projection', False)
    name = 'timm (its strides moved into the projections, as the released weights have them)' if moved else judge
    return Comparison(name, float(max(errors)), float(max(roundings)))


def judge_of(judge: str, info: ModelInfo, path: Path, module: Any, variables: dict, use_ema: bool):
    """The judge's network in evaluation mode, with the file's arrays where it knows their names, else with ours."""
    file = files.read(path, use_ema)
    first = re.sub(r'_(\d+)$', r'.\1', module.first_conv)  # a list's element, as timm writes it
    timm_file = file.layout == 'pytorch' and f'{first}.weight' in file.arrays
    if judge == 'torchvision':
        if info.arch not in TORCHVISION or file.layout != 'pytorch' or timm_file:
            raise ValueError(
                f"{path}: --against torchvision takes torchvision's own files, of {', '.join(TORCHVISION)}"
            )
        import torchvision

        network = getattr(torchvision.models, TORCHVISION[info.arch])(num_classes=module.num_classes)
    elif not info.in_timm:
        raise ValueError(f'--against timm: timm has no network like {info.name}')
    else:
        import timm

        options = {'num_classes': max(0, module.num_classes), 'in_chans': module.in_chans}
        if hasattr(module, 'image_size'):
            options['img_size'] = module.image_size
        elif getattr(module, 'output_stride', 32) != 32:
            options['output_stride'] = module.output_stride
        network = timm.create_model(info.timm, **options)
        set_eps(network, module.policy.bn_eps)
        if getattr(module, 'stride_in_projection', False):
            move_stride_to_projection(network)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    adapted = any(wanted.get(name) not in (None, tuple(array.shape)) for name, array in file.arrays.items())
    known = set(file.arrays) <= {*wanted, 'n_averaged'}  # a file may hold more, or have other names for the rest
    as_in_file = judge == 'torchvision' or (timm_file and known and not adapted)
    load_into(network, {k: a.read() for k, a in file.arrays.items()} if as_in_file else timm_state(module, variables))
    return network.eval()


def timm_state(module: Any, variables: dict) -> dict[str, np.ndarray]:
    """timm's state dict of a Linen model."""
    block = block_class(type(module))(**fields(module))
    names = timm_names(block, module.policy, definition(model_info(module.variant)).WEIGHT_NAMES)
    return to_timm(jeffnet.flat_variables(variables), names)


def load_into(network, state: dict[str, np.ndarray]) -> None:
    """Puts arrays into a PyTorch network, strictly."""
    import torch

    tensors = OrderedDict(
        (name, torch.from_numpy(np.array(array, np.int64 if array.dtype.kind == 'i' else np.float32)))
        for name, array in state.items()
        if not name.endswith('n_averaged')
    )
    tensors._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]  MNASNet asks for its version
    network.load_state_dict(tensors)


def set_eps(network, eps: float) -> None:
    """Gives a PyTorch network's batch norms this epsilon, for which only some of timm's families have an argument."""
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = eps


def move_stride_to_projection(network):
    """Makes timm's EdgeTPU network what the released TensorFlow weights were trained as; returns it."""
    for module in network.modules():
        if type(module).__name__ == 'EdgeResidual':
            module.conv_pwl.stride, module.conv_exp.stride = module.conv_exp.stride, (1, 1)
    return network
