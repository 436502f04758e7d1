"""What a model said of every image of a set, and the figures that follow from it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

SKIPPED = -1  # label of an image that could not be read


@dataclass
class Outcome:
    """The answers of a model in the order of the set, whatever the batches were; `label` -1 marks images not read."""

    label: np.ndarray  # int32 [N]
    top: np.ndarray  # int32 [N, K] the K most likely classes, the likeliest first; -1 if the logits hold a NaN
    confidence: np.ndarray  # float32 [N] softmax share of the likeliest class
    loss: np.ndarray  # float32 [N] cross entropy in nats

    @classmethod
    def empty(cls, size: int, top: int) -> 'Outcome':
        """Room for the answers on `size` images."""
        whole = np.full(size, SKIPPED, np.int32)
        return cls(whole, np.full((size, top), -1, np.int32), np.zeros(size, np.float32), np.zeros(size, np.float32))

    def __len__(self) -> int:
        return len(self.label)

    @property
    def read(self) -> np.ndarray:
        """Which images were read, bool [N]."""
        return self.label != SKIPPED

    def hits(self, count: int) -> np.ndarray:
        """Whether the label is among the `count` likeliest classes, bool [N]."""
        return self.read & (self.top[:, :count] == self.label[:, None]).any(axis=1)

    def figures(self) -> dict[str, float]:
        """Images, top-1 and top-5 (percent), mean loss (nats); sums are exact, so that no order or split changes them.

        Of no images, NaN.
        """
        return shares(self.read, self.hits(1), self.hits(5), self.loss)

    def real_figures(self, real: list[list[int]]) -> dict[str, float]:
        """The same under several right labels for each image, one to be met; images without any are left out.

        Beyer et al. 2020 (arXiv:2006.07159). The loss stays that of the original label.
        """
        counted = self.read & np.array([bool(labels) for labels in real])
        met = np.array([np.isin(top, labels) for top, labels in zip(self.top, real, strict=True)])
        return shares(counted, met[:, 0], np.any(met[:, :5], axis=1), self.loss)


def shares(counted: np.ndarray, top1: Any, top5: Any, loss: np.ndarray) -> dict[str, float]:
    """Figures over the images that count."""
    images = int(counted.sum())
    nothing = float('nan')
    return {
        'images': images,
        'top1': 100 * int((top1 & counted).sum()) / images if images else nothing,
        'top5': 100 * int((top5 & counted).sum()) / images if images else nothing,
        'loss': math.fsum(loss[counted].astype(float)) / images if images else nothing,
    }
