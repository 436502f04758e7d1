"""The command of the validate scripts: accuracy of models on labelled images, every image counted exactly once.

Nothing heavy is imported at the top: DataLoader workers import the script again, and need neither jax nor a framework.
"""

import argparse
import hashlib
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import jeffnet
from jeffnet import distributed, machine
from jeffnet.command_line import InputError, guarded, input_errors, stop
from jeffnet.data import import_reader
from jeffnet.data.imagenet import real_labels, synsets, validation_number
from jeffnet.data.opening import open_images
from jeffnet.data.order import Shard
from jeffnet.data.source import DataError
from jeffnet.validate.arguments import check_outputs, parser
from jeffnet.validate.jobs import Job, blank, build, classes_of, millions, plan
from jeffnet.validate.labels import Labels, read_class_map, readable_names
from jeffnet.validate.outcome import Outcome
from jeffnet.validate.progress import Progress
from jeffnet.validate.results import ResultsFile, weights_hash, write_predictions

SHOWN_FAULTS = 10  # images that could not be read, named on standard error


def main(framework: str, pipeline: str, argv: list[str] | None = None) -> int:
    """Validates models in 'linen', 'objax' or 'nnx' with the reader 'tf' or 'pt', as the command line says.

    Returns the exit status: 0 done; 2 bad arguments or input, one line on standard error; 1 failed while running.
    """
    return guarded(lambda: run(framework, pipeline, argv))


def run(framework: str, pipeline: str, argv: list[str] | None) -> int:
    """Runs all jobs that the command line asks for; raises what `guarded` turns into an exit status.

    Of several models, one that fails does not keep the others from running.
    """
    with input_errors():
        args = parser(framework).parse_args(argv)
        jobs, classes = plan(args)
        if args.predictions and len(jobs) > 1:
            raise ValueError(f'--predictions: takes one model, {len(jobs)} match --model {args.model}')
        machine.set_up()
        distributed.start(args)
        from jeffnet.validate.processes import together

        validation = together(lambda: Validation.prepare(args, args.framework or framework, pipeline, classes))
    status = 0
    for job in jobs:
        try:
            validation.measure(job)
        except DataError:  # it would meet the other models too
            raise
        except Exception as error:
            if len(jobs) == 1:
                raise
            status = max(status, stop(f'{job.model}: {error}', 1))
        free_programs()
    return status


def file_word(word: str, path: Path) -> str:
    """A word and the hash of the file that it stands for, if there is one."""
    return f'{word} {hashlib.sha256(path.read_bytes()).hexdigest()[:8]}' if path.is_file() else word


def free_programs() -> None:
    """Lets go of what was compiled for a model: of all models together it would fill the memory."""
    import jax

    jax.clear_caches()


