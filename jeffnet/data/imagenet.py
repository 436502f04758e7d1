"""Facts of ImageNet-1k: class order, names, the subsets that ImageNet-A and -R use, and the ReaL labels.

The tables are the text files beside this one, in class order. Ids and names are WordNet's: the first synonym, with a
word in brackets where two classes would share a name. The subsets are those of their authors' evaluation scripts: the
1000 outputs of a model are reduced to `subset` before accuracy is counted.
"""

import json
import os
import re
from functools import cache
from pathlib import Path

from jeffnet.data.source import DataError

FOLDER = Path(__file__).parent
SUBSETS = {'imagenet-a': 'imagenet_a.txt', 'imagenet-r': 'imagenet_r.txt'}
VALIDATION_IMAGES = 50_000
# Hugging Face's copy has the class's id behind the number; a converted copy may have another extension.
VALIDATION_NAME = re.compile(r'(?:.*[/\\])?ILSVRC2012_val_([0-9]{8})(?:_n[0-9]{8})?\.[A-Za-z]+')


@cache
def _classes() -> tuple[tuple[str, str], ...]:
    """(WordNet id, name) of each class."""
    lines = (FOLDER / 'imagenet_classes.txt').read_text(encoding='utf-8').splitlines()
    return tuple((wordnet_id, name) for wordnet_id, name in (line.split('\t') for line in lines))


def synsets() -> list[str]:
    """The 1000 WordNet ids in class order, such as 'n01440764'."""
    return [wordnet_id for wordnet_id, _ in _classes()]


def class_names() -> list[str]:
    """The 1000 class names in class order, such as 'tench'; no name occurs twice."""
    return [name for _, name in _classes()]


def subset(name: str) -> list[int]:
    """The class indices, ascending, that occur in 'imagenet-a' or 'imagenet-r'; ValueError for another name."""
    if name not in SUBSETS:
        raise ValueError(f'subset is {name!r}; allowed: {", ".join(SUBSETS)}')
    index = {wordnet_id: number for number, wordnet_id in enumerate(synsets())}
    return [index[wordnet_id] for wordnet_id in (FOLDER / SUBSETS[name]).read_text(encoding='utf-8').split()]


def real_labels(path: str | os.PathLike) -> list[list[int]]:
    """The ImageNet-ReaL labels of each validation image by file number - 1: none, one or several (arXiv:2006.07159).

    Raises FileNotFoundError for a missing file, DataError for one that is not in the form of real.json.
    """
    where = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f'{where}: no such file; give real.json of github.com/google-research/reassessed-imagenet'
        )
    try:
        labels = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f'{where}: cannot be read as JSON ({error}); get real.json anew') from error
    if not isinstance(labels, list) or not 0 < len(labels) <= VALIDATION_IMAGES:
        found = f'{len(labels)} entries' if isinstance(labels, list) else f'a {type(labels).__name__}'
        raise DataError(f'{where}: has {found}; expected a list with one list of labels for each validation image')
    for number, entry in enumerate(labels, 1):
        if not isinstance(entry, list) or not all(_is_label(label) for label in entry):
            shown = json.dumps(entry)[:80]
            raise DataError(f'{where}: entry {number} is {shown}; expected a list of class numbers from 0 to 999')
    return labels


def _is_label(value: object) -> bool:
    return type(value) is int and 0 <= value < len(_classes())  # JSON's true is an int for isinstance


def validation_number(name: str) -> int | None:
    """The number in the file name of a validation image, 'x/ILSVRC2012_val_00000293.JPEG' -> 293; else None."""
    match = VALIDATION_NAME.fullmatch(name)
    number = int(match[1]) if match else 0
    return number if 1 <= number <= VALIDATION_IMAGES else None
