"""The benchmark of the cold start: what its processes are told and find."""

import numpy as np
import pytest

from benchmarks import bench_cold_start as bench

NAME = 'pt_mnasnet_small'  # the smallest network


def test_a_start_has_its_own_folder_of_programs_whatever_make_sets(tmp_path, monkeypatch):
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'of-make'))
    bench.write_weights(NAME, tmp_path / 'weights.safetensors')
    np.save(tmp_path / 'images.npy', np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32))
    sides = ('jeffnet linen warm', 'timm')
    found = {
        side: bench.start(side, NAME, tmp_path / 'weights.safetensors', tmp_path / 'images.npy', tmp_path)
        for side in sides
    }
    for times in found.values():
        assert 0 < times['imported'] < times['created'] < times['done']
    assert found['timm']['sum'] == pytest.approx(found['jeffnet linen warm']['sum'], rel=1e-4)  # the bar of parity
    assert not (tmp_path / 'of-make').exists()
    assert list((tmp_path / 'jeffnet-linen-warm' / 'jeffnet').glob('programs-*/*'))
