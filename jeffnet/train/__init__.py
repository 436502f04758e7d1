"""Training: configuration, schedules, optimizers, losses, metrics and the loop that ties them together."""

from jeffnet.train.config import checked, default_config
from jeffnet.train.loop import run
from jeffnet.train.losses import cross_entropy
from jeffnet.train.metrics import count, summary, zeros
from jeffnet.train.optimizers import decay_mask, make_optimizer
from jeffnet.train.plan import Plan, prepare
from jeffnet.train.schedules import make_schedule
from jeffnet.train.state import TrainState

__all__ = [
    'Plan', 'TrainState', 'checked', 'count', 'cross_entropy', 'decay_mask', 'default_config', 'make_optimizer',
    'make_schedule', 'prepare', 'run', 'summary', 'zeros',
]  # fmt: skip
