"""Reading images: preprocessing as data, sets of images, the data order, and two readers with the same two functions.

Sets are class folders, tar archives, Hugging Face datasets (`Source`), TFDS sets and TFRecord files (`Stream`);
`jeffnet.data.opening` finds out which.

`jeffnet.data.tf` reads with tf.data, `jeffnet.data.pt` with PyTorch's DataLoader and Pillow. Neither is imported here:
a process loads only the reader it uses, since TensorFlow followed by torchvision aborts the process.
"""

import importlib
from types import ModuleType

from jeffnet.data.folder import ClassFolder as ClassFolder
from jeffnet.data.folder import DataError as DataError
from jeffnet.data.preprocessing import Augmentation as Augmentation
from jeffnet.data.preprocessing import Preprocessing as Preprocessing

EXTRAS = {'tf': 'tf', 'pt': 'torch'}  # of pyproject.toml, by pipeline


def import_reader(pipeline: str) -> ModuleType:
    """The module `jeffnet.data.tf` or `jeffnet.data.pt`."""
    if pipeline not in EXTRAS:
        raise ValueError(f'pipeline is {pipeline!r}; allowed: {", ".join(EXTRAS)}')
    try:
        return importlib.import_module(f'jeffnet.data.{pipeline}')
    except ModuleNotFoundError as error:
        (other,) = EXTRAS.keys() - {pipeline}
        needed = f'pip install "jeffnet[{EXTRAS[pipeline]}]", or take the {other} reader (jeffnet[{EXTRAS[other]}])'
        raise ValueError(f'the {pipeline} reader needs {error.name}, which is not installed: {needed}') from error
