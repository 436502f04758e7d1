"""ViT: its names and facts, timm's arithmetic in every framework, image sizes, training, initial values, files.

Small networks are made by keywords of the architecture, the same ones on both sides.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

import jeffnet
from benchmarks import parity, torch_reference
from jeffnet.core.attention import Attention
from jeffnet.core.block import Policy
from jeffnet.create import plan
from jeffnet.models.vit import build_blocks
from jeffnet.weights import judges

NAME, TIMM = 'pt_vit_small_patch16_224', 'vit_small_patch16_224'
NAMES = jeffnet.list_models(family='vit')
OURS, THEIRS = {'depth': 4, 'width': 48, 'heads': 3}, {'depth': 4, 'embed_dim': 48, 'num_heads': 3}
SIZE = (64, 48)
BAR = parity.BAR32  # of the spread between inputs: ten times what float32 loses in these networks


@pytest.fixture(scope='module')
def network():
    """timm's network, small and randomised, for images of SIZE."""
    torch.manual_seed(0)
    return torch_reference.randomise(timm.create_model(TIMM, img_size=SIZE, **THEIRS))


@pytest.fixture
def weights(network, tmp_path):
    """A file of its arrays."""
    return torch_reference.save_weights(network, tmp_path / 'model.safetensors')


def made(framework='linen', **options):
    """The predictor and the module of the small network."""
    result = jeffnet.create_model(NAME, framework, **{'image_size': SIZE, **OURS, **options})
    module, variables = result if framework == 'linen' else (result, None)
    return jeffnet.predictor(module, variables), module


def close(ours, theirs):
    """Whether two outputs are the same but for rounding, in units of the spread between inputs."""
    theirs = np.asarray(theirs)
    return np.abs(np.asarray(ours) - theirs).max() < BAR * parity.spread(theirs)


def nchw(x):
    return torch.from_numpy(x).permute(0, 3, 1, 2)


# ----------------------------------------------------------------------------------------------------- names, facts


def test_names_pick_weights_by_timms_tags():
    assert set(NAMES) == {
        'pt_vit_tiny_patch16_224', 'pt_vit_small_patch16_224', 'pt_vit_small_patch16_224.augreg_in1k',
        'pt_vit_base_patch16_224',
    }  # fmt: skip
    assert jeffnet.model_info(f'{NAME}.augreg_in21k_ft_in1k').name == NAME
    assert jeffnet.model_info(f'{NAME}.augreg_in1k').weights == f'{TIMM}.augreg_in1k'
    for name in NAMES:
        info = jeffnet.model_info(name)
        assert info.tag == timm.get_pretrained_cfg(info.timm).tag or '.' in name  # a bare name has timm's default


@pytest.mark.parametrize('name', NAMES)
def test_facts_are_those_of_timm(name):
    info = jeffnet.model_info(name)
    config = timm.get_pretrained_cfg(info.weights)
    assert (info.input_size, info.crop_pct) == ((*config.input_size[1:], 3), config.crop_pct)
    assert info.licence == config.license and info.top_image_size == info.input_size[0] and info.top1 < info.top5


def test_multiply_adds_are_those_of_the_layers():
    for name, width in (('tiny', 192), ('small', 384), ('base', 768)):
        tokens = 1 + 14 * 14
        layer = 12 * tokens * width**2 + 2 * tokens**2 * width  # qkv, proj, fc1, fc2; queries by keys, by values
        expected = 14 * 14 * 16 * 16 * 3 * width + 12 * layer + 1000 * width
        assert jeffnet.model_info(f'pt_vit_{name}_patch16_224').multiply_adds == expected


# --------------------------------------------------------------------------------------------------------- identity


def test_logits_are_those_of_timm_in_every_framework(network, weights):
    rows = parity.compare(NAME, network, weights, sizes=(SIZE,), image_size=SIZE, **OURS)
    assert all(row['ok'] for row in rows) and len(rows) == 3


