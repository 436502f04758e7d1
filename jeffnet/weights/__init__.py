"""Weights: from files and the hub into flat variables and back, strict about names and shapes.

- `source`: from what the caller names to a path; `hub`: the Hugging Face hub; `checkpoint`: folders with `config.json`.
- `files`: formats on disk (`torch_file`, `tf_checkpoint`) into arrays that are read when needed (`stored`).
- `names`: other people's names and layouts into ours and back; `recognise`: which network a file is of.
- `merge`: the strict merge; `adapt`: other numbers of channels, other image sizes.
- `export`: files and repositories in timm's layout. `python -m jeffnet.weights` inspects, converts, verifies and
  downloads; `judges` are the reference implementations that it compares with.
"""

from jeffnet.weights.checkpoint import read_config, save
from jeffnet.weights.export import push_to_hub, save_weights
from jeffnet.weights.merge import Incomplete, load
from jeffnet.weights.source import locate

__all__ = ['Incomplete', 'load', 'locate', 'push_to_hub', 'read_config', 'save', 'save_weights']
