"""The images' files, without a container engine; docker/try_runs.py tries the installs."""

import glob
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILES = sorted(ROOT.glob('docker/*.Dockerfile'))
TAGS = {'cpu': '3.12-slim-bookworm'}  # the others take NVIDIA's image
NVIDIA_TAG = '26.06-py3'
CONSTRAINTS = ROOT / 'docker/constraints.py'
every_dockerfile = pytest.mark.parametrize('dockerfile', DOCKERFILES, ids=lambda path: path.stem)


def name_of(dockerfile: Path) -> str:
    """`tf_pip` of docker/tf_pip.Dockerfile."""
    return dockerfile.name.removesuffix('.Dockerfile')


def values(dockerfile: Path, instruction: str) -> list[str]:
    """The values of one kind of instruction, each on one line."""
    lines = re.sub(r'^#.*\n', '', dockerfile.read_text(), flags=re.MULTILINE).replace('\\\n', ' ').splitlines()
    return [line.partition(' ')[2].strip() for line in lines if line.startswith(f'{instruction} ')]


def copied(dockerfile: Path) -> list[str]:
    """The sources of all COPY lines, as written."""
    return [source for value in values(dockerfile, 'COPY') for source in shlex.split(value)[:-1]]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out: the last pattern that fits it or a folder above it decides."""
    lines = [line.strip() for line in (ROOT / '.dockerignore').read_text().splitlines()]
    parts = PurePosixPath(path).parts
    above = ['/'.join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    kept_out = False
    for pattern in (line for line in lines if line and not line.startswith('#')):
        if any(fits(folder, pattern.removeprefix('!')) for folder in above):
            kept_out = not pattern.startswith('!')
    return kept_out


def fits(path: str, pattern: str) -> bool:
    """Docker's matching of one path: a star stays within a part, but for a leading `**/`."""
    if pattern.startswith('**/'):
        return fnmatch(path.rpartition('/')[2], pattern[3:])
    return path.count('/') == pattern.count('/') and fnmatch(path, pattern)


def test_there_is_a_dockerfile_for_every_documented_image():
    assert [name_of(path) for path in DOCKERFILES] == ['cpu', 'pt_git', 'pt_pip', 'tf_git', 'tf_pip']
    readme = (ROOT / 'docker/README.md').read_text()
    assert not [path.name for path in DOCKERFILES if path.name not in readme]


@every_dockerfile
def test_hadolint_finds_nothing(dockerfile):
    hadolint = shutil.which('hadolint', path=Path(sys.executable).parent) or shutil.which('hadolint')
    assert hadolint, 'hadolint is missing: install the dev extra'
    result = subprocess.run([hadolint, '--no-color', dockerfile], capture_output=True, text=True)
    assert result.returncode == 0 and not result.stdout, result.stdout + result.stderr


@every_dockerfile
def test_the_base_is_a_build_argument(dockerfile):
    name = name_of(dockerfile)
    text = dockerfile.read_text()
    base, tag = ('python', TAGS[name]) if name in TAGS else ('nvcr.io/nvidia/jax', NVIDIA_TAG)
    assert values(dockerfile, 'FROM') == [f'{base}:${{TAG}}']
    assert values(dockerfile, 'ARG')[0] == f'TAG={tag}'
    assert text.index('ARG TAG=') < text.index('FROM ')
    assert tag in (ROOT / 'docker/README.md').read_text()


@every_dockerfile
def test_every_copied_path_exists_and_reaches_the_builder(dockerfile):
    for source in copied(dockerfile):
        paths = glob.glob(source, root_dir=ROOT)
        assert paths, f'COPY {source}: nothing by that name'
        assert not [path for path in paths if ignored(path)], f'.dockerignore keeps out COPY {source}'


@every_dockerfile
def test_the_extras_that_are_installed_are_declared(dockerfile):
    """Because pip only warns of an extra that it does not know."""
    declared = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['optional-dependencies']
    asked = re.findall(r'--editable "\.\[(.*?)\]"', dockerfile.read_text())
    assert len(asked) == 1 and set(asked[0].split(',')) <= declared.keys()