@pytest.mark.parametrize('change', ['heads', 'eps', 'gelu'])
def test_the_proof_notices_a_wrong_network(network, weights, change):
    wrong = {
        'heads': lambda: vars(network.blocks[2].attn).update(num_heads=6, head_dim=8),
        'eps': lambda: vars(network.norm).update(eps=1e-2),
        'gelu': lambda: setattr(network.blocks[1].mlp, 'act', torch.nn.GELU(approximate='tanh')),
    }
    kept = {'attn': dict(vars(network.blocks[2].attn)), 'norm': network.norm.eps, 'act': network.blocks[1].mlp.act}
    wrong[change]()
    try:
        theirs = torch_reference.torch_logits(network, x := parity.images(SIZE))
    finally:
        vars(network.blocks[2].attn).update(kept['attn'])
        network.norm.eps, network.blocks[1].mlp.act = kept['norm'], kept['act']
    run, _ = made(weights=weights)
    assert not close(run(x), theirs)


def test_float64_shows_the_same_function(network, weights):
    jax.config.update('jax_enable_x64', True)
    try:
        run, _ = made(weights=weights, dtype=jnp.float64)
        x = parity.images(SIZE).astype(np.float64)
        theirs = torch_reference.torch_logits(network.double(), x)
        assert np.abs(np.asarray(run(x)) - theirs).max() < parity.BAR64 * parity.spread(theirs)
    finally:
        jax.config.update('jax_enable_x64', False)
        network.float()


def test_softmax_is_float32_under_bfloat16():
    module = jeffnet.linen.build(Attention(48, 3), Policy(dtype=jnp.bfloat16))
    variables = jeffnet.linen.variables_of(Attention(48, 3))
    program = jax.make_jaxpr(module.apply)(variables, jnp.zeros((2, 5, 48), jnp.bfloat16))
    exponentials = [e for e in program.jaxpr.eqns if e.primitive.name == 'exp']
    assert [e.outvars[0].aval.dtype for e in exponentials] == [jnp.float32]
    run, _ = made(dtype=jnp.bfloat16)
    exact, _ = made()
    x = parity.images(SIZE)
    assert run(x).dtype == jnp.float32
    assert 0 < np.abs(run(x) - exact(x)).max() < 0.1 * np.abs(exact(x)).max()  # 8 bits of mantissa over four blocks


@pytest.mark.parametrize(('framework', 'out_indices'), [('linen', None), ('objax', (0, -1)), ('nnx', 2)])
def test_feature_maps_are_those_of_timm(network, weights, framework, out_indices):
    chosen = {} if out_indices is None else {'out_indices': (0, 3) if out_indices == (0, -1) else out_indices}
    theirs = timm.create_model(TIMM, img_size=SIZE, features_only=True, **THEIRS, **chosen)
    theirs.model.load_state_dict(network.state_dict(), strict=False)
    x = parity.images(SIZE)
    with torch.no_grad():
        expected = theirs.eval()(nchw(x))
    run, module = made(framework, weights=weights, features_only=True, out_indices=out_indices)
    maps = run(x)
    assert len(maps) == len(expected) == (out_indices is None) + 2
    assert all(close(ours, reference.permute(0, 2, 3, 1)) for ours, reference in zip(maps, expected, strict=True))
    kept = ('num_chs', 'reduction', 'module')
    ours, expected = module.feature_info, theirs.feature_info.get_dicts()
    assert [[info[k] for k in kept] for info in ours] == [[info[k] for k in kept] for info in expected]


def test_num_classes_0_and_minus_1_are_timms_features(network, weights):
    x = parity.images(SIZE)
    with torch.no_grad():
        tokens = network.forward_features(nchw(x))
        pooled = network.forward_head(tokens, pre_logits=True)
    assert close(made(weights=weights, num_classes=0)[0](x), tokens)  # [N, 1 + h w, width]
    assert close(made(weights=weights, num_classes=-1)[0](x), pooled)  # [N, width]


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_taps_are_the_embedding_and_the_blocks(network, weights, framework):
    result = jeffnet.create_model(NAME, framework, weights=weights, image_size=SIZE, **OURS)
    module, variables = result if framework == 'linen' else (result, None)
    taps = jeffnet.intermediates(module, x := parity.images(SIZE), variables)
    assert list(taps) == [f'block_{i}' for i in range(5)] and taps['block_0'].shape == (4, 13, 48)
    with torch.no_grad():
        embedded = network._pos_embed(network.patch_embed(nchw(x)))
        last = network.blocks(embedded)
    assert close(taps['block_0'], embedded) and close(taps['block_4'], last)


# ------------------------------------------------------------------------------------------------------ image sizes


