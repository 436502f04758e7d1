"""JAX vision models: one definition of each architecture, native in Flax Linen, Objax and Flax NNX.

`import jeffnet` imports neither tensorflow, torch, objax nor flax (nor jax); each comes with the part that needs it.
"""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jeffnet.models.table import ModelInfo, model_info
from jeffnet.models.table import find_models as list_models

if TYPE_CHECKING:
    from jeffnet import linen, machine, nnx, objax, weights
    from jeffnet.flaim import get_model
    from jeffnet.weights import push_to_hub, save_weights

__version__ = '0.1.0'
__all__ = [
    'ModelInfo', 'create_model', 'flat_variables', 'fuse', 'get_model', 'intermediates', 'linen', 'list_models',
    'machine', 'model_info', 'nnx', 'objax', 'predictor', 'push_to_hub', 'save_weights', 'weights',
]  # fmt: skip

FRAMEWORKS = ('linen', 'objax', 'nnx')


def __getattr__(name: str):
    """Imports `jeffnet.linen`, `.objax`, `.nnx`, `.weights`, `.data`, `.train`, `.machine` on first use."""
    if name in ('push_to_hub', 'save_weights'):
        return getattr(importlib.import_module('jeffnet.weights'), name)
    if name == 'get_model':
        return importlib.import_module('jeffnet.flaim').get_model
    if name in (*FRAMEWORKS, 'weights', 'data', 'train', 'machine'):
        return importlib.import_module(f'jeffnet.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def create_model(name: str, framework: str = 'linen', **options) -> Any:
    """A network by name: `(module, variables)` for Linen, a module for Objax and NNX.

    The options are those of every framework's `create_model`:

    - `pretrained=False`: fetch the published weights of this name.
    - `weights=None`: a file or folder instead, or `hf-hub:owner/repo[@revision]`; docs/weights.md lists the kinds.
    - `strict=True`: any missing, unexpected or misshapen array is an error; `False` loads what fits and logs the rest.
    - `use_ema=True`: the averaged weights of a training checkpoint, where it holds both.
    - `num_classes=None`: as published; n > 0: a fresh classifier; 0: the final feature map; -1: all but the classifier.
    - `in_chans=3`: channels of the images; loaded weights of the first convolution are adapted.
    - `image_size=None`: for models with position tables; convolutional networks take any size anyway.
    - `features_only=False`, `out_indices=None`: return a list of feature maps, described by `module.feature_info`.
    - `output_stride=32`: 32, 16 or 8; strides beyond it become dilations.
    - `drop_rate=0.`, `drop_path_rate=0.`: dropout before the classifier, stochastic depth.
    - `bn_eps=None`, `bn_momentum=None`: of batch norm, as published; the momentum is the share that is kept.
    - `dtype=jnp.float32`: of the computation; parameters, statistics and logits stay float32.
    - `seed=0`: of the initial values, the same in all frameworks.

    The name may also be a place that says which model it holds, `hf-hub:owner/repo[@revision]` or `local-dir:PATH`;
    `pretrained=True` then takes the weights from there. Fields of the architecture itself, such as
    `stride_in_projection` of the EdgeTPU models, are accepted too.
    Raises ValueError or TypeError naming the keyword at fault.
    """
    return _back_end(framework).create_model(name, **options)


def flat_variables(model: Any) -> dict[str, Any]:
    """All parameters and statistics by flat name, of Linen variables, an Objax module or an NNX module."""
    return _back_end(_framework_of(model)).flat_variables(model)


def intermediates(model: Any, x, variables: dict | None = None) -> dict[str, Any]:
    """The named values inside a forward pass of `x` `[N, H, W, C]`: `stage_0`, ...; Linen needs `variables`."""
    return _back_end(_framework_of(model, variables)).intermediates(model, x, variables)


def fuse(model: Any, variables: dict | None = None) -> Any:
    """The inference form of a network: batch norm folded into the convolutions before it, dropout left out.

    A new module of the same framework, for Linen `(module, variables)`; the given one stays as it is. Names and calls
    are the same (`blocks_0_0.conv_dw.kernel`, now with a `blocks_0_0.conv_dw.bias` and without `blocks_0_0.bn1`), and
    so is the output, but for rounding; `training=True` raises ValueError. A batch norm that does not directly follow
    a `Conv`, `MixedConv` or `Linear`, or shares what that returns with others, stays. Kernels and biases are folded in
    float64 and kept as float32, whatever the `dtype`.

    Raises TypeError for what is not made of jeffnet's blocks alone, or was changed after construction: a subclass, a
    module with layers assigned later. Raises ValueError for Linen variables that are not those of the module.
    """
    back_end = _back_end(_framework_of(model, variables))
    fusion = importlib.import_module('jeffnet.fusion')
    return fusion.fuse(back_end, model, variables)


def predictor(
    model: Any, variables: dict | None = None, *, devices: Any = None, compiled: bool = True, fuse: bool = True
) -> Any:
    """A function from normalised images `[N, H, W, C]` to the model's output, compiled once per shape.

    It keeps the variables as they are at this moment; Linen needs `variables`. A batch is split over `devices`, by
    default all of this process; a CPU walks its share in blocks that stay in the cache, with compiler options of its
    own. Called inside another compiled function, it is the plain forward pass. `compiled=False` runs operation by
    operation on one device, for debugging. `fuse=True` runs what `jeffnet.fuse` makes of the model, or the model as it
    is: where that would raise TypeError, and in float64, which is asked for to see the last digits.

    Raises ValueError for Linen variables of another model, or of other options: it names what is missing, misshapen or
    unexpected. Further collections are passed on.
    """
    from jeffnet.predict import Predictor, forward_pass

    back_end = _back_end(_framework_of(model, variables))
    fusion = importlib.import_module('jeffnet.fusion')
    if fuse:
        model, variables = fusion.fused_or_given(back_end, model, variables)
    elif variables is not None:
        fusion.check_variables(back_end, model, variables)
    call, variables = forward_pass(back_end, model, variables)
    return Predictor(call, variables, devices=devices, compiled=compiled)


def _back_end(framework: str):
    if framework not in FRAMEWORKS:
        raise ValueError(f'framework={framework!r}: expected one of {", ".join(FRAMEWORKS)}')
    return importlib.import_module(f'jeffnet.{framework}')


_ALONE = object()  # called with a single argument: Linen variables are the argument


def _framework_of(model, variables: Any = _ALONE) -> str:
    """The framework of a module, or 'linen' for a tree of variables."""
    roots = {'flax.linen': 'linen', 'flax.nnx': 'nnx', 'objax.module': 'objax'}
    for cls in type(model).__mro__:
        for root, framework in roots.items():
            if cls.__module__.startswith(root):
                _check_variables(model, framework, variables)
                return framework
    if isinstance(model, Mapping) and variables is _ALONE and {'params', 'batch_stats'} & set(model.keys()):
        return 'linen'
    raise TypeError(
        "expected an Objax or NNX module, a Linen module with variables, or Linen variables {'params': ..., ...}, "
        f'not {type(model).__name__}'
    )


def _check_variables(model: Any, framework: str, variables: Any) -> None:
    """Raises TypeError unless a module of this framework is given its variables as it needs them."""
    if framework != 'linen':
        if variables is not None and variables is not _ALONE:
            raise TypeError(f'variables are for Linen: a module of {framework} keeps its arrays itself')
    elif not isinstance(variables, Mapping):
        hint = 'give its variables' if variables is _ALONE else 'pass its variables as well'
        raise TypeError(f'a Linen module keeps no arrays: {hint}')
    elif hasattr(model, 'policy') and not {'params', 'batch_stats'} & set(variables):  # a network of jeffnet
        raise TypeError(f"expected Linen variables {{'params': ..., ...}}, not a tree of {list(variables)}")
