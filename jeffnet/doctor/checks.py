"""What the doctor looks at. No package is imported here, since it may be broken or missing: `live` runs them apart."""

import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jeffnet.doctor import installed, places
from jeffnet.doctor.accelerators import accelerators
from jeffnet.doctor.finding import Finding, install, pip_install
from jeffnet.doctor.running import READERS, live

FRAMEWORKS = ('linen', 'nnx', 'objax')
# The extras of pyproject.toml of which an import is check enough, by what each is for.
OTHER_EXTRAS = {'hf': 'Hugging Face data sets', 'train': 'plots and TensorBoard files of training'}
OPTIONAL = (*FRAMEWORKS, *READERS, *OTHER_EXTRAS, 'gpu', 'tpu')
TOLERANCE = 1e-5  # between the logits of two frameworks, which are about 0.02: rounding of float32


def examine(needed: frozenset[str]) -> Iterator[Finding]:
    """All findings, as they come; what is `needed` and absent, or not looked at after a failure, has failed."""
    failed, seen = [], set()
    for finding in findings():
        seen.add(finding.name)
        if finding.state == 'failed':
            failed.append(finding)
        wanted = finding.name in needed and finding.state == 'absent'
        yield Finding(finding.name, 'failed', finding.found, finding.mend) if wanted else finding
    for name in sorted(needed - seen) if failed else ():
        yield Finding(name, 'failed', f'not looked at, since {failed[0].name} failed', failed[0].mend)


def findings() -> Iterator[Finding]:
    """All findings, the quick ones first."""
    yield Finding('python', 'ok', f'{platform.python_version()}, {sys.executable}')
    yield Finding('system', 'ok', f'{platform.platform()}, {os.cpu_count()} cores')
    yield installed.packages()
    yield from places.folders()
    yield places.shared_memory()
    if not installed.missing():
        yield from parts()


def parts() -> Iterator[Finding]:
    """What there is to run, and what of it runs."""
    absent = {name: missing for name in ('objax', *READERS, *OTHER_EXTRAS) if (missing := installed.lacking(name))}
    names = [name for name in ('devices', *FRAMEWORKS, *READERS, *OTHER_EXTRAS) if name not in absent]
    with ThreadPoolExecutor(min(len(names), os.cpu_count() or 1)) as pool:
        results = dict(zip(names, pool.map(live, names), strict=True))
    hardware = list(accelerators(results['devices']))
    yield from hardware
    start = hardware[0].mend if hardware[0].state == 'failed' else ''  # what ails JAX ails the frameworks
    yield from compared([name for name in FRAMEWORKS if name in results], results, framework, start)
    yield from compared([name for name in READERS if name in results], results, reader)
    yield from compared([name for name in OTHER_EXTRAS if name in results], results, extra)
    for name, missing in absent.items():
        purpose = f'{OTHER_EXTRAS[name]}: ' if name in OTHER_EXTRAS else ''
        yield Finding(name, 'absent', f'{purpose}{", ".join(missing)} not installed', install(name))


def compared(names: list[str], results: dict[str, Any], describe: Callable, mend: str = '') -> Iterator[Finding]:
    """The findings of several that must agree: with the first that ran. `mend`: of those that did not, if known."""
    first = next((name for name in names if 'error' not in results[name]), '')
    for name in names:
        if 'error' in results[name]:
            yield broken(name, results[name]['error'], mend)
        else:
            yield describe(name, results[name], results[first], '' if name == first else first)


def framework(name: str, result: dict[str, Any], other: dict[str, Any], first: str) -> Finding:
    """A framework that ran: whether with the logits of the first."""
    errors = [abs(own - their) for own, their in zip(result['logits'], other['logits'], strict=True)]
    wrong = [error for error in errors if not error < TOLERANCE]  # nor not-a-number
    if wrong:
        return Finding(name, 'failed', f'the logits differ by {max(wrong):.1e} from those of {first}', again(name))
    return Finding(name, 'ok', 'a small network ran' + (f', with the logits of {first}' if first else ''))


def reader(name: str, result: dict[str, Any], other: dict[str, Any], first: str) -> Finding:
    """A reader that read image files: whether with the pixels of the first."""
    if result['pixels'] != other['pixels']:
        return Finding(name, 'failed', f'other pixels than those of {first}', again(name))
    same = f', with the pixels of {first}' if first else ''
    return Finding(name, 'ok', f'{READERS[name]} read image files{same}')


def extra(name: str, result: dict[str, Any], other: dict[str, Any], first: str) -> Finding:
    """An extra whose packages were imported."""
    return Finding(name, 'ok', OTHER_EXTRAS[name])


def broken(name: str, error: str, mend: str) -> Finding:
    """A live check that failed: unless the mend is known, by a package that others ask for, or a damaged one."""
    packages = [wanted.name for wanted in installed.of_extra(name)] or ['jax', 'jaxlib', 'flax', 'numpy']
    there = [f'{package}=={installed.version(package)}' for package in packages if installed.version(package)]
    anew = () if error.startswith('ModuleNotFoundError') else ('--force-reinstall', '--no-deps')
    mend = mend or pip_install(*anew, *there)
    return Finding(name, 'failed', error, f'{mend}  # the whole error: {again(name)}')


def again(name: str) -> str:
    """The command that runs a live check by itself."""
    return f'{shlex.quote(sys.executable)} -m jeffnet.doctor.live {name}'
