"""The command of translate_keras.py: weights of Keras Applications into files of ours, each tensor accounted for."""

import argparse
import difflib
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import jeffnet
from jeffnet.command_line import Parser, at_least, guarded, input_errors, stop
from jeffnet.models.table import ModelInfo, table
from jeffnet.weights import Incomplete, files, keras_download, keras_names, names, source


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    return guarded(lambda: run(argv))


def run(argv: list[str] | None) -> int:
    """Translates one model, or all of them."""
    args = parser().parse_args(argv)
    with input_errors():
        if args.model == 'all':
            return run_all(args)
        (info,) = named(args.model)
        print('\n'.join(translate(info, args.weights, args.output, args)))
    return 0


def run_all(args: argparse.Namespace) -> int:
    """Translates every published file; one that cannot be had or read is named, and the others go on."""
    if args.weights or args.num_classes is not None or args.in_chans != 3:
        raise ValueError('--model all takes the published files: leave out --weights, --num-classes, --in-chans')
    if args.output.is_file():
        raise ValueError(f'--output {args.output} is a file; --model all needs a folder')
    infos, failed = named('all'), []
    for info in infos:
        try:
            lines = translate(info, None, args.output / f'{info.name}.safetensors', args)
        except (ValueError, OSError) as error:  # ConnectionError is one
            failed.append(info.name)
            stop(f'{info.name}: {error}', 2)
        else:
            print('\n'.join(lines), flush=True)
    if failed:
        raise ValueError(f'{len(failed)} of {len(infos)} failed: {", ".join(failed)}')
    return 0


def parser() -> Parser:
    """The arguments."""
    p = Parser(
        prog='translate_keras.py',
        description='Translates weights of Keras Applications to jeffnet, or back, with h5py and NumPy alone.',
    )
    p.add_argument('--model', required=True, help='ResNet50 or keras_resnet50 (see `jeffnet models "keras_*"`), or all')
    p.add_argument(
        '--weights',
        type=Path,
        metavar='FILE',
        help='.h5, .weights.h5, .keras, or a file of ours; default: the published one',
    )
    p.add_argument(
        '--output',
        type=Path,
        required=True,
        help='FILE.safetensors, a folder, FILE.weights.h5 for Keras 3, FILE.h5 for Keras 2; with all: a folder',
    )
    p.add_argument(
        '--num-classes', type=at_least(-1), metavar='N', help='as the file has them, if not as published; -1: no head'
    )
    p.add_argument('--in-chans', type=at_least(1), default=3, metavar='N', help='of the file, if not 3')
    return p


def named(model: str) -> list[ModelInfo]:
    """The entries of the table that an argument names, by Keras' constructor or by our name."""
    ours = [info for info in table().values() if info.keras]
    if model == 'all':
        return ours
    known = {info.keras.lower(): info for info in ours if info.keras and not info.keras_options}
    known |= {info.name: info for info in ours}
    if model.lower() not in known:
        close = difflib.get_close_matches(model.lower(), known, n=3, cutoff=0.5)
        nearest = ', '.join(known[each].keras or each for each in close) or 'ResNet50, for example'
        raise ValueError(
            f'--model {model}: no network of Keras Applications; did you mean {nearest}? '
            '`jeffnet models "keras_*"` lists them, with the variants that a keyword of Keras makes'
        )
    return [known[model.lower()]]


def translate(info: ModelInfo, weights: Path | None, output: Path, args: argparse.Namespace) -> list[str]:
    """Writes one model; returns what was done, in lines for people."""
    path = weights or source.pinned(info)
    if not path.exists():
        raise FileNotFoundError(f'--weights {path}: there is no such file')
    if output.suffix.lower() not in ('', '.safetensors', '.h5'):
        raise ValueError(f'--output {output}: expected FILE.safetensors, FILE.weights.h5, FILE.h5, or a folder')
    file = files.read(path)
    with Incomplete(), Unadapted(path):
        options = {'num_classes': args.num_classes, 'in_chans': args.in_chans}
        module, variables = jeffnet.create_model(info.name, weights=path, **options)
    lines = [*account(info, file, len(jeffnet.flat_variables(variables)))]
    written = jeffnet.save_weights(module, output, variables)
    lines += [
        f'  images: {json.dumps(prepared(info))}',
        "  output: logits; Keras' own head ends in a softmax unless classifier_activation=None",
        f'  written to {written}',
    ]
    return lines


class Unadapted(Incomplete):
    """A context in which no file may be fitted to other channels than it has."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, 'adapted', False) and record.thread == self.thread:
            raise ValueError(f'{self.path} is for images of other channels ({record.getMessage()}): give --in-chans')
        return True


def account(info: ModelInfo, file: files.WeightsFile, count: int) -> Iterator[str]:
    """Where every tensor of a file went."""
    held = f'{info.name} ({info.keras}): {len(file.arrays)} tensors'
    if not file.layout.startswith('keras'):
        counters = sum(name.endswith(names.COUNTERS) for name in file.arrays)
        yield f'{held} in {file.path}' + (f', {counters} of them counters' if counters else '')
    else:
        layers = keras_names.grouped(file.arrays)
        yield f'{held} of {len(layers)} layers in {file.path}'
        images = sum(len(own) for layer, own in layers.items() if keras_names.NORMALISATION.fullmatch(layer))
        if images:
            yield f"  {images} tensors normalise the image, which is the caller's part here"
        yield f'  {origin(info, file.path)}'
    yield f'  {count} arrays of the network filled, each once; none missing, none left over'


def origin(info: ModelInfo, path: Path) -> str:
    """Whether a file is the published one."""
    if info.checksum is None:
        return 'Keras publishes no checksum of this file'
    same = keras_download.checksum_of(path, info.checksum) == info.checksum
    return (
        f"checksum {info.checksum}: Keras' published file" if same else "not Keras' published file (another checksum)"
    )


def prepared(info: ModelInfo) -> dict:
    """How images are to be prepared."""
    return {'mode': info.preprocessing, 'size': info.input_size[0], 'mean': info.mean, 'std': info.std}
