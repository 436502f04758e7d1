"""Checkpoints of a whole training state with Orbax: written in the background, whole or not at all.

A state is stored as a flat dict by path (`.params['conv_stem.kernel']`), so one framework's run can go on in another.
"""

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from jeffnet.train.state import TrainState

NOT_JUDGED = {'top1': -1.0, 'loss': 1e3}  # of a checkpoint without an evaluation: worse than any


class Checkpoints:
    """The checkpoints `folder/STEP` of a run; every process makes one, and calls each method at the same step."""

    def __init__(self, folder: Path, *, keep_last: int = 2, keep_best: int = 1):
        # Orbax tells every step of its work, and prints what it raises as well, with the whole way there.
        logging.getLogger('absl').setLevel(logging.CRITICAL)
        policies = [keep.LatestN(keep_last), keep.BestN(get_metric_fn=goodness, n=keep_best)]
        options = ocp.CheckpointManagerOptions(
            best_fn=goodness,
            preservation_policy=keep.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        try:
            self.manager = ocp.CheckpointManager(folder.absolute(), options=options)
        except ValueError as error:  # a file of figures that is no JSON
            raise OSError(f'{folder} has a damaged checkpoint ({error}); remove it, most likely the newest') from error

    def save(self, step: int, state: TrainState, extra: Mapping[str, Any], metrics: Mapping | None = None) -> None:
        """Starts to write the state after `step` and what belongs to it; an OSError may be of the one before.

        What is written is a copy: the state may be given to the next step at once. `extra` must be plain JSON.
        """
        if step in self.manager.all_steps():
            return
        arguments = {'state': ocp.args.StandardSave(flat(state)), 'extra': ocp.args.JsonSave(dict(extra))}
        with storage_errors():
            self.manager.save(
                step, args=ocp.args.Composite(**arguments), metrics=dict(metrics or NOT_JUDGED), force=True
            )

    def wait(self) -> None:
        """Returns when everything is on disk; raises OSError if it could not be written."""
        with storage_errors():
            self.manager.wait_until_finished()
            self.manager.check_for_errors()

    def steps(self) -> list[int]:
        """The steps of the whole checkpoints there are, ascending."""
        return sorted(self.manager.all_steps())

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state after `step`, laid out over devices as `like` is, and what was saved with it.

        Raises OSError if it is damaged, or the state of another configuration.
        """
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), flat(like))
        try:
            arguments = {'state': ocp.args.StandardRestore(abstract), 'extra': ocp.args.JsonRestore()}
            found = self.manager.restore(step, args=ocp.args.Composite(**arguments))
            leaves = [found['state'][name] for name, _ in named(like)]
        except Exception as error:  # of a damaged file, each layer of the storage library has its own
            cause = (str(error).splitlines() or [type(error).__name__])[0][:300]
            raise OSError(
                f'{self.manager.directory}/{step} is damaged, or of another configuration ({cause})'
            ) from error
        return jax.tree.unflatten(jax.tree.structure(like), leaves), found['extra']

    def forget(self, after: int) -> None:
        """Deletes the checkpoints of later steps."""
        for step in self.steps():
            if step > after:
                self.manager.delete(step)

    def close(self) -> None:
        """Waits for what is being written."""
        self.manager.close()


def goodness(metrics: Mapping) -> float:
    """What the best checkpoints have most of: top-1, and of equal ones the lower loss."""
    return metrics['top1'] - 1e-6 * min(metrics['loss'], 1e3)


def named(state: TrainState) -> list[tuple[str, jax.Array]]:
    """Path and array of every leaf."""
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]


def flat(state: TrainState) -> dict[str, jax.Array]:
    """The state as a flat dict."""
    return dict(named(state))


@contextlib.contextmanager
def storage_errors():
    """Whatever the storage library raises for a disk that is full or gone becomes an OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # tensorstore reports by ValueError, Orbax wraps what its threads raise
        raise OSError(str(error).splitlines()[0][:300]) from error
