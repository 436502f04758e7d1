"""Several processes, on one machine or many: starting them, and putting together what each has found."""

import argparse
import socket
import time
from typing import Any

import numpy as np

START_SECONDS = 120  # that the processes may start apart
HEARTBEAT_SECONDS = 30  # without a sign of life, after which a process counts as gone and the others end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that make a process one of several."""
    group = parser.add_argument_group('several processes', 'each started with the same command, apart from its number')
    group.add_argument('--distributed', action='store_true', help='join the others of a Slurm job, TPU pod or MPI run')
    group.add_argument('--coordinator', metavar='HOST:PORT', help='of process 0, where the cluster is not known')
    group.add_argument('--num-processes', type=int, metavar='N')
    group.add_argument('--process-id', type=int, metavar='K', help='0 to N - 1')
    group.add_argument('--start-timeout', type=int, metavar='SECONDS', default=START_SECONDS,
                       help='that the processes may start apart (%(default)s)')  # fmt: skip
    group.add_argument('--heartbeat-timeout', type=int, metavar='SECONDS', default=HEARTBEAT_SECONDS,
                       help='without a sign of life, after which a process counts as gone (%(default)s)')  # fmt: skip


def start(args: argparse.Namespace) -> None:
    """Joins the other processes if the arguments say so; nothing may have used JAX's devices before.

    Raises ValueError for arguments that do not fit together, RuntimeError if the others cannot be reached.
    """
    given = (args.coordinator, args.num_processes, args.process_id)
    if not args.distributed and given == (None, None, None):
        return
    if given != (None, None, None):
        if None in given:
            raise ValueError('--coordinator, --num-processes and --process-id go together')
        port = args.coordinator.rpartition(':')[2]
        if ':' not in args.coordinator or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ValueError(f'--coordinator {args.coordinator}: expected HOST:PORT')
        if not 0 <= args.process_id < args.num_processes:
            raise ValueError(f'--process-id {args.process_id}: expected 0 to {args.num_processes - 1}')
    for name in ('start_timeout', 'heartbeat_timeout'):
        if getattr(args, name) < 1:
            raise ValueError(f'--{name.replace("_", "-")} {getattr(args, name)}: expected 1 or more')
    import jax

    options: dict[str, Any] = {'coordinator_address': args.coordinator, 'num_processes': args.num_processes}
    options |= {'initialization_timeout': args.start_timeout, 'heartbeat_timeout_seconds': args.heartbeat_timeout}
    # By default the coordinator listens on every interface of its machine.
    options |= {'coordinator_bind_address': args.coordinator} if args.process_id == 0 else {}
    if args.process_id:
        wait_for(args.coordinator, args.start_timeout)
    jax.distributed.initialize(**options, process_id=args.process_id)


def wait_for(coordinator: str, seconds: float = START_SECONDS) -> None:
    """Returns when process 0 listens; ConnectionError if it does not, where JAX would abort with a stack of C++."""
    host, _, port = coordinator.rpartition(':')
    until = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection((host.strip('[]'), int(port)), timeout=5).close()
        except OSError as error:
            if time.monotonic() > until:
                raise ConnectionError(f'--coordinator {coordinator}: process 0 cannot be reached ({error})') from error
        time.sleep(0.5)


def gather(arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The arrays of all processes, in their order; first axes may differ, all else must agree."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return [arrays]
    lengths = multihost_utils.process_allgather(np.array([len(next(iter(arrays.values())))]))
    most = int(lengths.max())
    found = {
        name: multihost_utils.process_allgather(np.pad(array, [(0, most - len(array))] + [(0, 0)] * (array.ndim - 1)))
        for name, array in arrays.items()
    }
    return [
        {name: np.asarray(array)[rank, : int(length)] for name, array in found.items()}
        for rank, length in enumerate(lengths.ravel())
    ]


def gather_texts(texts: list[str]) -> list[list[str]]:
    """The texts of all processes, in their order."""
    encoded = [text.encode(errors='surrogateescape') for text in texts]
    own = max(map(len, encoded), default=0)
    width = max(int(found['width'][0]) for found in gather({'width': np.array([own])}))
    rows = np.frombuffer(b''.join(text.ljust(width, b'\0') for text in encoded), np.uint8)
    return [
        [row.tobytes().rstrip(b'\0').decode(errors='surrogateescape') for row in found['text']]
        for found in gather({'text': rows.reshape(len(texts), width)})
    ]


def several() -> bool:
    """Whether this process is one of several."""
    import jax

    return jax.process_count() > 1


def rank() -> int:
    """The number of this process."""
    import jax

    return jax.process_index()
