"""The inference form of a network: batch norm folded into the layers before it, dropout left out; `jeffnet.fuse`.

Which batch norms can go is read from the program that one forward pass makes: the layers of a copy of the network mark
in it what they return and what they take. So a model needs no list of its pairs, and a model that uses the output of a
convolution twice keeps its batch norm.
"""

import copy
import dataclasses
import types
from collections import Counter
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.core import Tracer
from jax.extend.core import Jaxpr, Var, jaxprs_in_params

from jeffnet.core.block import Block, Edit, Keys, Param, Policy, State, declarations, recording, unchanged
from jeffnet.core.derive import block_class, fields
from jeffnet.core.layers import BatchNorm, Conv, Dropout, Linear, MixedConv

MADE, TAKEN = 'made by ', 'taken by '  # the marks, before the path of a layer
MEND = 'give all that was created with this module, or create the module with the options of the variables'
SHOWN = 3  # of the names in an error, beside the first
SIDE = 224  # of the image that the program is read from; its pairs depend on no size


class NotFusable(TypeError):
    """A module that is not what its Block and policy say, so that no other can be made of them."""


class WrongVariables(NotFusable, ValueError):
    """Variables that are not those of the module they were given with, which cannot run with them at all."""


# ------------------------------------------------------------------------------------- layers without a training mode


def inference_only(x, training):
    """Returns `x`; ValueError in training."""
    if training:
        raise ValueError('a model fused for inference cannot train: call the one that jeffnet.fuse was given')
    return x


class FoldedBatchNorm(BatchNorm):
    """Stands for a batch norm that is part of the layer before it."""

    def setup(self):
        """Has no arrays."""

    def __call__(self, x, training=False):  # [N, ..., features]
        return inference_only(x, training)


class LeftOutDropout(Dropout):
    """Stands for a dropout, without its stream of keys."""

    def setup(self):
        """Has no keys."""

    def __call__(self, x, training=False):  # [N, ...]
        return inference_only(x, training)


# The edits of a policy. Each leaves alone what it is not for, which a user may have put in the place since.


def folded_norm(block: Block) -> Block:
    """The stand-in of a batch norm."""
    return FoldedBatchNorm(**fields(block)) if type(block) is BatchNorm else block


def left_out(block: Block) -> Block:
    """The stand-in of a dropout."""
    return LeftOutDropout(**fields(block)) if type(block) is Dropout else block


def with_bias(block: Any) -> Block:
    """The same layer with a bias."""
    return dataclasses.replace(block, use_bias=True) if type(block) in (Conv, Linear) else block


# ----------------------------------------------------------------------------------------------------------- the whole


def fuse(back_end: types.ModuleType, model: Any, variables: dict | None = None) -> Any:
    """What `jeffnet.fuse` returns, for a model of this back end."""
    block, policy = blueprint(back_end, model)
    values = checked_values(back_end, block, policy, model, variables)
    for name, value in values.items():
        if not isinstance(value, jax.Array | np.ndarray) or isinstance(value, Tracer):
            raise NotFusable(f'{name} is no array but {type(value).__name__}: fuse a model with values, outside jit')
    layers, program = traced(block, policy, values)
    if variables is None:  # a Linen module cannot be changed
        check_unchanged(back_end, model, layers[''])
    edits: list[Edit] = [(path, left_out) for path, layer in layers.items() if type(layer) is Dropout]
    values = dict(values)
    for producer, norm in pairs(program).items():
        if layers[norm].features != layers[producer].out_features:  # one statistic for all channels
            continue
        parts = parts_of(producer, layers[producer])
        values |= folded(parts, norm, layers[norm], values)
        edits += [(norm, folded_norm), *((part, with_bias) for part in parts)]
    return back_end.assemble(block, dataclasses.replace(policy, edits=(*policy.edits, *edits)), values)


def fused_or_given(back_end: types.ModuleType, model: Any, variables: dict | None) -> tuple[Any, dict | None]:
    """The module to run and its variables: fused, or as it is if it cannot be or computes in float64."""
    policy = getattr(model, 'policy', None)
    if isinstance(policy, Policy) and jnp.finfo(policy.dtype).bits > 32:  # kernels rounded to float32 would show
        check_variables(back_end, model, variables)
        return model, variables
    try:
        found = fuse(back_end, model, variables)
    except WrongVariables:
        raise
    except NotFusable:
        return model, variables
    return (found, None) if variables is None else found


def parts_of(path: str, layer: Block) -> list[str]:
    """The paths of the convolutions that a layer consists of, in the order of their channels: mostly its own."""
    return [f'{path}.convs_{i}' for i in range(len(layer.kernel_size))] if type(layer) is MixedConv else [path]