@every_dockerfile
def test_try_runs_sees_the_install_and_the_checks(dockerfile):
    read = runpy.run_path(str(ROOT / 'docker/try_runs.py'))['instructions']
    lines = [value for name, value in read(dockerfile.read_text()) if name == 'RUN']
    for word in ('--editable', 'docker/smoke.py', 'jeffnet.doctor --need'):
        assert sum(word in line for line in lines) == 1


@every_dockerfile
def test_no_address_of_a_package_index(dockerfile):
    addresses = re.findall(r'https?://([^/\s]+)', dockerfile.read_text())
    assert set(addresses) <= {'github.com'}


def test_scripts_and_recipes_are_all_copied():
    scripts = {path.name for path in ROOT.glob('*.py')}
    for dockerfile in DOCKERFILES:
        found = {path for source in copied(dockerfile) for path in glob.glob(source, root_dir=ROOT)}
        assert scripts | {'jeffnet', 'train_configs'} <= found


def test_dockerignore_keeps_the_rest_out():
    for path in ('.git', '.venv/bin/python', '.venv-newest', '.cache/jax', 'results/parity.csv', 'tests/test_docker.py',
                 'docker/compose.yaml', 'docs', 'output/train', 'jeffnet/core/__pycache__/a.pyc',
                 'jeffnet/__pycache__'):  # fmt: skip
        assert ignored(path), path
    for path in ('jeffnet/models/table.json', 'train_configs/default.py', 'tf_linen_train.py', 'docker/smoke.py'):
        assert not ignored(path), path


def test_compose_names_the_dockerfiles_and_shares_memory():
    compose = yaml.safe_load((ROOT / 'docker/compose.yaml').read_text())
    services = compose['services']
    built = {service['build']['dockerfile'] for service in services.values()}
    assert built == {f'docker/{path.name}' for path in DOCKERFILES}
    for name, service in services.items():
        assert (ROOT / 'docker' / service['build']['context']).resolve() == ROOT
        assert service['image'] == f'jeffnet:{name_of(Path(service["build"]["dockerfile"]))}'
        assert service['ipc'] == 'host' and service['ulimits'] == {'memlock': -1, 'stack': 67108864}
        assert set(service['build']['args']) <= arguments(ROOT / service['build']['dockerfile'])
        assert ('deploy' in service) == (name != 'cpu')
        assert service['profiles']  # a plain `docker compose up` starts none
        named = {
            volume.partition(':-')[2].partition('}')[0] or volume.partition(':')[0] for volume in service['volumes']
        }
        assert named == compose['volumes'].keys()


def arguments(dockerfile: Path) -> set[str]:
    """The names of a Dockerfile's build arguments."""
    return {value.partition('=')[0] for value in values(dockerfile, 'ARG')}


@pytest.mark.parametrize('service', ['train', 'validate'])
def test_examples_name_existing_files(service):
    command = yaml.safe_load((ROOT / 'docker/compose.yaml').read_text())['services'][service]['command'].split()
    assert command[0] == 'python' and (ROOT / command[1]).exists()
    assert all((ROOT / word).exists() for word in command if word.startswith('train_configs/'))


# constraints.py, on environments made of metadata alone


