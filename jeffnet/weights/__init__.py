"""Weights: from files and the hub into flat variables and back, strict about names and shapes.

- `files`: formats on disk; `sources`: where a file comes from; `names`: timm's names and layouts into ours.
- `merge`: the strict merge, and the adaptations that `num_classes` and `in_chans` ask for.
- `checkpoint`: our own folders.
"""

from jeffnet.weights.checkpoint import read_config, save
from jeffnet.weights.merge import load

__all__ = ['load', 'read_config', 'save']
