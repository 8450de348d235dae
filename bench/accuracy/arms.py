"""The arms: what each run is told of its training images, and by which recipe it learns."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

Marks = Literal["masks", "drawn", "erode", "disc", "random-disc", "point"]
WORDS: dict[Marks, str] = {
    "masks": "full masks",
    "drawn": "scribbles drawn by hand",
    "erode": "eroded",
    "disc": "centre disc",
    "random-disc": "random disc",
    "point": "one point",
}


REMOVED: Mapping[str, Mapping[str, Any]] = {
    "self-training": {"self_training": {"rounds": 0}},
    "size": {"terms": [{"kind": "target_cross_entropy"}, {"kind": "target_dice"}]},
    "dice": {"terms": [{"kind": "target_cross_entropy"}, {"kind": "size_kl"}]},
    "guess": {"localise_from_area": False},
    "repeats": {"self_training": {"located": 0.0, "located_later": 0.0}},
}
"""Settings that take one part away from the method, for the ablation."""
TAUGHT = "wsseg-8"
"""The arm whose runs are teachers."""


@dataclass(frozen=True)
class Arm:
    """Supervision and recipe of a run.

    marks: full masks, scribbles of the data set, or a kind that `wsseg marks` simulates. percent:
    of each region. share: percent of the training images that are marked; all have their ratio.
    ratio_noise: largest error of a ratio, percent of it. without: the part of the method that is
    taken away, of REMOVED. teacher: a network whose run of the arm TAUGHT teaches this one.
    """

    preset: str
    marks: Marks
    percent: float | None = None
    share: float = 100.0
    ratio_noise: float = 0.0
    without: str = ""
    teacher: str = ""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Training settings of this arm alone."""
        return REMOVED[self.without] if self.without else {}

    @property
    def words(self) -> str:
        """The marks, as a table shows them."""
        if not self.share:
            return "none"
        removed = f", without {self.without}" if self.without else ""
        few = "" if self.share == 100 else f" on {self.share:g} % of the images"
        taught = f", taught by {self.teacher}" if self.teacher else ""
        noisy = f", ratios +-{self.ratio_noise:g} %" if self.ratio_noise else ""
        return WORDS[self.marks] + few + noisy + removed + taught


ARMS = {
    "size-only": Arm("paper-size-only", "erode", share=0.0),
    "mark-only": Arm("paper-mark-only", "erode", 8.0),
    "paper-4": Arm("paper", "erode", 4.0),
    "paper-8": Arm("paper", "erode", 8.0),
    "paper-12": Arm("paper", "erode", 12.0),
    "wsseg-4": Arm("wsseg", "erode", 4.0),
    "wsseg-8": Arm("wsseg", "erode", 8.0),
    "wsseg-8-student": Arm("wsseg", "erode", 8.0, teacher="resnet50"),
    "wsseg-12": Arm("wsseg", "erode", 12.0),
    "wsseg-disc-8": Arm("wsseg", "disc", 8.0),
    "wsseg-random-disc-8": Arm("wsseg", "random-disc", 8.0),
    "wsseg-point": Arm("wsseg", "point"),
    "wsseg-noise-10": Arm("wsseg", "erode", 8.0, ratio_noise=10.0),
    "wsseg-noise-20": Arm("wsseg", "erode", 8.0, ratio_noise=20.0),
    "wsseg-share-25": Arm("wsseg", "erode", 8.0, share=25.0),
    "wsseg-share-10": Arm("wsseg", "erode", 8.0, share=10.0),
    "wsseg-share-5": Arm("wsseg", "erode", 8.0, share=5.0),
    "wsseg-share-0": Arm("wsseg", "erode", share=0.0),
    "wsseg-share-25-disc": Arm("wsseg", "disc", 8.0, share=25.0),
    "wsseg-share-10-disc": Arm("wsseg", "disc", 8.0, share=10.0),
    "wsseg-share-5-disc": Arm("wsseg", "disc", 8.0, share=5.0),
    "wsseg-scribble": Arm("wsseg", "drawn"),
    "full": Arm("full", "masks"),
    # Full masks by our own recipe: what of `full` is its harder borders and its start.
    "wsseg-masks": Arm("wsseg", "masks"),
}
ABLATED = ("wsseg-8", "wsseg-disc-8", "wsseg-share-10")
ARMS |= {
    f"{name}-no-{part}": replace(ARMS[name], without=part)
    for name, part in product(ABLATED, REMOVED)
    # Where every image is marked, none is guessed at or repeated.
    if part not in {"guess", "repeats"} or ARMS[name].share < 100
}
MAIN = (
    "full",
    "wsseg-8",
    "paper-8",
    "wsseg-disc-8",
    "wsseg-share-10",
    "wsseg-share-0",
    "wsseg-scribble",
)
"""What a data set gets first: the question of the paper, and how far less supervision goes."""
