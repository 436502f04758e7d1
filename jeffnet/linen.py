"""Flax Linen back end: turns any Block into a `flax.linen.Module` with `params` and `batch_stats`."""

import dataclasses
import functools
import types
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jeffnet import create
from jeffnet.core.block import PYTORCH, Block, Keys, Param, Policy, State, declarations
from jeffnet.core.derive import block_class, fields, methods
from jeffnet.core.initial import initial_value, to_device


class LinenBlock(nn.Module):
    """Base of the derived classes."""

    policy: Policy = dataclasses.field(default=PYTORCH, kw_only=True)

    @nn.nowrap
    def __setattr__(self, name, value):
        super().__setattr__(name, _native(self, name, value))

    @nn.nowrap
    def __reduce__(self):  # a derived class has no importable name, so it is pickled by its Block class
        cls = block_class(type(self))
        if type(self) is native(cls):
            return build, (cls(**fields(self)), self.policy)
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ('parent', 'name')}
        return functools.partial(type(self), **given), ()  # a user's subclass

    @nn.nowrap
    def tap(self, name, x):
        """Returns `x` and sows it into `intermediates`."""
        self.sow('intermediates', name, x)
        return x


def _shape_alone(key, shape, dtype):
    """An initialiser of which only the shape matters."""
    return jnp.zeros(shape, dtype)


def _native(module, name, value):
    """What assigning `value` to an attribute of a module stores there."""
    if isinstance(value, list):
        return [_native(module, f'{name}_{i}', element) for i, element in enumerate(value)]
    if isinstance(value, State):
        variable = module.variable('batch_stats', name, value.init, None, value.shape, jnp.float32)
        # As in flax.linen.BatchNorm, initialisation in training mode leaves the initial statistics alone.
        return types.SimpleNamespace(value=variable.value) if module.is_initializing() else variable
    if isinstance(value, Param):
        # Of an array that is there, Flax traces the initialiser for its shape, half of the time that tracing takes.
        start = _shape_alone if module.has_variable('params', name) else value.init
        return module.param(name, start, value.shape, jnp.float32)
    if isinstance(value, Keys):
        return functools.partial(module.make_rng, 'dropout')
    if isinstance(value, Block) and not value.native:
        return build(*module.policy.child(name, value))
    return value


@functools.cache
def native(cls: type[Block]) -> type[nn.Module]:
    """The Linen module class of a Block class."""
    body = {'native': True, '__annotations__': {}, **methods(cls), 'tap': LinenBlock.tap}
    body |= {'__doc__': cls.__doc__, '__module__': cls.__module__}
    for name in body:
        if name.startswith('setup_'):  # parts of setup, not calls that tables of modules should list
            body[name] = nn.nowrap(body[name])
    return type(cls.__name__, (cls, LinenBlock), body)


def build(block: Block, policy: Policy = PYTORCH) -> nn.Module:
    """A Linen module of this block; initialise it with `.init` or `variables_of`."""
    return native(type(block))(**fields(block), policy=policy)


def variables_of(block: Block, policy: Policy = PYTORCH, values: dict | None = None, seed: int = 0) -> dict:
    """The variables of a block's module, `{'params': ..., 'batch_stats': ...}`: `values` by flat name, else initial."""
    tree = {'params': {}, 'batch_stats': {}}
    for name, declared in declarations(block, policy).items():
        collection = 'batch_stats' if isinstance(declared, State) else 'params'
        value = (values or {}).get(name)
        tree[collection][tuple(name.split('.'))] = initial_value(name, declared, seed) if value is None else value
    return jax.tree.map(to_device, {k: unflatten_dict(v) for k, v in tree.items() if v})


def create_model(name: str, **options) -> tuple[nn.Module, dict]:
    """The network `name` as a Linen module and its variables; see `jeffnet.create_model` for the options."""
    plan = create.plan(name, **options)
    return assemble(plan.block, plan.policy, plan.values, plan.seed)


def assemble(block: Block, policy: Policy, values: dict | None, seed: int = 0) -> tuple[nn.Module, dict]:
    """A network of this block as it is handed to users, with `values` by flat name, else initial ones."""
    return build(block, policy), variables_of(block, policy, values, seed)


def flat_variables(variables: dict) -> dict[str, Any]:
    """Every parameter and statistic by flat name (`blocks_0_0.conv_dw.kernel`)."""
    trees = [
        flatten_dict(variables[collection], sep='.')
        for collection in ('params', 'batch_stats')
        if collection in variables
    ]
    return {name: array for tree in trees for name, array in tree.items()}


def intermediates(module: nn.Module, x, variables: dict) -> dict[str, Any]:
    """The values that the module taps, by name."""
    found: dict[str, Any] = dict(flatten_dict(_taps(module, variables, x), sep='.'))
    return {name: values[0] for name, values in found.items()}


@functools.partial(jax.jit, static_argnums=0)
def _taps(module, variables, x):
    return module.apply(variables, x, mutable=['intermediates'])[1]['intermediates']


def pure(module: nn.Module, variables: dict):
    """The forward pass as a pure function of variables and images, and the variables."""
    return module.apply, variables


def functional(module: nn.Module, variables: dict):
    """The network for a training loop: a pure function, and the flat parameters and statistics it takes.

    `call(params, stats, x, key)` returns the output in training mode and the new statistics; without a key, the output
    in evaluation mode and the same statistics.
    """

    def call(params, stats, x, key=None):
        variables = {'params': unflatten_dict(params, sep='.'), 'batch_stats': unflatten_dict(stats, sep='.')}
        if key is None:
            return module.apply(variables, x), stats
        out, changed = module.apply(variables, x, training=True, mutable=['batch_stats'], rngs={'dropout': key})
        return out, {**stats, **flatten_dict(changed.get('batch_stats', {}), sep='.')}

    return call, *(flatten_dict(variables.get(part, {}), sep='.') for part in ('params', 'batch_stats'))
