"""The command of translate_keras.py: weights of Keras Applications into files of ours, each tensor accounted for."""

import argparse
import json
from pathlib import Path

import jeffnet
from jeffnet.command_line import Parser, at_least, guarded, input_errors, stop
from jeffnet.models.table import ModelInfo, table
from jeffnet.weights import Incomplete, files, keras_download, keras_names, source


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
        print('\n'.join(translate(info, args.weights, args.output, args.num_classes)))
    return 0


def run_all(args: argparse.Namespace) -> int:
    """Translates every published file; one that cannot be had or read is named, and the others go on."""
    if args.weights or args.num_classes:
        raise ValueError('--model all takes the published files: leave out --weights and --num-classes')
    infos, failed = named('all'), []
    for info in infos:
        try:
            lines = translate(info, None, args.output / f'{info.name}.safetensors', None)
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
    p.add_argument('--model', required=True, help='ResNet50, ... or keras_resnet50, ...; all: every published one')
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
        help='FILE.safetensors, a folder, or FILE.weights.h5 for Keras; with all: a folder',
    )
    p.add_argument('--num-classes', type=at_least(1), metavar='N', help='as the file has them, if not as published')
    return p


def named(model: str) -> list[ModelInfo]:
    """The entries of the table that an argument names, by Keras' constructor or by our name."""
    ours = [info for info in table().values() if info.keras]
    if model == 'all':
        return ours
    known = {info.keras.lower(): info for info in ours if info.keras and not info.keras_options}
    known |= {info.name: info for info in ours}
    if model.lower() not in known:
        names = ', '.join(sorted(info.keras for info in ours if info.keras and not info.keras_options))
        raise ValueError(f'--model {model}: expected one of {names}, or a name of `jeffnet models "keras_*"`')
    return [known[model.lower()]]


def translate(info: ModelInfo, weights: Path | None, output: Path, classes: int | None) -> list[str]:
    """Writes one model; returns what was done, in lines for people."""
    path = weights or source.pinned(info)
    if not path.exists():
        raise FileNotFoundError(f'--weights {path}: there is no such file')
    file = files.read(path)
    with Incomplete():
        module, variables = jeffnet.create_model(info.name, weights=path, num_classes=classes)
    output.parent.mkdir(parents=True, exist_ok=True)
    written = jeffnet.save_weights(module, output, variables)
    count = len(jeffnet.flat_variables(variables))
    layers = len(keras_names.grouped(file.arrays)) if file.layout.startswith('keras') else count
    lines = [
        f'{info.name} ({info.keras}): {len(file.arrays)} tensors of {layers} layers in {path}',
        f'  {count} arrays of the network filled, each once; none missing, none left over',
    ]
    if file.layout.startswith('keras'):
        lines.append(f'  {origin(info, path)}')
    lines += [
        f'  images: {json.dumps(prepared(info))}',
        "  output: logits; Keras' own head ends in a softmax unless classifier_activation=None",
        f'  written to {written}',
    ]
    return lines


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
