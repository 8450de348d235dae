"""Entrants take turns; rates are medians, ratios come from turns of the same round."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bench.speed.results import Row
from wsseg.imaging.errors import WssegError
from wsseg.serve.engines.benchmark import interleaved, paired_ratio


class EntrantError(WssegError):
    """Something that cannot take part on this machine; the others can."""


@dataclass(frozen=True)
class Turn:
    """What one turn did: a number of slices, files or images, in so many seconds.

    peak_mb: peak memory of its process so far, 10**6 bytes. inside: seconds of them in the network
    alone, where a whole command tells.
    """

    count: float
    seconds: float
    peak_mb: float | None = None
    inside: float | None = None


@dataclass(frozen=True)
class Entrant:
    """Something that takes turns. peers: titles of other entrants that it is compared to."""

    what: str
    precision: str
    size: int
    batch: int
    turn: Callable[[], Turn]
    peers: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """How rows and other entrants call it."""
        return f"{self.what} {self.precision}".strip()


def rate(turn: Turn) -> float:
    """Slices, files or images a second."""
    return turn.count / turn.seconds


def memory(turn: Turn) -> float:
    """Peak memory."""
    if turn.peak_mb is None:
        raise AssertionError("memory was measured")
    return turn.peak_mb


Measure = Callable[[Turn], float]


def contest(
    scenario: str, entrants: Sequence[Entrant], rounds: int, *, measure: Measure = rate
) -> list[Row]:
    """Let all take turns; a row for every entrant and peer of it that takes part.

    measure: what is compared. A peer of the entrant's own size goes before one of another size.
    One that fails in a turn is told and left out: hours of the others' turns stand. EntrantError
    where all fail.
    """
    keys = {(entrant.title, entrant.size): entrant for entrant in entrants}
    if len(keys) != len(entrants):
        raise AssertionError("entrants of one size need titles of their own")
    taken = interleaved({key: _lenient(entrant) for key, entrant in keys.items()}, rounds)
    turns = {key: sound for key, own in taken.items() if (sound := _complete(own))}
    keys = {key: keys[key] for key in turns}
    if not keys:
        raise EntrantError(f"nothing of {scenario} could be measured")
    rows: list[Row] = []
    for key, entrant in keys.items():
        own = turns[key]
        alone = _row(scenario, entrant, own)
        peers = [found for peer in entrant.peers if (found := _find(peer, entrant.size, keys))]
        rows += [_compared(alone, own, p[0], turns[p], measure) for p in peers] or [alone]
        rows += _inside(alone, own)
    return rows


def _lenient(entrant: Entrant) -> Callable[[], Turn | None]:
    """The entrant's turns until one fails, None from then on."""
    failed = False

    def turn() -> Turn | None:
        nonlocal failed
        try:
            return None if failed else entrant.turn()
        except EntrantError as error:
            print(f"  {entrant.title} gave up: {error}", flush=True)
            failed = True
            return None

    return turn


def _complete(turns: Sequence[Turn | None]) -> list[Turn] | None:
    """The turns, if none is missing."""
    sound = [turn for turn in turns if turn is not None]
    return sound if len(sound) == len(turns) else None


def _row(scenario: str, entrant: Entrant, turns: Sequence[Turn]) -> Row:
    peaks = [turn.peak_mb for turn in turns if turn.peak_mb is not None]
    return Row(
        scenario=scenario,
        what=entrant.what,
        precision=entrant.precision,
        size=entrant.size,
        batch=entrant.batch,
        per_second=statistics.median(map(rate, turns)),
        peak_mb=max(peaks, default=None),
        rounds=len(turns),
    )


def _compared(
    row: Row, own: Sequence[Turn], peer: str, others: Sequence[Turn], measure: Measure
) -> Row:
    above, below = list(map(measure, own)), list(map(measure, others))
    pairs = [one / other for one, other in zip(above, below, strict=True)]
    return replace(
        row,
        peer=peer,
        ratio=paired_ratio(above, below),
        ratio_low=min(pairs),
        ratio_high=max(pairs),
    )


def _inside(row: Row, turns: Sequence[Turn]) -> list[Row]:
    """A row for the network alone, where a whole command told its share."""
    inside = [turn.count / turn.inside for turn in turns if turn.inside]
    if not inside:
        return []
    what = f"{row.what}: its network alone"
    return [replace(row, what=what, per_second=statistics.median(inside), peak_mb=None)]


def _find(title: str, size: int, keys: dict[tuple[str, int], Entrant]) -> tuple[str, int] | None:
    """The entrant of that title, of this size if there is one."""
    if (title, size) in keys:
        return title, size
    return next((key for key in keys if key[0] == title), None)
