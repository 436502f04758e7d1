"""The project's own files: what an import costs, which versions are pinned, what CI runs."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import jeffnet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
# Beside what requirements.txt has: JAX for accelerators, and the other build of TensorFlow.
NOT_PINNED = ('cuda12', 'cuda13', 'tpu', 'tf-cpu')


def pins() -> dict[str, str]:
    """The lines of requirements.txt: version by name."""
    lines = [line.partition('#')[0].strip() for line in (ROOT / 'requirements.txt').read_text().splitlines()]
    parsed = [Requirement(line) for line in lines if line]
    assert all(len(r.specifier) == 1 and str(r.specifier).startswith('==') and not r.url for r in parsed)
    return {canonicalize_name(r.name): next(iter(r.specifier)).version for r in parsed}


def declared() -> list[Requirement]:
    """Everything that pyproject.toml asks for, except what another build stands for."""
    extras = [e for name, e in PROJECT['optional-dependencies'].items() if name not in NOT_PINNED]
    return [Requirement(line) for line in sum(extras, PROJECT['dependencies'])]


@pytest.mark.parametrize('requirement', declared(), ids=str)
def test_pins_satisfy_what_the_package_declares(requirement):
    version = pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version), f'requirements.txt has {version}'


def test_pins_name_the_pairs_that_must_match():
    assert pins()['jax'] == pins()['jaxlib']
    assert {'jax', 'flax', 'objax', 'optax', 'tensorflow', 'tensorflow-datasets', 'torch', 'timm'} <= pins().keys()


def imported_by(module: str) -> set[str]:
    """The modules in a fresh process after one import; pytest's own process has long imported all of them."""
    code = f'import sys, {module}; print(*sys.modules)'
    return set(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split())


def test_import_is_light():
    assert not imported_by('jeffnet') & {'jax', 'flax', 'objax', 'optax', 'tensorflow', 'torch', 'timm'}


def test_training_imports_no_reader():
    assert not imported_by('jeffnet.train') & {'objax', 'tensorflow', 'torch', 'timm'}


def test_every_file_names_the_same_version():
    assert re.search(r'^version: (.*)$', (ROOT / 'CITATION.cff').read_text(), re.MULTILINE)[1] == jeffnet.__version__
    assert f'## {jeffnet.__version__} ' in (ROOT / 'CHANGELOG.md').read_text()
    assert importlib.metadata.version('jeffnet') == jeffnet.__version__


def test_ci_runs_lint_the_tests_on_both_pythons_and_the_demo():
    lines = (ROOT / '.ci/run').read_text().splitlines()
    commands = [line for line in lines if line and not line.startswith(('#', 'set ', 'cd '))]
    assert commands == ['make lint', 'make test', 'make test-newest', 'make demo']
    assert (ROOT / '.ci/run').stat().st_mode & 0o111, '.ci/run is not executable'


def test_make_offers_the_documented_commands():
    shown = subprocess.run(['make', '-C', ROOT, 'help'], capture_output=True, text=True, check=True).stdout
    offered = {line.split()[1] for line in shown.splitlines() if line.startswith('make ')}
    assert offered >= {'demo', 'test', 'test-newest', 'parity', 'bench', 'tables', 'wheel', 'lint', 'clean', 'help'}
