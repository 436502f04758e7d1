"""Tells what works on this machine and, for what does not, the command that mends it.

python -m jeffnet.doctor
python -m jeffnet.doctor --need objax torch gpu
python -m jeffnet.doctor --json
"""

import argparse
import json
import sys
from dataclasses import asdict

from jeffnet.command_line import Parser, guarded
from jeffnet.doctor.checks import OPTIONAL, examine
from jeffnet.doctor.finding import Finding
from jeffnet.doctor.installed import versions

SIGNS = {'ok': 'ok', 'absent': '-', 'warning': 'warn', 'failed': 'FAILED'}


def main(argv: list[str] | None = None) -> int:
    """Runs the doctor; returns 0 if nothing failed, 1 if something did, 2 for bad arguments."""
    return guarded(lambda: run(argv))


def run(argv: list[str] | None) -> int:
    """Examines and reports, line by line, or at the end as JSON."""
    args = arguments().parse_args(argv)
    found = []
    for finding in examine(frozenset(args.need)):
        found.append(finding)
        if not args.json:
            print(describe(finding), flush=True)
    failed = [finding.name for finding in found if finding.state == 'failed']
    if args.json:
        report = {'ok': not failed, 'versions': versions(), 'checks': [asdict(finding) for finding in found]}
        print(json.dumps(report, indent=1))
    elif failed:
        print(f'failed: {", ".join(failed)}')
    else:
        print('all is well')
    return 1 if failed else 0


def arguments() -> argparse.ArgumentParser:
    """The arguments of the command line."""
    parser = Parser(prog='python -m jeffnet.doctor', description='Tells what works on this machine.')
    parser.add_argument('--need', nargs='+', action='extend', default=[], choices=OPTIONAL, metavar='PART',
                        help=f'fail if this is absent: {", ".join(OPTIONAL)}')  # fmt: skip
    parser.add_argument('--json', action='store_true', help='one JSON object instead of lines')
    return parser


def describe(finding: Finding) -> str:
    """A finding as one or two lines."""
    line = f'{SIGNS[finding.state]:<7}{finding.name:<18}{finding.found}'
    return f'{line}\n{"":<25}{finding.mend}' if finding.mend and finding.state != 'ok' else line


if __name__ == '__main__':
    sys.exit(main())
