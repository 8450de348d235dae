"""What kind of marks to simulate, and on which cases."""

from dataclasses import dataclass
from typing import Literal, get_args

from wsseg.imaging.errors import WssegError

Kind = Literal[
    "erode",
    "disc",
    "random-disc",
    "point",
    "random-point",
    "scribble",
    "box",
    "extremes",
    "moments",
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class MarkOptions:
    """Settings of a simulation besides how much of a region is marked.

    per_component: every connected part of a region gets a mark of its own; boxes, extreme points
    and moments describe the whole region always. share: percent of the cases, whole groups of
    them, that are marked; the others stay as they are. ratio_noise: largest error of a
    ratio, in percent of it. seed: of all that is drawn by chance. WssegError outside 0..100.
    """

    kind: Kind = "erode"
    per_component: bool = False
    share: float = 100.0
    ratio_noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, percent in (("share", self.share), ("ratio noise", self.ratio_noise)):
            if not 0 <= percent <= 100:
                raise WssegError(f"a {name} of {percent:g} percent: give 0 to 100")
