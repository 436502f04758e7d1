"""What tools/timm_table.py cannot read from timm about EfficientNet and its relatives; multiply-adds of any network."""

import math

import jax
import jax.numpy as jnp

import jeffnet
from jeffnet.core.block import declarations
from jeffnet.core.convolution import convolution_p
from jeffnet.create import plan

EFFICIENTNET = {
    'paper': {
        'efficientnet': 'arXiv:1905.11946', 'efficientnet_advprop': 'arXiv:1911.09665',
        'efficientnet_noisystudent': 'arXiv:1911.04252', 'efficientnet_edgetpu': 'arXiv:2003.02838',
        'efficientnet_lite': 'arXiv:1905.11946', 'efficientnetv2': 'arXiv:2104.00298',
        'efficientnet_x': 'arXiv:2102.05610', 'efficientnet_test': 'arXiv:2104.00298', 'mixnet': 'arXiv:1907.09595',
        'mobilenetv1': 'arXiv:1704.04861', 'mobilenetv2': 'arXiv:1801.04381', 'mobilenetv3': 'arXiv:1905.02244',
        'mobilenet_edgetpu': 'arXiv:2003.02838', 'mnasnet_a1': 'arXiv:1807.11626', 'mnasnet_b1': 'arXiv:1807.11626',
        'mnasnet_small': 'arXiv:1807.11626', 'fbnetc': 'arXiv:1812.03443', 'fbnetv3': 'arXiv:2006.02049',
        'spnasnet': 'arXiv:1904.02877', 'tinynet': 'arXiv:2010.14819', 'lcnet': 'arXiv:2109.15099',
    },
    'family': {
        'tf_efficientnet_*.ns_*': 'efficientnet_noisystudent', 'tf_efficientnet_*.ap_*': 'efficientnet_advprop',
        '*efficientnetv2_*': 'efficientnetv2', '*efficientnet_e[sml]': 'efficientnet_edgetpu',
        '*efficientnet_lite*': 'efficientnet_lite', 'efficientnet_[xh]_*': 'efficientnet_x',
        'test_efficientnet*': 'efficientnet_test', '*mixnet_*': 'mixnet', '*mobilenetv1_*': 'mobilenetv1',
        '*mobilenetv2_*': 'mobilenetv2', '*mobilenetv3_*': 'mobilenetv3', 'mobilenet_edgetpu_*': 'mobilenet_edgetpu',
        'semnasnet_*': 'mnasnet_a1', 'mnasnet_small': 'mnasnet_small', 'mnasnet_*': 'mnasnet_b1', 'fbnetc_*': 'fbnetc',
        'fbnetv3_*': 'fbnetv3', 'spnasnet_*': 'spnasnet', 'tinynet_*': 'tinynet', 'lcnet_*': 'lcnet',
    },
    # As the predecessor published them: other image sizes than timm's own tests, and no licence where no weights are.
    'kept': (
        'pt_efficientnet_b[1-8]', 'pt_efficientnet_l2', 'pt_efficientnet_lite[1-4]', 'tf_efficientnet_e[sml]',
        'pt_mobilenetv3_large_075', 'pt_mnasnet_small',
    ),
    'policy': {'mobilenetv3_rw': {'bn_eps': 1e-3}},
    'options': {'tf_efficientnet_e[sml]': {'stride_in_projection': True}},
    'drop_rate': {  # of the authors' code; 0.2 stands in that for most
        '*efficientnetv2_rw_*': 0.0, 'efficientnet_[xh]_*': 0.0, 'test_*': 0.0,
        '*efficientnet_b[23]*': 0.3, '*efficientnet_b[45]*': 0.4, '*efficientnet_b[678]': 0.5,
        '*efficientnet_l2': 0.5, '*efficientnet_lite[234]': 0.3, '*efficientnet_el': 0.3,
        '*efficientnetv2_b[23]': 0.3, '*efficientnetv2_m': 0.3, '*efficientnetv2_l': 0.4, '*efficientnetv2_xl': 0.4,
        '*efficientnet*': 0.2, '*mobilenetv[23]_*': 0.2, '*mnasnet_*': 0.2, '*mixnet_*': 0.2, 'fbnetc_*': 0.2,
        'spnasnet_*': 0.2,
    },
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
