"""What the project means to reach on two CPU cores, and whether a machine's rows reach it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from bench.speed.against import NNUNET, NNUNET_ONCE
from bench.speed.commands import ALONE, BATCH, WHOLE
from bench.speed.networks import EAGER
from bench.speed.results import Row
from bench.speed.setting import NETWORK, STUDENT

PEAK_MB = 1500.0
Value = Callable[[Sequence[Row]], float | None]


@dataclass(frozen=True)
class Goal:
    """A bound of a figure: at least, or at most."""

    words: str
    bound: float
    value: Value
    at_most: bool = False

    def reached(self, value: float) -> bool:
        """Whether a measured value keeps to the bound."""
        return value <= self.bound if self.at_most else value >= self.bound


def fastest(
    scenario: str, what: str, peer: str, *, size: int, precision: str = ".*", batch: int = 0
) -> Value:
    """The best ratio to a peer among the rows whose names fit; patterns fit as a whole.

    batch: 0 for any.
    """

    def value(rows: Sequence[Row]) -> float | None:
        ratios = [
            row.ratio
            for row in rows
            if row.scenario == scenario and row.size == size and row.ratio is not None
            if row.batch == batch or not batch
            if re.fullmatch(what, row.what) and re.fullmatch(peer, row.peer)
            if re.fullmatch(precision, row.precision)
        ]
        return max(ratios, default=None)

    return value


def slower(rows: Sequence[Row]) -> float | None:
    """Time of the whole command over its engine's alone."""
    ratio = fastest("whole", WHOLE, f"{ALONE} .*", size=256)(rows)
    return 1 / ratio if ratio else None


def growth(rows: Sequence[Row]) -> float | None:
    """Peak memory with most series over that with the fewest."""
    most = _most_series(rows)
    return most.ratio if most else None


def peak(rows: Sequence[Row]) -> float | None:
    """Peak memory with most series."""
    most = _most_series(rows)
    return most.peak_mb if most else None


def _most_series(rows: Sequence[Row]) -> Row | None:
    found = [row for row in rows if row.scenario == "memory"]
    return max(found, key=lambda row: int(row.what.split()[0]), default=None)


_ENGINE = f"{NETWORK} (onnxruntime|openvino)"
_INT8 = "(onnxruntime|openvino) int8"
_PEERS = tuple(f"{name} fp32" for name in (NNUNET_ONCE, NNUNET))


def _engines(batch: int, words: str) -> tuple[Goal, Goal, Goal]:
    """What engines are meant to reach in batches of one size."""
    eager = f"{NETWORK} {EAGER} fp32"
    best = partial(fastest, "engines", size=256, batch=batch)
    return (
        Goal(f"best engine, {words}: speed over eager PyTorch in fp32", 7,
             best(_ENGINE, eager)),
        Goal(f"ONNX Runtime in INT8, {words}: speed over eager PyTorch in fp32", 5,
             best(f"{NETWORK} onnxruntime", eager, precision="int8")),
        Goal(f"student, {words}: speed over ResNet-50 in INT8 by the same runtime", 4,
             best(f"{STUDENT} .*", f"{NETWORK} {_INT8}")),
    )  # fmt: skip


GOALS = (
    *_engines(1, "one slice"),
    *_engines(BATCH, f"batches of {BATCH}"),
    Goal("whole command, time over its engine's alone", 1.10, slower, at_most=True),
    Goal("size 256, speed over nnU-Net without mirroring", 15,
         fastest("peers", WHOLE, _PEERS[0], size=256)),
    Goal("size 256, speed over nnU-Net", 50, fastest("peers", WHOLE, _PEERS[1], size=256)),
    Goal("size 512, speed over nnU-Net without mirroring", 4,
         fastest("peers", WHOLE, _PEERS[0], size=512)),
    Goal("size 512, speed over nnU-Net", 15, fastest("peers", WHOLE, _PEERS[1], size=512)),
    Goal("memory with most series over that with fewest", 1.05, growth, at_most=True),
    Goal("peak memory, MB", PEAK_MB, peak, at_most=True),
)  # fmt: skip


def judged(rows: Sequence[Row]) -> list[tuple[Goal, float]]:
    """The goals that a machine's rows tell of, each with the measured value."""
    return [(goal, value) for goal in GOALS if (value := goal.value(rows)) is not None]