@pytest.mark.parametrize('size', [(96, 96), (32, 64), (48, 64)])  # larger, smaller, as many places in another order
def test_position_tables_are_resampled_as_timm_does(network, weights, size):
    other = timm.create_model(TIMM, img_size=SIZE, **THEIRS).eval()
    other.load_state_dict(network.state_dict())
    other.set_input_size(size)
    module, variables = jeffnet.create_model(NAME, weights=weights, image_size=SIZE, **OURS)
    own = jeffnet.save_weights(module, weights.with_name('own.safetensors'), variables)  # says its image size
    run, _ = made(weights=own, image_size=size)
    assert close(run(x := parity.images(size)), torch_reference.torch_logits(other, x))


def test_tables_of_files_that_say_no_size_are_square():
    state = timm.create_model(TIMM, img_size=64, **THEIRS).state_dict()
    theirs = timm.layers.resample_abs_pos_embed(state['pos_embed'], [2, 8], [4, 4])
    path = jeffnet.weights.merge.adapted
    chosen = plan(NAME, image_size=(32, 128), **OURS)
    table = jeffnet.weights.stored.StoredArray.of(state['pos_embed'].numpy())
    wanted = jeffnet.core.block.declarations(chosen.block)
    flat = path({'pos_embed': table}, chosen.info, chosen.block, wanted, False)
    np.testing.assert_allclose(flat['pos_embed'].read(), theirs.numpy(), atol=1e-6)


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
@pytest.mark.parametrize(
    ('options', 'says'),
    [({'image_size': 230}, r'image_size=\(230, 230\): expected multiples of 16 pixels'),
     ({'image_size': 8}, 'image_size=8: expected one side or .*at least 16 pixels'),
     ({'output_stride': 16}, f'output_stride=16: {NAME} has no strides to change'),
     ({'heads': 5}, 'heads=5 does not divide 48 features'),
     ({'features_only': True, 'out_indices': (4,)}, r'out_indices=\(4,\): expected levels 0 to 3')],
)  # fmt: skip
def test_bad_keywords_name_the_fault(framework, options, says):
    with pytest.raises(ValueError, match=says):
        made(framework, **options)[0](parity.images(SIZE))  # Linen builds its sub-modules at the first call


def test_images_of_another_size_name_the_keyword():
    run, _ = made()
    with pytest.raises(ValueError, match=r'of 48 x 64 pixels.* for 64 x 48; create it with image_size=\(48, 64\)'):
        run(parity.images((48, 64)))
    with pytest.raises(ValueError, match='of 70 x 48 pixels'):  # a table that would fit, but six rows were left out
        run(parity.images((70, 48)))


# --------------------------------------------------------------------------------------------- initial values, drops


def test_initial_values_are_distributed_as_timms():
    theirs = timm.create_model(TIMM, img_size=SIZE, **THEIRS).state_dict()
    ours = judges.timm_state(*jeffnet.create_model(NAME, image_size=SIZE, **OURS))
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        reference = theirs[name].numpy()
        if reference.std() == 0:
            np.testing.assert_array_equal(array, reference, err_msg=name)
        else:  # two samples of one distribution: five standard errors of a standard deviation
            assert array.std() == pytest.approx(reference.std(), rel=5 / array.size**0.5), name
            assert abs(array.mean()) < 5 * array.std() / array.size**0.5, name


def test_drop_path_rates_are_those_of_timm():
    theirs = timm.create_model(TIMM, drop_path_rate=0.3, **THEIRS)
    rates = [getattr(block.drop_path1, 'drop_prob', 0.0) for block in theirs.blocks]
    block = plan(NAME, drop_path_rate=0.3, **OURS).block
    np.testing.assert_allclose([b.drop_rate for b in build_blocks(block)], rates, rtol=1e-6)


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_both_halves_of_a_block_drop_on_their_own(framework):
    """With rate 1/2, a quarter of the samples each keeps nothing, attention, the perceptron, or both."""
    block = build_blocks(plan(NAME, drop_path_rate=0.5, **OURS).block)[-1]
    module = getattr(jeffnet, framework).build(block)
    call, params, stats = getattr(jeffnet, framework).functional(
        module, jeffnet.linen.variables_of(block) if framework == 'linen' else None
    )
    x = jnp.tile(jnp.asarray(np.random.default_rng(0).standard_normal((1, 5, 48)), jnp.float32), (400, 1, 1))
    out, _ = jax.jit(call)(params, stats, x, jax.random.key(0))
    kinds, counts = np.unique(np.round(np.asarray(out)[:, 0, 0], 4), return_counts=True)
    assert len(kinds) == 4
    assert np.abs(counts - 100).max() < 45  # five standard deviations of a count, sqrt(400 / 4 * 3 / 4)


