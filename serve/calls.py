"""The engine at work in threads of its own, while the rest goes on."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsseg.serve.channels import to_channels
from wsseg.serve.engine import Engine, Prediction, calls_at_once
from wsseg.serve.jobs import Place, Slot

Answered = tuple[Prediction, NDArray[np.float32] | None]
"""A prediction, and the probability it was cut from where that was asked for."""


@dataclass(frozen=True)
class Call:
    """A batch (n, c, H, W) that the engine was given, with a slot for each of its slices."""

    slots: list[Slot]
    pixels: NDArray[np.float32]
    answer: Future[Answered]

    def part(self, start: int, stop: int) -> tuple[list[Slot], NDArray[np.float32]]:
        """Some of the batch: slots that a scan still waits for, and their pixels."""
        chosen = [place for place in range(start, stop) if self.slots[place].wanted]
        return [self.slots[place] for place in chosen], self.pixels[chosen]


class Calls:
    """Calls of an engine, in the order in which they are made, as many at once as it takes."""

    def __init__(self, engine: Engine, channels: int) -> None:
        self._engine = engine
        self._channels = channels
        self.at_once = calls_at_once(engine)
        self._threads = ThreadPoolExecutor(self.at_once, thread_name_prefix="wsseg-engine")

    def make(self, slots: list[Slot]) -> Call:
        """Ask for the answers of slots; one call begins when an earlier one ends."""
        return self.again(slots, self._stacked([slot.places[0] for slot in slots]))

    def again(self, slots: list[Slot], pixels: NDArray[np.float32]) -> Call:
        """The same, for slots whose pixels are stacked already."""
        known = any(slot.known for slot in slots)
        for slot in slots:
            slot.sent = True
        return Call(slots, pixels, self._threads.submit(self._run, pixels, known=known))

    def probability(self, place: Place) -> NDArray[np.float32]:
        """The probability (k, H, W) of one slice, waited for; raises what the engine raises."""
        answer = self._threads.submit(self._run, self._stacked([place]), known=True).result()
        if answer[1] is None:
            raise AssertionError("the engine was asked for its probability")
        probability: NDArray[np.float32] = answer[1][0]
        return probability

    def close(self) -> None:
        """Begin no further call, and wait for those that were begun."""
        self._threads.shutdown(cancel_futures=True)

    def _run(self, pixels: NDArray[np.float32], *, known: bool) -> Answered:
        return self._engine.with_probability(pixels) if known else (self._engine(pixels), None)

    def _stacked(self, places: list[Place]) -> NDArray[np.float32]:
        return np.stack(
            [to_channels(job.found.scan.pixels[index], self._channels) for job, index in places]
        )