@dataclass
class Validation:
    """What all jobs share: arguments, data, outputs, and which of how many processes this is."""

    args: argparse.Namespace
    framework: str
    pipeline: str
    reader: ModuleType
    images: Any  # a Source or a Stream
    classes: list[str] | None  # of a checkpoint
    class_map: dict[str, int] | None
    real: list[list[int]] | None
    results: ResultsFile | None
    shard: Shard
    entries: list[Any] = field(default_factory=list)  # of the report
    batches: Any = None  # of the last job

    @classmethod
    def prepare(
        cls, args: argparse.Namespace, framework: str, pipeline: str, classes: list[str] | None
    ) -> 'Validation':
        """Checks whatever can be checked before a model is built; raises what the input is to blame for."""
        import jax

        shard = Shard(jax.process_index(), jax.process_count())
        if shard.rank == 0:
            check_outputs(args)
        results = ResultsFile(args.results_file) if args.results_file and shard.rank == 0 else None
        class_map = read_class_map(args.class_map) if args.class_map else None
        real = real_labels(args.real_labels) if args.real_labels else None
        devices = 1 if args.no_jit else jax.local_device_count()
        if args.batch_size < devices:
            raise ValueError(
                f'--batch-size {args.batch_size}: is less than one image for each of the {devices} devices'
            )
        reader = import_reader(pipeline)
        images = open_images(args.data, pipeline, args.dataset, args.split)
        return cls(args, framework, pipeline, reader, images, classes, class_map, real, results, shard)

    def measure(self, job: Job) -> None:
        """Runs one job, prints its lines and writes its row; the seconds leave out building and compiling."""
        from jeffnet.validate.processes import together

        identity = self.identity(job)
        # Published weights never change; others are told apart by their values.
        if self.is_done(identity) and job.options['pretrained'] and job.options['weights'] is None:
            return self.say(f'{job.model} ({self.framework}): is in {self.args.results_file} already')
        self.say(f'{job.model} ({self.framework}, {self.args.dtype}) {job.preprocessing.describe()}')
        predict, outputs, labels, about = together(lambda: self.ready(job))
        if self.is_done(identity, about['weights']):
            return self.say(f'{job.model} ({self.framework}): is in {self.args.results_file} already')
        outcome, times, names = self.evaluate(job, predict, outputs, labels)
        row = {**identity, **about, **times, **self.figures(job, outcome, names)}
        self.report_line(row)
        if self.shard.rank == 0:
            self.write(job, row, outcome, names, readable_names(self.images.classes, self.classes or outputs))

    def ready(self, job: Job) -> tuple[Any, int, Labels, dict[str, Any]]:
        """The model, the number of its classes, what the labels mean to it, and the columns about it."""
        with input_errors():
            predict, flat = build(job, self.framework, compiled=not self.args.no_jit, fuse=self.args.fuse)
            outputs = classes_of(predict, blank(job, 1))
            labels = self.labels(job.model, outputs)
        if labels.note and self.shard.rank == 0:
            print(labels.note, file=sys.stderr)
        about = {'weights': weights_hash(flat), 'param_count': millions(flat), 'devices': predict.devices}
        return predict, outputs, labels, about

    def evaluate(self, job: Job, predict: Any, outputs: int, labels: Labels):
        """The outcome on the whole set, the columns about the run, and the names of the images by index."""
        from jeffnet.validate.evaluate import Runner, evaluate
        from jeffnet.validate.processes import all_names, all_texts, together, whole

        size, names = len(self.images), {}
        keep = names if self.args.predictions or self.args.report or self.real else None
        batches = self.batches_for(job)
        with Progress(job.model, batches.size, self.shard.rank == 0) as progress:
            runner = Runner(predict, outputs, labels.classes, progress.say)
            start = time.perf_counter()
            together(lambda: runner.warm_up(blank(job, min(self.args.batch_size, max(batches.size, 1)))))
            compiled = time.perf_counter()
            work = partial(
                evaluate, runner, batches, size, model_class=labels.model_class, progress=progress, names=keep
            )
            outcome = whole(together(work), batches.indices)
            seconds = time.perf_counter() - compiled
        faults = all_texts(batches.faults)
        counted = int(outcome.read.sum())
        if counted + len(faults) != size:
            raise RuntimeError(f'{job.model}: {counted} images were counted and {len(faults)} skipped, of {size}')
        self.say_faults(faults)
        if not counted:
            raise DataError(f'{self.args.data}: none of the {size} images can be read')
        times = {
            'seconds': round(seconds, 2),
            'compile_seconds': round(compiled - start, 2),
            'images_per_second': round(size / seconds, 2),
            'skipped': len(faults),
        }
        return outcome, times, all_names(names)

    def batches_for(self, job: Job) -> Any:
        """The batches of a job; those of the last one, with their workers, if the transform is the same."""
        if self.batches is None or self.batches[0] != job.preprocessing:
            self.batches = None  # its workers end before others start
            args = self.args
            found = self.reader.evaluation_batches(
                self.images, job.preprocessing, args.batch_size, args.workers, shard=self.shard,
                on_bad_image=args.on_bad_image,
            )  # fmt: skip
            self.batches = job.preprocessing, found
        return self.batches[1]

    def is_done(self, identity: dict[str, Any], weights: str | None = None) -> bool:
        """Whether the results file has this row, and nothing else is to be written.

        Process 0, which keeps the file, decides for all.
        """
        if self.args.report or self.args.predictions:
            return False
        has = self.results is not None and self.results.has(identity, weights)
        return bool(distributed.gather({'has': np.array([has])})[0]['has'][0])

    def labels(self, model: str, outputs: int) -> Labels:
        """What the labels of the data mean to a model with this many classes."""
        asked = self.args.num_classes
        if asked not in (None, outputs):
            raise InputError(f'--num-classes {asked}: the weights of {model} are for {outputs} classes')
        try:
            return Labels.match(self.images.classes, self.classes or outputs, self.class_map, self.args.valid_labels)
        except DataError as error:  # another model may fit
            raise InputError(f'{model}: {error}') from error

    def identity(self, job: Job) -> dict[str, Any]:
        """What makes a row the same measurement as another."""
        args, preprocessing = self.args, job.preprocessing
        words = [
            file_word('real', args.real_labels) if self.real else 'original',
            args.valid_labels and file_word(args.valid_labels, Path(args.valid_labels)),
            args.class_map and file_word('map', args.class_map),
        ]
        place = str(Path(args.data).resolve()) if Path(args.data).exists() else args.data
        data = [place, args.dataset, args.split, f'({len(self.images)} images)']
        return {
            'model': job.model, 'framework': self.framework, 'pipeline': self.pipeline, 'dtype': args.dtype,
            'img_size': 'x'.join(map(str, dict.fromkeys(preprocessing.image_size))),
            'crop_pct': preprocessing.crop_pct, 'interpolation': preprocessing.interpolation,
            'preprocessing': preprocessing.kind, 'crop_mode': preprocessing.crop_mode,
            'mean': ' '.join(f'{value:g}' for value in preprocessing.mean),
            'std': ' '.join(f'{value:g}' for value in preprocessing.std),
            'labels': ', '.join(str(word) for word in words if word),
            'data': ' '.join(str(part) for part in data if part), 'source': job.source, 'batch_size': args.batch_size,
            'fuse': args.fuse,
        }  # fmt: skip

    def figures(self, job: Job, outcome: Outcome, names: dict[int, str]) -> dict[str, Any]:
        """Accuracy and loss for the row, and beside them what was published."""
        found = outcome.figures() if self.real is None else outcome.real_figures(self.real_of(outcome, names))
        top1, top5 = round(found['top1'], 4), round(found['top5'], 4)
        info = jeffnet.model_info(job.model)
        comparable = (
            job.options['pretrained'] and self.real is None and not self.args.valid_labels and info.top1 is not None
            and sorted(self.images.classes) == sorted(synsets())
            and job.preprocessing.image_size == (info.top_image_size, info.top_image_size)
        )  # fmt: skip
        return {
            'top1': top1, 'top1_err': round(100 - top1, 4), 'top5': top5, 'top5_err': round(100 - top5, 4),
            'loss': round(found['loss'], 5), 'images': found['images'],
            'published_top1': info.top1 if comparable else None,
            'difference': round(top1 - info.top1, 4) if comparable and info.top1 is not None else None,
        }  # fmt: skip

    def real_of(self, outcome: Outcome, names: dict[int, str]) -> list[list[int]]:
        """The ReaL labels of every image, by the number in its name; DataError if a name has none."""
        found = []
        for index in range(len(outcome)):
            name = self.name(index, names)
            number = validation_number(name)
            if number is None or number > len(self.real or []):
                raise DataError(
                    f'{name}: --real-labels needs the names of the ImageNet validation set, ILSVRC2012_val_*'
                )
            found.append((self.real or [])[number - 1])
        return found

    def name(self, index: int, names: dict[int, str]) -> str:
        """The name of an image of the set."""
        return names[index] if index in names else self.images.name(index)

    def write(self, job: Job, row: dict, outcome: Outcome, names: dict[int, str], classes: list[str]) -> None:
        """Adds the row to the results file, and writes the other outputs that were asked for."""
        if self.results and not self.results.has(row, row['weights']):
            self.results.add(row)
        named = partial(self.name, names=names)
        if self.args.predictions:
            write_predictions(self.args.predictions, outcome, named)
        if self.args.report:
            from jeffnet.validate.report import Entry, write_report

            self.entries.append(Entry(row, outcome, classes, self.picture, named, job.preprocessing.describe()))
            print(f'report: {write_report(self.args.report, self.entries)}', flush=True)

    def picture(self, index: int) -> Any:
        """An image of the set for the report, None if it cannot be read."""
        from jeffnet.data.images import decode, readable

        try:
            with readable(''):
                return decode(self.images.read(index))
        except DataError:
            return None

    def report_line(self, row: dict[str, Any]) -> None:
        """The figures of a model for people."""
        seconds, compiling = row['seconds'], row['compile_seconds']
        with_compiling = row['images'] / max(seconds + compiling, 1e-9)
        published = '' if row['published_top1'] is None else f' (published {row["published_top1"]:.3f} %)'
        skipped = f', {row["skipped"]} skipped' if row['skipped'] else ''
        self.say(
            f'{row["model"]} ({self.framework}): top-1 {row["top1"]:.3f} %{published}, top-5 {row["top5"]:.3f} %, '
            f'loss {row["loss"]:.4f}, {row["images"]} images{skipped}, {seconds:.1f} s, '
            f'{row["images_per_second"]:.1f} images/s; compiled in {compiling:.1f} s, with it '
            f'{with_compiling:.1f} images/s'
        )

    def say(self, line: str) -> None:
        """A line on standard output, of one process only."""
        if self.shard.rank == 0:
            print(line, flush=True)

    def say_faults(self, faults: list[str]) -> None:
        """Names the first images that were skipped."""
        if faults and self.shard.rank == 0:
            more = f'\n... and {len(faults) - SHOWN_FAULTS} more' if len(faults) > SHOWN_FAULTS else ''
            lines = '\n'.join(f'skipped: {fault}' for fault in faults[:SHOWN_FAULTS])
            print(lines + more, file=sys.stderr, flush=True)
