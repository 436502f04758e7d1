"""Flax NNX back end: turns any Block into a `flax.nnx.Module` with `nnx.Param` and `nnx.BatchStat` variables."""

import functools
import types

import jax
from flax import nnx

from jeffnet import create
from jeffnet.core.block import PYTORCH, Block, Keys, Param, Policy, State, recording
from jeffnet.core.derive import block_class, fields, methods
from jeffnet.core.initial import FRESH, Source


class Statistic(nnx.BatchStat):
    """A running statistic; the core reads and assigns `value`, a name that flax deprecates for its own variables."""

    value = property(lambda self: self.get_value(), lambda self, array: self.set_value(array))


class NNXBlock(nnx.Module):
    """Base of the derived classes."""

    _building = (FRESH, None)  # of sub-blocks that are assigned after construction

    def __init__(self, *args, policy: Policy = PYTORCH, source: Source = FRESH, rngs=None, **kwargs):
        self.policy = policy
        object.__setattr__(self, '_building', (source, rngs or nnx.Rngs(dropout=source.seed)))
        block_class(type(self)).__init__(self, *args, **kwargs)
        self.setup()
        object.__delattr__(self, '_building')

    def __setattr__(self, name, value):
        super().__setattr__(name, _native(self, name, value))

    def train(self, **attributes):
        """Refused: the mode is an argument of the call."""
        raise TypeError('jeffnet models have no mode: call model(x, training=True)')

    eval = train

    def __reduce__(self):  # a derived class has no importable name, so it is pickled by its Block class
        cls = block_class(type(self))
        if type(self) is not native(cls):
            return super().__reduce__()
        return _restore, (cls(**fields(self)), self.policy, nnx.to_pure_dict(nnx.state(self)))


def _restore(block, policy, state):
    model = build(block, policy)
    nnx.update(model, state)
    return model


def _native(module, name, value):
    """What assigning `value` to an attribute of a module stores there."""
    if isinstance(value, list):
        return nnx.List([_native(module, f'{name}_{i}', element) for i, element in enumerate(value)])
    if isinstance(value, State):
        return Statistic(module._building[0](name, value))
    if isinstance(value, Param):
        return nnx.Param(module._building[0](name, value))
    if isinstance(value, Keys):
        source, rngs = module._building
        return (rngs or nnx.Rngs(dropout=source.seed)).dropout.fork()
    if isinstance(value, Block) and not value.native:
        source, rngs = module._building
        return build(*module.policy.child(name, value), source.child(name), rngs)
    return value


@functools.cache
def native(cls: type[Block]) -> type[nnx.Module]:
    """The NNX module class of a Block class."""
    body = {'native': True, **methods(cls), '__doc__': cls.__doc__, '__module__': cls.__module__}
    body |= {k: vars(NNXBlock)[k] for k in ('__init__', '__setattr__', '__reduce__')}
    body |= {'__repr__': nnx.Module.__repr__, '__eq__': object.__eq__, '__hash__': object.__hash__}
    return types.new_class(cls.__name__, (cls, NNXBlock), {}, lambda namespace: namespace.update(body))


def build(block: Block, policy: Policy = PYTORCH, source: Source = FRESH, rngs: nnx.Rngs | None = None) -> nnx.Module:
    """An NNX module of this block, with the arrays of `source`; `rngs.dropout` feeds dropout."""
    return native(type(block))(**fields(block), policy=policy, source=source, rngs=rngs)


def create_model(name: str, **options) -> nnx.Module:
    """The network `name` as an NNX module; see `jeffnet.create_model` for the options."""
    plan = create.plan(name, **options)
    return assemble(plan.block, plan.policy, plan.values, plan.seed)


def assemble(block: Block, policy: Policy, values: dict | None, seed: int = 0) -> nnx.Module:
    """A network of this block as it is handed to users, with `values` by flat name, else initial ones."""
    return build(block, policy, Source(seed, values))


def flat_variables(model: nnx.Module) -> dict[str, jax.Array]:
    """Every parameter and statistic by flat name (`blocks_0_0.conv_dw.kernel`)."""
    variables = nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    return {_flat(path): variable.get_value() for path, variable in variables}


def _flat(path) -> str:
    """The flat name of a variable at this path."""
    return ''.join(f'_{part}' if isinstance(part, int) else f'.{part}' for part in path).lstrip('.')


def intermediates(model: nnx.Module, x, variables=None) -> dict[str, jax.Array]:
    """The values that the model taps, by name."""
    return _taps(*nnx.split(model), x)


@functools.partial(jax.jit, static_argnums=0)
def _taps(graph, state, x):
    with recording() as recorded:
        nnx.merge(graph, state)(x)
    return recorded


def pure(model: nnx.Module, variables=None):
    """The forward pass as a pure function of variables and images, and the variables as they are now."""
    graph, state = nnx.split(model)
    return lambda state, x: nnx.merge(graph, state)(x), state


def functional(model: nnx.Module, variables=None):
    """The network for a training loop: a pure function, and the flat parameters and statistics it takes.

    `call(params, stats, x, key)` returns the output in training mode and the new statistics; without a key, the output
    in evaluation mode and the same statistics.
    """
    graph, kept = nnx.split(model)
    kept = nnx.to_flat_state(kept)

    def call(params, stats, x, key=None):
        values, stream = {**params, **stats}, 0
        state = []
        for path, variable in kept:
            if isinstance(variable, nnx.RngKey) and key is not None:  # every dropout layer has a stream of its own
                state.append((path, variable.replace(jax.random.fold_in(key, stream))))
                stream += 1
            else:
                state.append((path, variable.replace(values.get(_flat(path), variable.get_value()))))
        merged = nnx.merge(graph, nnx.from_flat_state(state))
        out = merged(x) if key is None else merged(x, training=True)  # a module without the two has no such argument
        return out, {name: value for name, value in flat_variables(merged).items() if name in stats}

    parts = (nnx.to_flat_state(nnx.state(model, kind)) for kind in (nnx.Param, nnx.BatchStat))
    return call, *({_flat(path): variable.get_value() for path, variable in part} for part in parts)
