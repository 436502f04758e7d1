"""Keeps the JAX of a base image: its packages as constraints for pip, and afterwards what has changed.

    python docker/constraints.py > constraints.txt
    python -m pip install --constraint constraints.txt ...
    python docker/constraints.py --check constraints.txt

A line is `jaxlib==0.10.2  # 0.10.2+nv26.06 file:///opt/jaxlibs/jaxlib`: for pip, which ignores comments, the version
that other packages compare with; for --check, the full version and where it was installed from, if not from an index.
Editable installs are listed too, unlike by `pip freeze`, which gives them as paths that are no constraints.
"""

import argparse
import importlib.metadata
import json
import re
import sys
from pathlib import Path

KEPT = re.compile(r'jax|jaxlib|jax-cuda.*|flax|ml-dtypes|numpy|nvidia-.*|transformer-engine.*')
NEEDED = ('jax', 'jaxlib')  # a base without them is not one, and pip would fetch a JAX for CPUs


def main() -> int:
    """Writes the constraints, checks them or prints jax's tag; returns 1 for what should not be, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--also', nargs='+', default=[], metavar='NAME', help='keep these packages too')
    parser.add_argument('--free', nargs='*', default=[], metavar='NAME', help='let pip replace these packages')
    parser.add_argument('--check', type=Path, metavar='FILE', help='fail if a package in FILE is no longer the same')
    parser.add_argument('--jax-tag', action='store_true', help="print the tag of jax's repository for this jaxlib")
    args = parser.parse_args()
    args.also, args.free = ([normalised(name) for name in names] for names in (args.also, args.free))
    found = installed()
    missing = [name for name in (*NEEDED, *args.also, *args.free) if name not in found]
    if missing:
        print(f'constraints: {", ".join(missing)} not installed', file=sys.stderr)
        return 1
    if args.jax_tag:
        print(jax_tag(found['jaxlib']))
        return 0
    if args.check and not args.check.is_file():
        parser.error(f'--check {args.check}: there is no such file')
    if args.check:
        return check(found, read(args.check.read_text()))
    for name in sorted(found):
        if (KEPT.fullmatch(name) or name in args.also) and name not in args.free:
            print(f'{name}=={found[name].split()[0].partition("+")[0]}  # {found[name]}')
    return 0


def installed() -> dict[str, str]:
    """The running environment: by name, the version and origin of each package."""
    found: dict[str, str] = {}
    for package in importlib.metadata.distributions():
        name = normalised(package.metadata['Name'] or '')
        found.setdefault(name, f'{package.version} {origin(package)}'.strip())  # of two, the first is imported
    return found


def normalised(name: str) -> str:
    """The one spelling of a package's name."""
    return re.sub(r'[-_.]+', '-', name).lower()


def origin(package: importlib.metadata.Distribution) -> str:
    """The folder or repository, with its commit, that a package was installed from; empty if from an index."""
    record = json.loads(package.read_text('direct_url.json') or '{}')
    commit = record.get('vcs_info', {}).get('commit_id', '')
    return '@'.join(filter(None, [record.get('url', ''), commit]))


def jax_tag(jaxlib: str) -> str:
    """The tag of jax's release with this jaxlib, of which a build from source is a dev version."""
    return 'jax-v' + re.match(r'\d+(\.\d+)*', jaxlib).group()


def read(text: str) -> dict[str, str]:
    """What a constraints file of this script says was installed."""
    lines = [line.partition('  # ') for line in text.splitlines()]
    return {constraint.partition('==')[0]: full for constraint, _, full in lines}


def check(found: dict[str, str], before: dict[str, str]) -> int:
    """Prints what changed, and CUDA libraries that were added; returns 1 if anything changed."""
    changed = [name for name in before if found.get(name) != before[name]]
    for name in changed:
        print(f'constraints: {name} was {before[name]}, now {found.get(name, "missing")}', file=sys.stderr)
    added = [name for name in sorted(found) if name.startswith('nvidia-') and name not in before]
    if added:
        print(f'constraints: warning: added, and JAX may load it: {", ".join(added)}', file=sys.stderr)
    print(f'constraints: {len(before) - len(changed)} of {len(before)} packages are as in the base image')
    return 1 if changed else 0


if __name__ == '__main__':
    sys.exit(main())