def test_gradients_are_those_of_timm(network, weights):
    made = jeffnet.create_model(NAME, weights=weights, image_size=SIZE, **OURS)
    call, params, stats = jeffnet.linen.functional(*made)
    x = parity.images(SIZE)
    grads = jax.jit(jax.grad(lambda p: jnp.square(call(p, stats, x, jax.random.key(0))[0]).mean()))(params)
    network.zero_grad()
    network.train()(nchw(x)).square().mean().backward()
    network.eval()
    names = jeffnet.weights.names.timm_names(plan(NAME, image_size=SIZE, **OURS).block, Policy())
    ours = jeffnet.weights.names.to_timm(grads, names)
    for name, parameter in network.named_parameters():
        theirs = parameter.grad.numpy()  # sums of some ten thousand products: 1e-4 of the largest entry
        np.testing.assert_allclose(ours[name], theirs, atol=1e-4 * np.abs(theirs).max(), err_msg=name)


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize('framework', jeffnet.FRAMEWORKS)
def test_round_trip_is_exact_for_every_array(framework, weights, tmp_path):
    result = jeffnet.create_model(NAME, framework, weights=weights, image_size=SIZE, **OURS)
    module, variables = result if framework == 'linen' else (result, None)
    back, state = load_file(jeffnet.save_weights(module, tmp_path / 'b.safetensors', variables)), load_file(weights)
    assert back.keys() == state.keys() and all(np.array_equal(back[name], state[name]) for name in state)


def test_our_folder_brings_its_image_size_to_timm_and_to_us(tmp_path, capsys):
    from jeffnet.weights.__main__ import main

    module, variables = jeffnet.create_model('pt_vit_tiny_patch16_224', image_size=(32, 48), num_classes=5)
    folder = jeffnet.save_weights(module, tmp_path / 'folder', variables)
    network = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    assert network.patch_embed.img_size == (32, 48) and network.num_classes == 5
    x = parity.images((32, 48))
    logits = jeffnet.predictor(module, variables)(x)
    np.testing.assert_allclose(logits, torch_reference.torch_logits(network, x), atol=1e-5)  # of logits up to 1
    again = jeffnet.create_model(f'local-dir:{folder}', pretrained=True)
    assert again[0] == module and np.array_equal(jeffnet.predictor(*again)(x), logits)
    assert main(['verify', str(folder), '--against', 'timm']) == 0
    assert ': the same function' in capsys.readouterr().out


def test_a_folder_that_timm_wrote_brings_its_image_size(tmp_path):
    network = timm.create_model('vit_tiny_patch16_224', img_size=32, num_classes=3)
    timm.models.save_for_hf(network, tmp_path, model_args={'img_size': 32}, safe_serialization=True)
    module, _ = jeffnet.create_model(f'local-dir:{tmp_path}', pretrained=True)
    assert (module.image_size, module.num_classes) == ((32, 32), 3)


def test_variables_alone_are_recognised_at_any_image_size(tmp_path):
    _, variables = jeffnet.create_model('pt_vit_tiny_patch16_224', image_size=32, num_classes=4)
    path = jeffnet.save_weights(variables, tmp_path / 'a.safetensors')
    with safe_open(path, 'numpy') as file:
        assert '"image_size": [32, 32]' in file.metadata()['jeffnet']
    assert jeffnet.create_model('pt_vit_tiny_patch16_224', weights=path, num_classes=4)[0].image_size == (32, 32)


@pytest.mark.parametrize('channels', [1, 4])
def test_in_chans_adapts_the_patches_as_timm_does(network, weights, channels):
    theirs = timm.create_model(TIMM, img_size=SIZE, in_chans=channels, **THEIRS)
    adapted = timm.models.adapt_input_conv(channels, network.patch_embed.proj.weight.detach())
    theirs.load_state_dict({**network.state_dict(), 'patch_embed.proj.weight': adapted})
    run, _ = made(weights=weights, in_chans=channels)
    assert close(run(x := parity.images(SIZE, channels=channels)), torch_reference.torch_logits(theirs.eval(), x))