def package(folder: Path, name: str, version: str, origin: str = '') -> None:
    """Puts the metadata of an installed package into a folder, in place of an earlier version."""
    for earlier in folder.glob(f'{name}-*.dist-info'):
        shutil.rmtree(earlier)
    metadata = folder / f'{name}-{version}.dist-info'
    metadata.mkdir(parents=True)
    (metadata / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
    if origin:
        (metadata / 'direct_url.json').write_text(f'{{"url": "{origin}", "dir_info": {{"editable": true}}}}')


@pytest.fixture
def environment(tmp_path) -> Path:
    """A folder that looks like the packages of NVIDIA's image."""
    folder = tmp_path / 'packages'
    package(folder, 'jax', '0.10.2.dev20260601+abc1234', 'file:///opt/jax')
    package(folder, 'jaxlib', '0.10.2+nv26.06')
    package(folder, 'jax_cuda13_plugin', '0.10.2', 'file:///opt/jaxlibs/jax_cuda13_plugin')
    package(folder, 'flax', '0.12.8', 'file:///opt/flax')
    package(folder, 'ml_dtypes', '0.6.0')
    package(folder, 'transformer_engine', '2.8.0')
    package(folder, 'six', '1.17.0')
    return folder


def constraints(environment: Path, *options) -> subprocess.CompletedProcess:
    """Runs the script in a process that sees only that environment."""
    code = (
        'import runpy, sys; sys.path[:] = [p for p in sys.path if "packages" not in p]; '
        f'sys.path.insert(0, {str(environment)!r}); sys.argv = [{str(CONSTRAINTS)!r}, *sys.argv[1:]]; '
        f'runpy.run_path({str(CONSTRAINTS)!r}, run_name="__main__")'
    )
    return subprocess.run([sys.executable, '-I', '-c', code, *map(str, options)], capture_output=True, text=True)


def test_constraints_list_what_pip_must_keep(environment):
    result = constraints(environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        'flax==0.12.8  # 0.12.8 file:///opt/flax',
        'jax==0.10.2.dev20260601  # 0.10.2.dev20260601+abc1234 file:///opt/jax',
        'jax-cuda13-plugin==0.10.2  # 0.10.2 file:///opt/jaxlibs/jax_cuda13_plugin',
        'jaxlib==0.10.2  # 0.10.2+nv26.06',
        'ml-dtypes==0.6.0  # 0.6.0',
        'transformer-engine==2.8.0  # 2.8.0',
    ]


def test_constraints_free_and_keep_what_they_are_told(environment):
    lines = constraints(environment, '--free', 'flax', '--also', 'six').stdout.splitlines()
    assert [line.partition('=')[0] for line in lines] == [
        'jax', 'jax-cuda13-plugin', 'jaxlib', 'ml-dtypes', 'six', 'transformer-engine'
    ]  # fmt: skip


@pytest.mark.parametrize(
    ('name', 'version', 'origin', 'message'),
    [
        ('jaxlib', '0.10.2', '', 'jaxlib was 0.10.2+nv26.06, now 0.10.2\n'),
        ('flax', '0.12.8', '', 'flax was 0.12.8 file:///opt/flax, now 0.12.8\n'),
        ('ml_dtypes', '0.6.1', '', 'ml-dtypes was 0.6.0, now 0.6.1\n'),
    ],
)
def test_constraints_catch_a_changed_package(environment, tmp_path, name, version, origin, message):
    kept = tmp_path / 'constraints.txt'
    kept.write_text(constraints(environment).stdout)
    assert constraints(environment, '--check', kept).returncode == 0
    package(environment, name, version, origin)
    result = constraints(environment, '--check', kept)
    assert result.returncode == 1 and message in result.stderr


def test_constraints_catch_a_removed_package_and_tell_of_added_libraries(environment, tmp_path):
    kept = tmp_path / 'constraints.txt'
    kept.write_text(constraints(environment).stdout)
    package(environment, 'nvidia_cublas', '13.4.1.3')
    result = constraints(environment, '--check', kept)
    assert result.returncode == 0 and 'nvidia-cublas' in result.stderr
    shutil.rmtree(environment / 'flax-0.12.8.dist-info')
    result = constraints(environment, '--check', kept)
    assert result.returncode == 1 and 'flax was 0.12.8 file:///opt/flax, now missing' in result.stderr


def test_constraints_name_what_is_not_there(environment, tmp_path):
    result = constraints(environment, '--free', 'flaxx')
    assert result.returncode == 1 and result.stderr == 'constraints: flaxx not installed\n'
    result = constraints(environment, '--check', str(tmp_path / 'none.txt'))
    assert result.returncode == 2 and 'none.txt: there is no such file' in result.stderr


def test_constraints_refuse_a_base_without_jax(environment):
    shutil.rmtree(environment / 'jaxlib-0.10.2+nv26.06.dist-info')
    result = constraints(environment)
    assert result.returncode == 1 and 'jaxlib not installed' in result.stderr and not result.stdout


@pytest.mark.parametrize('version', ['0.10.2+nv26.06', '0.10.2.dev20260601', '0.10.2'])
def test_jax_tag_is_of_the_release_of_jaxlib(environment, version):
    package(environment, 'jaxlib', version)
    assert constraints(environment, '--jax-tag').stdout == 'jax-v0.10.2\n'
