"""How much is measured, and where things lie."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wsseg.train.config import NetworkName


@dataclass(frozen=True)
class Scale:
    """Sizes of everything. rounds: of engines; command_rounds: of whole commands; memory_rounds:
    of those whose memory is compared, which varies little.

    batches: by the size of the network's input, on a CPU; a GPU takes all of any size at both.
    series, slices: of the folder that the whole command measures. alone: batches that its engine
    does alone in a round. peer_slices: of the one series that peers get. memory_series: folders of
    so many series, of memory_slices each. training: images of a step.
    """

    rounds: int = 3
    command_rounds: int = 3
    memory_rounds: int = 1
    batches: tuple[tuple[int, tuple[int, ...]], ...] = ((256, (1, 8, 32)), (512, (1, 8)))
    series: int = 20
    slices: int = 100
    alone: int = 25
    peer_slices: int = 20
    memory_series: tuple[int, ...] = (10, 100, 1000)
    memory_slices: int = 2
    training: int = 8

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the network's input, the smaller first."""
        return tuple(size for size, _ in self.batches)


SCALES = {
    "full": Scale(),
    # Proves that everything runs; its figures mean little.
    "quick": Scale(
        rounds=2,
        command_rounds=1,
        batches=((256, (1,)), (512, (1,))),
        series=2,
        slices=5,
        alone=1,
        peer_slices=2,
        memory_series=(1, 2, 4),
        memory_slices=2,
        training=2,
    ),
}

NETWORK: NetworkName = "resnet50"
STUDENT: NetworkName = "mobilenet_v2"


@dataclass(frozen=True)
class Setting:
    """data: folder of scans to make series from, None for the template that nilearn ships.

    work: where series and models are made, and kept for a rerun. peers: folder of the peers'
    environments. device: cpu or cuda. trained: finished runs whose weights are taken; networks
    without one get random weights. calibration: images for INT8 that are like those of these runs,
    None for the series that are made.
    """

    scale: Scale
    data: Path | None
    work: Path
    peers: Path
    device: str
    trained: Mapping[NetworkName, Path] = field(default_factory=dict)
    calibration: Path | None = None
