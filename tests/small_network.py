"""A network of four convolutions that stands in for MobileNetV2 where its answers do not matter.

It has what the code round a network relies on: features by name, batch norm, a depthwise
convolution, a dropout, and a last 1x1 convolution. As a command, `python -m tests.small_network`,
this is the further training process `wsseg.train.worker` with the small network.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from torch import Tensor, nn

from wsseg.train import networks, worker

WIDTH = 64


class _Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fine = _layer(3, stride=2)
        self.deep = nn.Sequential(_layer(WIDTH, groups=WIDTH), _layer(WIDTH, stride=2))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        fine = self.fine(image)
        return {"aux": fine, "out": self.deep(fine)}


class _Classifier(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(WIDTH, classes, 1))

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self.head(features["out"])
        return logits


def _layer(channels: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, WIDTH, 3, stride=stride, padding=1, groups=groups, bias=False),
        nn.BatchNorm2d(WIDTH),
        nn.ReLU6(),
    )


def _build(classes: int) -> tuple[nn.Module, nn.Module, int]:
    return _Backbone(), _Classifier(classes), WIDTH


@contextmanager
def small_network() -> Iterator[None]:
    """In here `mobilenet_v2` is the small network, in this process and not in those it starts."""
    with patch.dict(networks.BUILDERS, {"mobilenet_v2": _build}):
        yield


if __name__ == "__main__":
    with small_network():
        worker.main()
