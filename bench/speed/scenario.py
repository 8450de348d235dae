"""What a scenario is: where it measures, who takes part there, and what is compared."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from bench.speed.contest import Entrant, EntrantError, Measure, Turn, contest, rate
from bench.speed.results import Place, Row
from bench.speed.setting import Setting


@dataclass(frozen=True)
class Candidate:
    """An entrant that may turn out not to run here.

    ready: gets it ready and returns its turns, or raises EntrantError; what it opens goes on the
    stack, which is closed after the last round.
    """

    what: str
    precision: str
    size: int
    batch: int
    ready: Callable[[ExitStack], Callable[[], Turn]]
    peers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scenario:
    """One table of the report. unit: of its rates, for people."""

    name: str
    title: str
    unit: str
    words: str
    places: Callable[[Setting], list[Place]]
    candidates: Callable[[Setting, Place], list[Candidate]]
    rounds: Callable[[Setting], int]
    measure: Measure = rate

    def measured(self, setting: Setting, place: Place) -> list[Row]:
        """The rows of a place; who cannot take part is told and left out."""
        with ExitStack() as stack:
            entrants = []
            for candidate in self.candidates(setting, place):
                entrant = _entrant(candidate, stack)
                entrants += [entrant] if entrant else []
            rounds = self.rounds(setting)
            return contest(self.name, entrants, rounds, measure=self.measure)


def _entrant(candidate: Candidate, stack: ExitStack) -> Entrant | None:
    title = f"{candidate.what} {candidate.precision}".strip()
    try:
        turn = candidate.ready(stack)
    except EntrantError as error:
        print(f"  without {title}: {error}", flush=True)
        return None
    print(f"  with {title}", flush=True)
    return Entrant(
        candidate.what,
        candidate.precision,
        candidate.size,
        candidate.batch,
        turn,
        candidate.peers,
    )


def fixed(turn: Callable[[], Turn]) -> Callable[[ExitStack], Callable[[], Turn]]:
    """For an entrant that needs no preparation."""
    return lambda _: turn
