"""Every command of the README, run: ImageNet is a small generated set, training a few steps, the hub this machine."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import jeffnet
from benchmarks import torch_reference
from tests import tiny_imagenet
from tests.hub_server import HubServer

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
# What an hour on GPUs becomes here, where a training step of EfficientNet-B0 in float16 takes a minute to compile.
SMALLER = 'pt_mnasnet_small'
SHORT = tuple(
    f'--config.{setting}'
    for setting in (
        f'model={SMALLER}', 'dtype=float32', 'epochs=1', 'image_size=32', 'batch_size=4', 'warmup_epochs=0'
    )
)  # fmt: skip
MODELS = (SMALLER, 'tf_efficientnet_b0_ns', 'pt_efficientnet_b0')  # of which weights are fetched


def fenced(language: str) -> list[str]:
    """The blocks of a language; without one they are commands of a shell."""
    blocks = re.findall(r'^```(\w*)\n(.*?)^```$', README, re.MULTILINE | re.DOTALL)
    return [text for of, text in blocks if of == language]


BLOCKS = [block.splitlines() for block in fenced('')]
TABLE = [row[1] for row in re.findall(r'^\| ([^|]+) \| `([^`|]+)` \|$', README, re.MULTILINE)]


def test_the_readme_has_commands_and_jobs():
    assert sum(map(len, BLOCKS)) >= 11 and len(fenced('python')) == 2
    assert len(TABLE) >= 7 and 'jeffnet doctor' in TABLE


@pytest.fixture(scope='module')
def workshop(tmp_path_factory):
    """A folder with the scripts, the data that the README speaks of, and the environment with a hub."""
    place = tmp_path_factory.mktemp('workshop')
    for path in (*ROOT.glob('*.py'), *(ROOT / name for name in ('train_configs', 'docker'))):
        (place / path.name).symlink_to(path)
    tiny_imagenet.write(place / 'tiny')
    (place / 'tiny' / 'folders').rename(place / 'imagenet')
    rng = np.random.default_rng(0)
    for split, count in (('train', 4), ('validation', 2)):
        for label in ('daisy', 'tulip'):
            for i in range(count):
                path = place / 'flowers' / split / label / f'{i}.jpg'
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    shutil.copy(path, place / 'cat.jpg')
    with HubServer() as server:
        for name in MODELS:
            state = torch_reference.reference(name).state_dict()
            add_to_hub(server, name, state)
        torch.save(state, place / 'model.pth')
        module, variables = jeffnet.create_model('keras_resnet50')
        jeffnet.save_weights(module, place / 'resnet50.weights.h5', variables)
        (place / 'home').mkdir()
        yield place, os.environ | {'HF_ENDPOINT': server.url, 'HF_HOME': str(place / 'home')}


def add_to_hub(server, name, state):
    """Puts the weights of a model where its table says that they are."""
    from safetensors.torch import save

    info = jeffnet.model_info(name)
    files = {'model.safetensors': save({k: v.contiguous() for k, v in state.items()}), 'config.json': b'{}'}
    server.add(f'timm/{info.weights}', files)


def run(workshop, command: str):
    """Runs one command of the README the way that this machine can; raises with its output if it fails."""
    place, environment = workshop
    words = shlex.split(command.replace('/data/', ''), comments=True)
    program, *rest = words
    if program == 'make':  # CI runs these by themselves
        words, place = ['make', '-n', *rest], ROOT
    elif program == 'pip':
        words = [str(Path(sys.executable).with_name('uv')), 'pip', *rest, '--dry-run', '--python', sys.executable]
        place = ROOT
        if not Path(words[0]).exists():
            words = [sys.executable, '-m', 'pip', *rest, '--dry-run']
    elif program == 'docker':  # there is no engine here; tests/test_docker.py looks into the file
        assert rest[0] == 'build' and (place / rest[rest.index('-f') + 1]).is_file()
        return
    elif program == 'python':
        words = [sys.executable, *rest, *(SHORT if '_train.py' in rest[0] else ())]
    elif program == 'jeffnet':
        words = [str(Path(sys.executable).with_name('jeffnet')), *rest]
    done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f'{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}'


@pytest.mark.parametrize('block', BLOCKS, ids=lambda block: block[0][:30])
def test_a_block_of_commands(workshop, block):
    for command in block:
        run(workshop, command)


def test_the_table_of_jobs(workshop):
    for command in TABLE:
        if not any(command in line for block in BLOCKS for line in block):
            run(workshop, command)


def test_the_lines_of_python(workshop):
    place, environment = workshop
    code = '\n'.join(fenced('python')) + '\nassert model(image).shape == (1, 1000)'
    done = subprocess.run([sys.executable, '-c', code], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r'\d+', done.stdout)) == 5


def test_links_lead_somewhere():
    for page in (ROOT / 'README.md', *(ROOT / 'docs').glob('*.md'), ROOT / 'docker' / 'README.md'):
        for target in re.findall(r'\]\(([^)#]+)(?:#[^)]*)?\)', page.read_text()):
            assert '://' in target or (page.parent / target).exists(), f'{page.name}: {target}'


def test_tables_are_those_of_the_committed_results():
    # In a process of its own: other tests put networks of theirs into this one's table of models.
    done = subprocess.run([sys.executable, '-m', 'tools.tables', '--check'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
