"""What all networks share: classes and channels, feature maps, and the classifier behind the pooled features."""

from collections.abc import Callable
from dataclasses import field
from typing import Any, ClassVar

from jeffnet.core import initial
from jeffnet.core.block import Block
from jeffnet.core.layers import Dropout, Linear, at_least_float32
from jeffnet.core.pooling import global_avg_pool


class Network(Block):
    """Base class of all networks; its fields are keywords of `jeffnet.create_model`.

    A network fills `levels` and ends its `__call__` in `finish`.
    """

    classifier_name: ClassVar[str] = 'fc'  # flat names, timm's, of the last linear layer
    first_conv: ClassVar[str]  # and of the convolution that reads the image

    num_classes: int = field(default=1000, kw_only=True)  # 0: the final feature map; -1: all but the classifier
    in_chans: int = field(default=3, kw_only=True)
    out_indices: tuple[int, ...] | None = field(default=None, kw_only=True)  # return these of `levels` instead
    drop_rate: float = field(default=0.0, kw_only=True)  # of the dropout before the classifier
    variant: str | None = field(default=None, repr=False, compare=False, kw_only=True)  # its name in the table

    def setup_classifier(self, features: int, kernel_init: Callable, bias_init: Callable = initial.zeros):
        """Declares dropout and the classifier where logits are asked for; to be called in `setup`."""
        if self.ends_in_logits:
            self.dropout = Dropout(self.drop_rate)
            layer = Linear(features, self.num_classes, kernel_init=kernel_init, bias_init=bias_init)
            setattr(self, self.classifier_name, layer)

    def finish(self, maps: list, training: bool = False):
        """From the feature maps of all `levels` to what was asked for: some of them, or what follows the last."""
        if self.out_indices is not None:
            return [maps[i] for i in self.out_indices]
        return self.forward_head(maps[-1], training)

    def forward_head(self, x, training=False):
        """From the last feature map `[N, h, w, C]` to logits `[N, num_classes]`, or what `num_classes` asks for."""
        return x if self.num_classes == 0 else self.classify(global_avg_pool(x), training)

    def classify(self, x, training=False):
        """From pooled features `[N, features]` to logits of at least float32."""
        if self.num_classes > 0:
            x = self.logits(x, training)
        return x.astype(at_least_float32(x.dtype))

    def logits(self, x, training=False):
        """Dropout and the classifier."""
        return getattr(self, self.classifier_name)(self.dropout(x, training))

    @property
    def ends_in_logits(self) -> bool:
        """Whether the classifier is part of the network."""
        return self.out_indices is None and self.num_classes > 0

    @property
    def levels(self) -> list[dict[str, Any]]:
        """For each feature map: stage (0 is a stem), channels, total stride, and timm's module name."""
        raise NotImplementedError

    @property
    def feature_info(self) -> tuple[dict[str, Any], ...]:
        """The entries of `levels` for the feature maps that are returned."""
        return tuple(self.levels if self.out_indices is None else (self.levels[i] for i in self.out_indices))


class ClassifierHead(Block):
    """Dropout and classifier, where timm has them in a module of their own."""

    features: int
    num_classes: int
    drop_rate: float
    kernel_init: Callable
    bias_init: Callable = initial.zeros

    def setup(self):
        self.dropout = Dropout(self.drop_rate)
        options = {'kernel_init': self.kernel_init, 'bias_init': self.bias_init}
        self.fc = Linear(self.features, self.num_classes, **options)

    def __call__(self, x, training=False):  # [N, features]
        return self.fc(self.dropout(x, training))


def level(stage: int, channels: int, reduction: int, module: str) -> dict[str, Any]:
    """An entry of `Network.levels`."""
    return {'stage': stage, 'num_chs': channels, 'reduction': reduction, 'module': module}