def folded(parts: list[str], norm: str, layer: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The kernels and biases of convolutions, by flat name, that do the work of the batch norm behind them too."""
    shift, mean, var = (np.asarray(values[f'{norm}.{name}'], np.float64) for name in ('bias', 'mean', 'var'))
    gain = np.asarray(values.get(f'{norm}.scale', 1), np.float64) / np.sqrt(
        var + (layer.policy.bn_eps if layer.eps is None else layer.eps)
    )
    found, first = {}, 0
    for part in parts:
        kernel = np.asarray(values[f'{part}.kernel'], np.float64)  # [..., out]
        bias = np.asarray(values.get(f'{part}.bias', 0), np.float64)
        mine = slice(first, first + kernel.shape[-1])
        found[f'{part}.kernel'] = (kernel * gain[mine]).astype(np.float32)
        found[f'{part}.bias'] = ((bias - mean[mine]) * gain[mine] + shift[mine]).astype(np.float32)
        first = mine.stop
    return found


# --------------------------------------------------------------------------------------------- what a module is made of


def blueprint(back_end: types.ModuleType, model: Any) -> tuple[Block, Policy]:
    """The Block and the policy that a module was built from; NotFusable if they are not all of it."""
    cls = type(model)
    if not issubclass(cls, Block):
        raise NotFusable(f'{cls.__name__} is no module of jeffnet: there is nothing known in it to fuse')
    if cls is not back_end.native(block_class(cls)):
        raise NotFusable(f'{cls.__name__} is a subclass of {block_class(cls).__name__}: its methods would be lost')
    given = fields(model)
    own = [name for name, value in given.items() if isinstance(value, Block)]
    if own:
        raise NotFusable(f'{cls.__name__} was given modules as {", ".join(own)}: fuse those')
    return block_class(cls)(**given), model.policy


def check_variables(back_end: types.ModuleType, model: Any, variables: dict | None) -> None:
    """Raises WrongVariables for variables of another network; of a module that is no plain Block, nothing is known."""
    try:
        block, policy = blueprint(back_end, model)
    except NotFusable:
        return
    if variables is not None:
        checked_values(back_end, block, policy, model, variables)


def checked_values(
    back_end: types.ModuleType, block: Block, policy: Policy, model: Any, variables: dict | None
) -> Mapping[str, Any]:
    """The arrays of a model by flat name: NotFusable if they are not those declared, WrongVariables if given."""
    if variables is None:
        if faults := differences(block, policy, values := back_end.flat_variables(model)):
            raise NotFusable(faults)
        return values
    for part in ('params', 'batch_stats'):
        if not isinstance(variables.get(part, {}), Mapping):
            raise WrongVariables(
                f'{part} of the variables is no tree of arrays but {type(variables[part]).__name__}; {MEND}'
            )
    if faults := differences(block, policy, values := back_end.flat_variables(variables)):
        raise WrongVariables(f'the variables are not those of this {type(block).__name__}: {faults}; {MEND}')
    return values


def differences(block: Block, policy: Policy, values: Mapping[str, Any]) -> str:
    """What is missing, misshapen or unexpected among the arrays of a block, in words; empty if nothing is."""
    wanted = declarations(block, policy)
    missing = [name for name in wanted if name not in values]
    misshapen = [
        f'{name} has the shape {shape}, where the module declares {tuple(declared.shape)}'
        for name, declared in wanted.items()
        if name in values and (shape := shape_of(values[name], declared)) != tuple(declared.shape)
    ]
    unexpected = [name for name in values if name not in wanted]
    # A user's Block may hold modules of the framework, whose arrays are not declared.
    ours = type(block).__module__.startswith('jeffnet.') and policy.rewrite is unchanged
    faults = [
        f'there is no {missing[0]}, which the Block of the model declares{others(missing)}' if missing else '',
        f'{misshapen[0]}{others(misshapen)}' if misshapen else '',
        f'nothing declares {unexpected[0]}{others(unexpected)}' if unexpected and (ours or missing) else '',
    ]
    return '; '.join(filter(None, faults))


def others(names: list[str]) -> str:
    """The first few that follow a name, and their count."""
    rest = [name.partition(' ')[0] for name in names[1:]]
    shown = ', '.join(rest[:SHOWN]) + (', ...' if len(rest) > SHOWN else '')
    return f' (and {len(rest)} more: {shown})' if rest else ''


def shape_of(value: Any, declared: Param) -> tuple[int, ...]:
    """The shape of a variable; the declared one for what has none to look at, such as a boxed array."""
    if value is None or isinstance(value, bool | int | float | str):
        return ()
    if isinstance(value, list | tuple):
        return np.shape(value)
    return tuple(getattr(value, 'shape', declared.shape))


def check_unchanged(back_end: types.ModuleType, module: Any, expected: Any, path: str = '') -> None:
    """Raises NotFusable if a module, or one inside, has other attributes than its Block gives it."""
    cls = back_end.native(block_class(type(expected)))
    if type(module) is not cls:
        raise NotFusable(f'{path or "the model"} is a {type(module).__name__}, where its Block has a {cls.__name__}')
    wanted = vars(expected)
    odd = {name for name in {*vars(module)} ^ {*wanted} if not name.startswith('_')}
    if odd:
        raise NotFusable(f'attributes of {path or "the model"} were assigned after construction: {sorted(odd)}')
    for name, value in wanted.items():
        check_attribute(back_end, getattr(module, name), value, f'{path}.{name}'.lstrip('.'))


def check_attribute(back_end: types.ModuleType, actual: Any, expected: Any, path: str) -> None:
    """The same for the value of an attribute."""
    if type(expected) is Marked:
        check_unchanged(back_end, actual, expected.layer, path)
    elif isinstance(expected, Block):
        check_unchanged(back_end, actual, expected, path)
    elif isinstance(expected, list) and isinstance(actual, Iterable) and len(list(actual)) == len(expected):
        for i, (one, other) in enumerate(zip(actual, expected, strict=True)):
            check_attribute(back_end, one, other, f'{path}_{i}')
    elif isinstance(expected, jax.Array | SimpleNamespace | Keys):
        pass  # variables, whose values are read by name
    elif not np.all(actual == expected):  # an attribute may be a NumPy array
        raise NotFusable(f'{path} was changed after construction: {actual!r}, where its Block has {expected!r}')


# ----------------------------------------------------------------------------------------------- which layers are pairs


def traced(block: Block, policy: Policy, values: Mapping[str, Any]) -> tuple[dict[str, Any], Jaxpr]:
    """The layers of a network by path, '' being the whole, and the program of its forward pass with their marks."""
    layers = {}

    def forward(values, images):
        network = layers[''] = plain(block, policy, values, '', layers)
        with recording() as taps:  # outputs too: what is tapped between convolution and batch norm must stay
            return network(images), taps

    shapes = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in values.items()}
    try:
        return layers, jax.make_jaxpr(forward)(shapes, example(block)).jaxpr
    except NotFusable:
        raise
    except Exception as error:
        raise NotFusable(f'{type(block).__name__} cannot be run on {example(block).shape}: {error}') from error


def example(block: Any) -> jax.ShapeDtypeStruct:
    """The shape of an image that a network takes."""
    channels = getattr(block, 'in_chans', getattr(block, 'in_features', 3))
    return jax.ShapeDtypeStruct((1, *getattr(block, 'image_size', (SIDE, SIDE)), channels), jnp.float32)


def plain(block: Any, policy: Policy, values: Mapping[str, Any], path: str, layers: dict[str, Any]) -> Any:
    """A copy of a block that can be called without a framework; `layers` gets its parts by path.

    `path` ends in a dot but for the whole network.
    """
    block = copy.copy(block)
    block.policy = policy
    block.setup()

    def stored(name, value):
        if isinstance(value, list):
            return [stored(f'{name}_{i}', element) for i, element in enumerate(value)]
        if isinstance(value, Param):
            array = values[path + name]
            return SimpleNamespace(value=array) if isinstance(value, State) else array
        if isinstance(value, Block):
            child = plain(*policy.child(name, value), values, f'{path}{name}.', layers)
            layers[path + name] = child
            return Marked(child, path + name) if type(child) in (Conv, MixedConv, Linear, BatchNorm) else child
        return value

    for name, value in list(vars(block).items()):
        setattr(block, name, stored(name, value))
    return block


class Marked:
    """A layer that marks in a traced program what it returns, or takes if it is a batch norm; else like the layer."""

    __class__ = property(lambda self: type(self.layer))  # for `isinstance` in a model's code

    def __init__(self, layer: Any, path: str):
        self.layer, self.path = layer, path

    def __call__(self, x, *mode, **named_mode):
        if isinstance(self.layer, BatchNorm):
            return self.layer(checkpoint_name(x, TAKEN + self.path), *mode, **named_mode)
        return checkpoint_name(self.layer(x), MADE + self.path)

    def __getattr__(self, name):
        value = getattr(self.layer, name)
        if isinstance(value, jax.Array | SimpleNamespace):  # folding would change it for whoever reads it
            raise NotFusable(f'{self.path}.{name} is read by another part of the model')
        return value


def pairs(program: Jaxpr) -> dict[str, str]:
    """By the path of a producer, that of the batch norm which alone takes what it makes; each is called once."""
    uses, marks, made, taken = Counter(), Counter(), {}, {}

    def walk(program: Jaxpr):
        uses.update(v for v in program.outvars if isinstance(v, Var))
        for equation in program.eqns:
            inputs = [v for v in equation.invars if isinstance(v, Var)]
            uses.update(inputs)
            mark = equation.params['name'] if equation.primitive.name == 'name' else ''
            marks[mark] += 1
            if mark.startswith(MADE):
                made[equation.outvars[0]] = mark
            elif mark.startswith(TAKEN):
                taken[inputs[0]] = mark
            for inner in jaxprs_in_params(equation.params):
                walk(inner)

    walk(program)
    found = [(mark, taken[v]) for v, mark in made.items() if v in taken and uses[v] == 1]
    return {
        one.removeprefix(MADE): other.removeprefix(TAKEN) for one, other in found if marks[one] == marks[other] == 1
    }
