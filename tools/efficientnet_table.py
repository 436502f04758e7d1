"""Regenerates jeffnet/models/efficientnet.json: `python tools/efficientnet_table.py` (needs timm).

What is ours stays as it is (names, architectures, pinned tags, published figures); parameters and multiply-adds are
counted from our definitions, licences and papers come from timm's configurations of the pinned tags.
"""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp

import jeffnet
from jeffnet.core.block import Policy, declarations
from jeffnet.core.convolution import convolution_p
from jeffnet.create import parameter_count, plan

TABLE = Path(__file__).parent.parent / 'jeffnet' / 'models' / 'efficientnet.json'
PAPERS = {
    'efficientnet': 'arXiv:1905.11946', 'efficientnet_advprop': 'arXiv:1911.09665',
    'efficientnet_noisystudent': 'arXiv:1911.04252', 'efficientnet_edgetpu': 'arXiv:2003.02838',
    'efficientnet_lite': 'arXiv:1905.11946', 'mixnet': 'arXiv:1907.09595', 'mobilenetv2': 'arXiv:1801.04381',
    'mobilenetv3': 'arXiv:1905.02244', 'mnasnet_a1': 'arXiv:1807.11626', 'mnasnet_b1': 'arXiv:1807.11626',
    'mnasnet_small': 'arXiv:1807.11626', 'fbnetc': 'arXiv:1812.03443', 'spnasnet': 'arXiv:1904.02877',
}  # fmt: skip


def multiply_adds(name: str) -> int:
    """Multiply-adds of one image at the published size: those of convolutions and matrix products."""
    info = jeffnet.model_info(name)
    chosen = plan(name)
    module = jeffnet.linen.build(chosen.block, chosen.policy)
    shapes = {'params': {}, 'batch_stats': {}}
    for key, declared in declarations(chosen.block, chosen.policy).items():
        tree = shapes['params' if type(declared).__name__ == 'Param' else 'batch_stats']
        *path, leaf = key.split('.')
        for part in path:
            tree = tree.setdefault(part, {})
        tree[leaf] = jax.ShapeDtypeStruct(declared.shape, jnp.float32)
    image = jax.ShapeDtypeStruct((1, *info.input_size), jnp.float32)
    program = jax.make_jaxpr(module.apply)(shapes, image)
    return sum(count(equation) for equation in program.jaxpr.eqns)


def count(equation) -> int:
    """Multiply-adds of one operation, nested programs included."""
    out = math.prod(equation.outvars[0].aval.shape)
    if equation.primitive is convolution_p:
        kernel = equation.invars[1].aval.shape  # HWIO
        return out * math.prod(kernel[:3])
    if equation.primitive.name == 'dot_general':
        (contracted, _), _ = equation.params['dimension_numbers']
        return out * math.prod(equation.invars[0].aval.shape[i] for i in contracted)
    inner = equation.params.get('jaxpr') or equation.params.get('call_jaxpr')
    return sum(count(e) for e in getattr(inner, 'jaxpr', inner).eqns) if inner is not None else 0


def main():
    from timm.models import get_pretrained_cfg

    entries = json.loads(TABLE.read_text())
    for name, entry in entries.items():
        if entry['flavour'] == 'keras':
            continue  # tools/keras_table.py writes those
        chosen = plan(name)
        entry['parameters'] = parameter_count(chosen.block, Policy())
        entry['multiply_adds'] = multiply_adds(name)
        entry['paper'] = PAPERS[entry['family']]
        entry['licence'] = get_pretrained_cfg(entry['weights']).license if entry['weights'] else None
    lines = [f' {json.dumps(name)}: {json.dumps(entry)}' for name, entry in entries.items()]
    TABLE.write_text('{\n' + ',\n'.join(lines) + '\n}\n')


if __name__ == '__main__':
    main()
