"""Tries the images without a container engine: their own RUN lines, in a virtual environment in place of the base.

    python docker/try_runs.py                         # resolves what pip would install, for every image
    python docker/try_runs.py --install tf_pip cpu    # installs it, imports it and runs the doctor

For an image on NVIDIA's base, the environment holds the newest jax, flax and CUDA plugin, labelled as the base's own:
dev versions, installed from folders. It needs a Python like the images' (3.12), a POSIX shell and a package index.
Build arguments such as PIP_EXTRA_INDEX_URL are taken from the environment. Not tried: the base image itself, the user
and its folders, git (released packages take the place of repositories), GPUs.
"""

import argparse
import glob
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
NVIDIA = 'FROM nvcr.io/nvidia/jax:'
REPOSITORY = re.compile(r'"([\w-]+) @ git\+[^"]*"')
INSTALLED = ('smoke.py', 'jeffnet.doctor')  # what a RUN line can call only after an install


def main() -> int:
    """Tries the images that are named, or all; returns 1 if one failed."""
    images = {path.name.removesuffix('.Dockerfile'): path for path in sorted(ROOT.glob('docker/*.Dockerfile'))}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('images', nargs='*', metavar='IMAGE', help=f'of {", ".join(images)}')
    parser.add_argument('--install', action='store_true', help='install: gigabytes, for the images with torch')
    args = parser.parse_args()
    unknown = set(args.images) - images.keys()
    if unknown:
        parser.error(f'no such image: {", ".join(sorted(unknown))}')
    failed = 0
    with tempfile.TemporaryDirectory(prefix='jeffnet-docker-') as folder:
        for name in args.images or images:
            try:
                print(f'{name}: {attempt(images[name], Path(folder), args.install)}', flush=True)
            except subprocess.CalledProcessError as error:
                failed += 1
                print(f'{name}: FAILED\n{error.output.strip()[-3000:]}', flush=True)
    return 1 if failed else 0


def attempt(dockerfile: Path, folder: Path, install: bool) -> str:
    """Walks through a Dockerfile; returns what came of it."""
    text = dockerfile.read_text()
    work = folder / dockerfile.stem
    shutil.copytree(base(folder, nvidia=NVIDIA in text), work / 'environment', symlinks=True)
    programs = f'{work / "environment/bin"}{os.pathsep}{os.environ["PATH"]}'
    settings = {**os.environ, 'PATH': programs, 'HOME': str(work), 'VIRTUAL_ENV': str(work / 'environment')}
    output = ''
    for instruction, value in instructions(text):
        if instruction == 'ARG':
            argument, _, default = value.partition('=')
            settings.setdefault(argument, default.strip('"'))
        elif instruction == 'COPY':
            copy(*shlex.split(value), into=work)
        elif instruction == 'RUN':
            output += run(value, work, settings, install)
    shutil.rmtree(work)
    return summary(output, install, nvidia=NVIDIA in text, git=bool(REPOSITORY.search(text)))


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with their values, each on one line."""
    lines = re.sub(r'^#.*\n', '', text, flags=re.MULTILINE).replace('\\\n', ' ').splitlines()
    return [(name, value) for name, _, value in (line.partition(' ') for line in lines if line.strip())]


def copy(*places: str, into: Path) -> None:
    """COPY, with the names as Docker understands them: a folder's contents go into the target."""
    *sources, target = places
    for source in sources:
        for path in map(Path, glob.glob(source, root_dir=ROOT)):
            if (ROOT / path).is_dir():
                ignored = shutil.ignore_patterns('__pycache__')
                shutil.copytree(ROOT / path, into / target, dirs_exist_ok=True, ignore=ignored)
            else:
                (into / target).mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / path, into / target)


def run(line: str, work: Path, settings: dict[str, str], install: bool) -> str:
    """A RUN line in the folder in place of WORKDIR; returns what it printed."""
    if 'useradd' in line or (not install and any(word in line for word in INSTALLED)):
        return ''
    command = re.sub(r'--mount=\S+', '', line)
    command = REPOSITORY.sub(r'\1', command)
    if not install and '--editable' in line:  # not PIP_DRY_RUN, which would reach the pip that pip builds with
        command = command.replace('pip install', 'pip install --dry-run')
    return output_of(['sh', '-eu', '-c', command], cwd=work, env=settings)


def output_of(command: list[str], **options) -> str:
    """What a command printed to both streams; CalledProcessError holds it if it failed."""
    return subprocess.run(
        command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    ).stdout


def base(folder: Path, nvidia: bool) -> Path:
    """The virtual environment in place of a base image, made once."""
    path = folder / ('nvidia' if nvidia else 'python')
    if not path.exists():
        venv.create(path, with_pip=True)
        if nvidia:
            pip = [path / 'bin/python', '-m', 'pip', 'install', '--quiet']
            output_of([*pip, 'jax', 'flax'])
            output_of([*pip, '--no-deps', 'jax-cuda13-plugin', 'jax-cuda13-pjrt'])  # CUDA is the base's own there
            for name in ('jax', 'jaxlib', 'jax_cuda13_plugin', 'jax_cuda13_pjrt', 'flax'):
                label(next(path.glob(f'lib/python*/site-packages/{name}-*.dist-info')), name)
    return path


def label(metadata: Path, name: str) -> None:
    """Makes an installed package look as in NVIDIA's image: a dev version that was installed from a folder."""
    version = metadata.name.removesuffix('.dist-info').removeprefix(f'{name}-')
    new = version if name == 'flax' else f'{version}.dev20260601'
    new += '+abc1234' if name == 'jax' else ''
    target = metadata.with_name(f'{name}-{new}.dist-info')
    target.mkdir(exist_ok=True)
    text = (metadata / 'METADATA').read_text().replace(f'\nVersion: {version}\n', f'\nVersion: {new}\n', 1)
    record = (metadata / 'RECORD').read_text().replace(f'{metadata.name}/', f'{target.name}/')
    (metadata / 'METADATA').write_text(text)
    (metadata / 'RECORD').write_text(f'{record}{target.name}/direct_url.json,,\n')
    (metadata / 'direct_url.json').write_text(f'{{"url": "file:///opt/{name}", "dir_info": {{"editable": true}}}}')
    if target != metadata:
        shutil.rmtree(target)
        metadata.rename(target)


def summary(output: str, install: bool, nvidia: bool, git: bool) -> str:
    """One line, or one a fact, on what an attempt printed."""
    verb = 'Successfully installed' if install else 'Would install'
    packages = re.findall(rf'^{verb} (.*)$', output, re.MULTILINE)[-1].split()
    lines = [f'{"installed" if install else "resolved"}, {len(packages)} packages']
    lines += ['imports and doctor fine'] if install else []
    lines += re.findall(r'^constraints: (.*)$', output, re.MULTILINE) if nvidia else []
    lines += ['released jax, flax, optax, objax in place of git'] if git else []
    return '; '.join(lines)


if __name__ == '__main__':
    sys.exit(main())
