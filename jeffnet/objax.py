"""Objax back end: turns any Block into an `objax.Module`; unlike `objax.nn`, images are NHWC and kernels HWIO."""

import functools
import re
import threading

import jax

from jeffnet import create
from jeffnet.core.block import PYTORCH, Block, Keys, Param, Policy, State, recording
from jeffnet.core.derive import block_class, fields, methods
from jeffnet.core.initial import FRESH, Source
from jeffnet.objax_import import objax

_tracing = threading.Lock()  # held while a model's variables hold tracers


class ObjaxBlock(objax.Module):
    """Base of the derived classes."""

    _source = FRESH  # of sub-blocks that are assigned after construction

    def __init__(self, *args, policy: Policy = PYTORCH, source: Source = FRESH, **kwargs):
        self.policy, self._source = policy, source
        block_class(type(self)).__init__(self, *args, **kwargs)
        self.setup()
        del self._source

    def __setattr__(self, name, value):
        super().__setattr__(name, _native(self, name, value))

    def __repr__(self):
        return f'{type(self).__name__}({", ".join(f"{k}={v!r}" for k, v in fields(self, shown=True).items())})'


def _native(module, name, value):
    """What assigning `value` to an attribute of a module stores there."""
    if isinstance(value, list):
        return objax.ModuleList([_native(module, f'{name}_{i}', element) for i, element in enumerate(value)])
    if isinstance(value, State):
        return objax.StateVar(module._source(name, value))
    if isinstance(value, Param):
        return objax.TrainVar(module._source(name, value))
    if isinstance(value, Keys):
        return objax.random.DEFAULT_GENERATOR
    if isinstance(value, Block) and not value.native:
        return build(*module.policy.child(name, value), module._source.child(name))
    return value


@functools.cache
def native(cls: type[Block]) -> type[objax.Module]:
    """The Objax module class of a Block class."""
    body = {'native': True, **methods(cls), '__doc__': cls.__doc__, '__module__': cls.__module__}
    body |= {k: vars(ObjaxBlock)[k] for k in ('__init__', '__setattr__', '__repr__')}
    body |= {'__eq__': object.__eq__, '__hash__': object.__hash__}
    return type(cls.__name__, (cls, ObjaxBlock), body)


def build(block: Block, policy: Policy = PYTORCH, source: Source = FRESH) -> objax.Module:
    """An Objax module of this block, with the arrays of `source`."""
    return native(type(block))(**fields(block), policy=policy, source=source)


def create_model(name: str, **options) -> objax.Module:
    """The network `name` as an Objax module; see `jeffnet.create_model` for the options."""
    plan = create.plan(name, **options)
    return assemble(plan.block, plan.policy, plan.values, plan.seed)


def assemble(block: Block, policy: Policy, values: dict | None, seed: int = 0) -> objax.Module:
    """A network of this block as it is handed to users, with `values` by flat name, else initial ones."""
    return build(block, policy, Source(seed, values))


def flat_variables(model: objax.Module) -> dict[str, jax.Array]:
    """Every parameter and statistic by flat name (`blocks_0_0.conv_dw.kernel`)."""
    variables = model.vars().items()
    return {_flat(key): v.value for key, v in variables if not isinstance(v, objax.RandomState)}


def _flat(key: str) -> str:
    """The flat name of a variable that Objax calls `key`."""
    return re.sub(r'\[(\d+)\]', r'_\1', re.sub(r'\([^)]*\)', '', key)).lstrip('.')


def intermediates(model: objax.Module, x, variables=None) -> dict[str, jax.Array]:
    """The values that the model taps, by name."""

    return _taps(model, model.vars().tensors(), x)


@functools.partial(jax.jit, static_argnums=0)
def _taps(model, tensors, x):
    with recording() as recorded:
        _call(model, tensors, x)
    return recorded


def _call(model, tensors, x):
    """The model's output with these tensors for its variables, which keep theirs."""
    return _called(model, tensors, x)[0]


def _called(model, tensors, x, **mode):
    """The model's output with these tensors for its variables, which keep theirs, and what became of the tensors."""
    kept = model.vars()
    with _tracing:
        original = kept.tensors()
        try:
            kept.assign(tensors)
            return model(x, **mode), kept.tensors()
        finally:
            kept.assign(original)


def pure(model: objax.Module, variables=None):
    """The forward pass as a pure function of variables and images, and the variables as they are now."""
    return functools.partial(_call, model), model.vars().tensors()


def functional(model: objax.Module, variables=None):
    """The network for a training loop: a pure function, and the flat parameters and statistics it takes.

    `call(params, stats, x, key)` returns the output in training mode and the new statistics; without a key, the output
    in evaluation mode and the same statistics.
    """
    kept = model.vars()
    flat = {id(v): _flat(key) for key, v in kept.items() if not isinstance(v, objax.RandomState)}
    names = [flat.get(id(v)) for v in kept]  # each variable once, as `tensors` and `assign` have them
    random_state = kept.tensors()  # of the generator that all layers share; unused in evaluation mode

    def call(params, stats, x, key=None):
        values = {**params, **stats}
        seed = random_state if key is None else [jax.random.key_data(key)] * len(names)
        tensors = [seed[i] if name is None else values[name] for i, name in enumerate(names)]
        mode = {} if key is None else {'training': True}  # a module without the two has no such argument
        out, after = _called(model, tensors, x, **mode)
        return out, {name: tensor for name, tensor in zip(names, after, strict=True) if name in stats}

    trained = {flat[id(v)]: v.value for v in kept if isinstance(v, objax.TrainVar)}
    return call, trained, {flat[id(v)]: v.value for v in kept if id(v) in flat and flat[id(v)] not in trained}
