"""The doctor: what it says of this environment, and of broken ones."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from jeffnet.doctor import __main__ as command
from jeffnet.doctor import accelerators, checks, installed, places
from jeffnet.doctor.finding import Finding

ROOT = Path(__file__).parents[1]
CPU = {'platform': 'cpu', 'kind': 'cpu', 'count': 1, 'memory': None}


def doctor(*arguments, **environment):
    """Runs the command in a process of its own."""
    return subprocess.run(
        [sys.executable, '-m', 'jeffnet.doctor', *arguments],
        capture_output=True, text=True, env=os.environ | environment, check=False,
    )  # fmt: skip


def test_this_environment_is_well():
    run = doctor('--json', '--need', 'linen', 'nnx', 'objax', 'tf', 'torch', 'hf', 'train')
    report = json.loads(run.stdout)
    found = {each['name']: each for each in report['checks']}
    assert run.returncode == 0 and report['ok'], report
    assert report['versions']['objax'] == '1.8.0'
    assert found['objax']['found'].endswith('with the logits of linen')
    assert found['torch']['found'].endswith('with the pixels of tf')
    assert {'compiled programs', 'published weights', 'data sets', 'shared memory', 'gpu', 'tpu'} <= found.keys()


def test_where_nothing_is_installed(tmp_path):
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'bare'], check=True)
    python = tmp_path / 'bare/bin/python'
    run = subprocess.run([python, '-m', 'jeffnet.doctor'], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 1 and not run.stderr
    mended = r'FAILED packages +jeffnet runs from a folder.*\n +uv pip install --python .*bare/bin/python -e \.'
    assert re.search(mended, run.stdout)
    assert 'linen' not in run.stdout and run.stdout.endswith('failed: packages\n')


def test_an_essential_package_that_is_gone(monkeypatch):
    there = installed.version
    monkeypatch.setattr(installed, 'version', lambda name: None if name == 'packaging' else there(name))
    found = list(checks.findings())
    (bad,) = (finding for finding in found if finding.state == 'failed')
    assert (bad.name, bad.found) == ('packages', 'packaging not installed') and bad.mend.endswith(' install packaging')
    assert 'linen' not in {finding.name for finding in found}


def test_a_library_that_ends_the_process_is_one_failure(tmp_path):
    (tmp_path / 'tensorflow.py').write_text('import os; os.abort()')
    run = doctor(PYTHONPATH=str(tmp_path))
    assert run.returncode == 1
    lines = run.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith('FAILED tf '))
    assert 'ended by signal 6' in lines[at] and '--force-reinstall --no-deps ' in lines[at + 1]
    assert any(line.startswith('ok     torch') for line in lines)
    assert lines[-1] == 'failed: tf'


def test_what_a_process_prints_at_its_end_is_no_result(tmp_path, monkeypatch):
    (tmp_path / 'sitecustomize.py').write_text("import atexit; atexit.register(print, 'goodbye')")
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    assert checks.live('devices')['platform'] == 'cpu'


def test_an_extra_that_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / 'datasets.py').write_text('import a_module_of_nobody')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    result = checks.live('hf')
    assert result == {'error': "ModuleNotFoundError: No module named 'a_module_of_nobody'"}
    (finding,) = checks.compared(['hf'], {'hf': result}, checks.extra)
    # Without --no-deps, so that what is missing comes too.
    assert finding.state == 'failed' and re.search(r'-m pip install datasets==\S+  # the whole error', finding.mend)


@pytest.mark.parametrize(
    ('setting', 'value'), [('JAX_PLATFORMS', 'cuda'), ('XLA_FLAGS', '--xla_a_flag_of_nobody')]
)  # fmt: skip
def test_a_setting_with_which_jax_does_not_start(monkeypatch, setting, value):
    monkeypatch.delenv('XLA_FLAGS', raising=False)
    monkeypatch.setenv(setting, value)
    result = checks.live('devices')
    (devices,) = accelerators.accelerators(result)
    assert (devices.state, devices.mend) == ('failed', f'unset {setting}')
    on = ' on the platform cuda' if value == 'cuda' else ''
    assert re.match(rf'JAX does not start{on}: \S.* \S', devices.found)  # more than the name of an exception


def test_a_gpu_that_is_needed_is_listed_where_jax_does_not_start():
    run = doctor('--json', '--need', 'gpu', JAX_PLATFORMS='cuda', CUDA_VISIBLE_DEVICES='')
    found = {each['name']: each for each in json.loads(run.stdout)['checks']}
    assert run.returncode == 1 and found['gpu']['state'] == 'failed'
    assert found['gpu']['found'] == 'not looked at, since devices failed'
    assert found['devices']['found'].startswith('JAX does not start on the platform cuda: ')


def test_a_framework_fails_with_jax_or_by_itself(monkeypatch):
    monkeypatch.setenv('JAX_PLATFORMS', 'cuda')  # as it should be where there is a GPU
    monkeypatch.setattr(accelerators, 'gpus', lambda: ([], ''))
    bad = {'error': 'RuntimeError: no'}

    def linen_of(results):
        monkeypatch.setattr(checks, 'live', lambda name: results.get(name, bad))
        return next(each for each in checks.parts() if each.name == 'linen')

    assert linen_of({}).mend.startswith('unset JAX_PLATFORMS  # the whole error: ')
    assert '--force-reinstall --no-deps jax==' in linen_of({'devices': CPU}).mend


def told(monkeypatch, capsys, findings, *arguments):
    """Exit status and lines of the command on given findings."""
    monkeypatch.setattr(checks, 'findings', lambda: iter(findings))
    status = command.main(list(arguments))
    return status, capsys.readouterr()


def test_what_is_absent_fails_only_if_needed(monkeypatch, capsys):
    findings = [Finding('objax', 'absent', 'six not installed', "pip install 'jeffnet[objax]'")]
    status, shown = told(monkeypatch, capsys, findings)
    assert status == 0 and "pip install 'jeffnet[objax]'" in shown.out
    status, shown = told(monkeypatch, capsys, findings, '--need', 'objax')
    assert status == 1 and shown.out.startswith('FAILED objax')


def test_an_unknown_part_is_bad_input(capsys):
    assert command.main(['--need', 'caffe']) == 2
    assert 'caffe' in capsys.readouterr().err


def test_versions_that_jeffnet_is_not_made_for(monkeypatch):
    real = installed.version
    monkeypatch.setattr(installed, 'version', lambda name: {'torchvision': '0.20.0'}.get(name) or real(name))
    finding = installed.packages()
    assert (finding.state, finding.mend) == ('failed', f'{sys.executable} -m pip install torchvision==0.29.2')


@pytest.mark.parametrize(
    ('requirement', 'version'), [('jax>=0.10', '0.12.1.dev20260601+nv26.06'), ('torch==2.15.0', '2.15.0+cpu')]
)
def test_another_build_of_a_release_counts_as_the_release(monkeypatch, requirement, version):
    monkeypatch.setattr(installed, 'version', lambda name: version)
    assert installed.satisfied(Requirement(requirement))


@pytest.mark.parametrize(('present', 'missing'), [('tensorflow', []), ('tensorflow-cpu', []), (None, 1)])
def test_either_build_of_tensorflow_will_do(monkeypatch, present, missing):
    absent = {'tensorflow', 'tensorflow-cpu'} - {present}
    monkeypatch.setattr(installed, 'version', lambda name: None if name in absent else '1')
    assert len(installed.lacking('tf')) == (missing or 0)


def machine_with(monkeypatch, tmp_path, cards: list[str], *packages: str, status: int = 0):
    """Lets nvidia-smi show these cards and end with this status, and these packages be installed."""
    program = tmp_path / 'nvidia-smi'
    program.write_text('#!/bin/sh\n' + ''.join(f'echo "{card}"\n' for card in cards) + f'exit {status}\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(accelerators, 'version', lambda name: '1' if name in packages else None)
    for name in ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME', 'CUDA_VISIBLE_DEVICES', 'LD_LIBRARY_PATH'):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ('driver', 'mend'),
    [
        ('580.65.06', f"{sys.executable} -m pip install 'jeffnet[cuda13]'"),
        ('535.1', f"{sys.executable} -m pip install 'jeffnet[cuda12]'"),
        ('470.2', '# install'),
    ],
)
def test_a_gpu_that_jax_does_not_use(monkeypatch, tmp_path, driver, mend):
    machine_with(monkeypatch, tmp_path, [f'NVIDIA A100-SXM4-80GB, {driver}'] * 2)
    gpu = gpu_of(CPU)
    assert gpu.state == 'failed' and gpu.mend.startswith(mend)
    assert gpu.found.startswith('2 x NVIDIA A100-SXM4-80GB, driver')


def test_plugins_of_another_release_or_cuda(monkeypatch, tmp_path):
    machine_with(monkeypatch, tmp_path, ['NVIDIA L4, 590.1'])
    versions = {'jax-cuda13-plugin': '0.9.0', 'jax-cuda13-pjrt': '0.10.2', 'jaxlib': '0.10.2+nv26.06'}
    monkeypatch.setattr(accelerators, 'version', versions.get)
    gpu = gpu_of(CPU)
    assert gpu.found.endswith('; jax-cuda13-plugin is 0.9.0, but jaxlib 0.10.2+nv26.06')
    assert gpu.mend == f'{sys.executable} -m pip install jax-cuda13-plugin==0.10.2'
    machine_with(monkeypatch, tmp_path, ['NVIDIA L4, 535.1'])
    monkeypatch.setattr(accelerators, 'version', {'jax-cuda13-plugin': '1', 'jax-cuda13-pjrt': '1', 'jaxlib': '1'}.get)
    pip = f'{sys.executable} -m pip'
    removed = f'{pip} uninstall -y jax-cuda13-plugin jax-cuda13-pjrt'
    assert gpu_of(CPU).mend == f"{removed} && {pip} install 'jeffnet[cuda12]'"


def gpu_of(devices):
    """What is said of the GPU."""
    return next(each for each in accelerators.accelerators(devices) if each.name == 'gpu')


@pytest.mark.parametrize(
    ('setting', 'value', 'hides'),
    [('JAX_PLATFORMS', 'cpu', True), ('JAX_PLATFORMS', 'cuda,cpu', False), ('CUDA_VISIBLE_DEVICES', '-1', True),
     ('CUDA_VISIBLE_DEVICES', '0,1', False), ('LD_LIBRARY_PATH', '/usr/local/cuda/lib64', True)],
)  # fmt: skip
def test_a_setting_that_hides_the_gpu(monkeypatch, tmp_path, setting, value, hides):
    machine_with(monkeypatch, tmp_path, ['NVIDIA L4, 590.1'], 'jax-cuda13-plugin', 'nvidia-cudnn-cu13')
    monkeypatch.setenv(setting, value)
    gpu = gpu_of(CPU)
    assert gpu.state == 'failed' and (gpu.mend == f'unset {setting}') == hides


@pytest.mark.parametrize(
    'told', ['NVIDIA-SMI has failed because it could not reach the driver', 'No devices were found']
)
@pytest.mark.parametrize('status', [0, 9])
def test_a_driver_that_does_not_work(monkeypatch, tmp_path, told, status):
    machine_with(monkeypatch, tmp_path, [told], status=status)
    gpu = gpu_of(CPU)
    assert gpu.state == 'failed' and gpu.found == f'nvidia-smi: {told}' and gpu.mend


def test_a_driver_that_hangs_or_is_no_program(monkeypatch, tmp_path):
    machine_with(monkeypatch, tmp_path, [])
    (tmp_path / 'nvidia-smi').write_text('#!/bin/sh\nexec sleep 60\n')
    monkeypatch.setattr(accelerators, 'PATIENCE', 0.2)
    assert 'timed out' in gpu_of(CPU).found
    (tmp_path / 'nvidia-smi').write_text('#!/no/such/interpreter\n')
    assert gpu_of(CPU).state == 'failed'


def test_several_gpus_must_add_up_a_number(monkeypatch, tmp_path):
    machine_with(monkeypatch, tmp_path, ['NVIDIA L4, 590.1'] * 2)
    two = CPU | {'platform': 'gpu', 'kind': 'NVIDIA L4', 'count': 2, 'memory': 2**34}
    monkeypatch.setattr(accelerators, 'live', lambda name: {'error': 'ncclUnhandledCudaError'})
    found = {each.name: each for each in accelerators.accelerators(two)}
    assert found['devices'].found == '2 x NVIDIA L4 (gpu), 16 GiB each'
    assert found['nccl'].state == 'failed' and found['nccl'].mend.startswith('NCCL_DEBUG=INFO python -m')


def test_the_sum_over_devices(monkeypatch):
    monkeypatch.setenv('XLA_FLAGS', '--xla_force_host_platform_device_count=3')
    assert checks.live('collectives') == {'count': 3}


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').touch()
    finding = places.folder('data sets', f'{tmp_path}/file/inside', 'export TFDS_DATA_DIR=')
    assert (finding.state, finding.mend) == ('warning', 'export TFDS_DATA_DIR=/a/folder/with/space')
    assert places.folder('data sets', f'{tmp_path}/new', '').found.endswith('made when needed')


def test_folders_that_are_elsewhere_or_nowhere(monkeypatch):
    assert places.folder('data sets', 'gs://bucket/tfds', '') == Finding('data sets', 'ok', 'gs://bucket/tfds')
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', '')
    assert places.folder('compiled programs', places.programs(), '').found.startswith('none')


def test_versions_of_jaxlib_that_do_not_fit(monkeypatch):
    real = installed.version
    monkeypatch.setattr(installed, 'version', lambda name: {'jaxlib': '0.8.0'}.get(name) or real(name))
    assert installed.packages().found == 'jaxlib 0.8.0'


def test_a_folder_without_an_installed_package(monkeypatch):
    real = installed.version
    monkeypatch.setattr(installed, 'version', lambda name: None if name == 'jeffnet' else real(name))
    assert installed.packages().mend.endswith('-m pip install -e .') and installed.lacking('objax') == []


def test_a_warning_does_not_fail(monkeypatch, capsys):
    status, shown = told(monkeypatch, capsys, [Finding('this folder', 'warning', '/', 'cd /a/folder/with/space')])
    assert status == 0 and shown.out.startswith('warn   this folder') and 'cd /a/folder' in shown.out


def test_a_full_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(places, 'LEAST_DISK', 2**80)
    assert places.folder('this folder', str(tmp_path), 'cd ').mend == 'cd /a/folder/with/space'


def test_little_shared_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(places, 'SHARED', tmp_path)
    monkeypatch.setattr(places, 'LEAST_SHARED', 2**80)
    assert '--shm-size' in places.shared_memory().mend
    monkeypatch.setattr(places, 'SHARED', tmp_path / 'none')
    assert places.shared_memory().state == 'ok'


def test_results_that_differ():
    logits = {'linen': {'logits': [0.1, 0.2]}, 'nnx': {'logits': [0.1, 0.2]}, 'objax': {'logits': [0.1, float('nan')]}}
    found = list(checks.compared(['linen', 'nnx', 'objax'], logits, checks.framework))
    assert [each.state for each in found] == ['ok', 'ok', 'failed']
    pixels = {'tf': {'error': 'no such op'}, 'torch': {'pixels': 'ab'}}
    found = list(checks.compared(['tf', 'torch'], pixels, checks.reader))
    assert [each.state for each in found] == ['failed', 'ok'] and 'with the pixels' not in found[1].found
    pixels['tf'] = {'pixels': 'ac'}
    assert list(checks.compared(['tf', 'torch'], pixels, checks.reader))[1].state == 'failed'
