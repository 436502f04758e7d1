"""Starts several processes of one script on this machine, as a cluster would on many.

    python -m jeffnet.launch --processes 2 tf_linen_train.py --config train_configs/digits_cpu.py ...
    python -m jeffnet.launch --processes 4 --local-devices one-each pt_linen_validate.py DATA --model NAME

Each process gets `--coordinator`, `--num-processes` and `--process-id`. A signal to the launcher reaches all of them;
its exit status is the first that is not 0, and when one process fails the others have a minute to end by themselves.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time

GRACE_SECONDS = 60  # for the others, after one has failed


def main() -> int:
    """Runs the processes and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog='python -m jeffnet.launch', description='Starts several processes of one script on this machine.'
    )
    parser.add_argument('--processes', type=int, required=True, metavar='N')
    parser.add_argument('--local-devices', choices=('all', 'one-each'), default='all',
                        help='whether each process sees all accelerators, or process K only number K')  # fmt: skip
    parser.add_argument('script')
    parser.add_argument('arguments', nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if args.processes < 1:
        parser.error(f'--processes {args.processes}: expected 1 or more')
    if not os.path.isfile(args.script):
        parser.error(f'{args.script}: no such script')
    return watch([start(args, rank, port) for port in (free_port(),) for rank in range(args.processes)])


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def start(args: argparse.Namespace, rank: int, port: int) -> subprocess.Popen:
    """Starts process `rank`."""
    place = ['--coordinator', f'127.0.0.1:{port}', '--num-processes', str(args.processes), '--process-id', str(rank)]
    environment = dict(os.environ)
    if args.local_devices == 'one-each':
        environment['JAX_LOCAL_DEVICE_IDS'] = str(rank)
    return subprocess.Popen([sys.executable, args.script, *place, *args.arguments], env=environment)


def watch(processes: list[subprocess.Popen]) -> int:
    """Waits for all processes, passes signals on, and ends what is left after one has failed."""

    def forward(number, frame):
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    signal.signal(signal.SIGTERM, forward)
    # From a terminal, SIGINT reaches the processes anyway; a second one would count as "at once".
    signal.signal(signal.SIGINT, lambda number, frame: None if sys.stdin.isatty() else forward(number, frame))
    until = None
    while any(process.poll() is None for process in processes):
        failed = [process for process in processes if process.poll()]
        if failed and until is None:
            until = time.monotonic() + GRACE_SECONDS
        if until is not None and time.monotonic() > until:
            print(f'launch: ending what still runs {GRACE_SECONDS} s after a process failed', file=sys.stderr)
            for process in processes:
                process.kill()
        time.sleep(0.1)
    statuses = [process.returncode for process in processes]
    for rank, status in enumerate(statuses):
        if status < 0:
            print(f'launch: process {rank} was ended by {signal.Signals(-status).name}', file=sys.stderr)
    return next((status if status > 0 else 128 - status for status in statuses if status), 0)


if __name__ == '__main__':
    sys.exit(main())
