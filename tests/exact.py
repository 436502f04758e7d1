"""Figures of one checkpoint on one set for several batch sizes, as JSON; a process of tests/test_validate_exact.py.

python -m tests.exact DATA CHECKPOINT FRAMEWORK PIPELINE [COORDINATOR PROCESSES PROCESS]
"""

import argparse
import json
import sys
from functools import partial

import jeffnet
from jeffnet import distributed
from jeffnet.data import ClassFolder, Preprocessing, import_reader
from jeffnet.data.order import Shard

BATCH_SIZES = (1, 7, 64)


def figures(data, checkpoint, framework, pipeline):
    """Figures by batch size, on all devices of all processes."""
    import jax

    from jeffnet.validate.evaluate import Runner, evaluate
    from jeffnet.validate.processes import together, whole

    config = jeffnet.weights.read_config(checkpoint)
    model = jeffnet.create_model(config['model'], framework, weights=checkpoint, **config['options'])
    predict = jeffnet.predictor(*model) if framework == 'linen' else jeffnet.predictor(model)
    assert predict.devices == jax.local_device_count()
    source, preprocessing = ClassFolder.open(data), Preprocessing.of(config['preprocessing'])
    shard, reader = Shard(jax.process_index(), jax.process_count()), import_reader(pipeline)
    found = {}
    for batch_size in BATCH_SIZES:
        batches = reader.evaluation_batches(source, preprocessing, batch_size, shard=shard)
        runner = Runner(predict, config['options']['num_classes'])
        outcome = whole(together(partial(evaluate, runner, batches, len(source))), batches.indices)
        found[str(batch_size)] = {**outcome.figures(), 'answers': outcome.top[:, 0].tolist()}
    return found


if __name__ == '__main__':
    data, checkpoint, framework, pipeline, *several = sys.argv[1:]
    coordinator, processes, process = several or (None, None, None)
    distributed.start(
        argparse.Namespace(
            distributed=False,
            coordinator=coordinator,
            num_processes=processes and int(processes),
            process_id=process and int(process),
            start_timeout=distributed.START_SECONDS,
            heartbeat_timeout=distributed.HEARTBEAT_SECONDS,
        )
    )
    print(json.dumps(figures(data, checkpoint, framework, pipeline)))
