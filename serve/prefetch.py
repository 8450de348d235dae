"""Work ahead of the consumer in threads, in order, within a bound on memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Room:
    """How far to work ahead: threads, results at most, and bytes at which no more is begun.

    One result is always worked on, however large; with it, memory stays below `nbytes` plus one
    result for each thread.
    """

    threads: int = 4
    results: int = 32
    nbytes: int = 1 << 30


@dataclass(frozen=True)
class _Ahead(Generic[A, B]):
    item: A
    result: Future[B]

    def nbytes(self, weigh: Callable[[A | B], int]) -> int:
        if self.result.done() and not self.result.exception():
            return weigh(self.result.result())
        return weigh(self.item)


def ahead(
    work: Callable[[A], B], items: Iterable[A], room: Room, weigh: Callable[[A | B], int]
) -> Generator[B, None, None]:
    """map(work, items), in order, with `work` running in threads ahead of the consumer.

    `weigh` gives the bytes of a result, and for an item whose result is not there yet an estimate.
    `items` is drawn in the consumer's thread. What `work` raises is raised in the item's turn.
    Closing the generator cancels what has not begun.
    """
    source = iter(items)
    pending: deque[_Ahead[A, B]] = deque()
    ready: list[B] = []  # emptied as it is handed over: a result must not live on in this frame
    with ThreadPoolExecutor(room.threads, thread_name_prefix="wsseg") as pool:

        def fill() -> None:
            while _has_room(pending, room, weigh):
                for item in source:
                    pending.append(_Ahead(item, pool.submit(work, item)))
                    break
                else:
                    return

        try:
            fill()
            while pending:
                ready.append(pending.popleft().result.result())
                fill()
                yield ready.pop()
        finally:
            for waiting in pending:
                waiting.result.cancel()


def _has_room(pending: deque[_Ahead[A, B]], room: Room, weigh: Callable[[A | B], int]) -> bool:
    if not pending:
        return True
    return len(pending) < room.results and sum(p.nbytes(weigh) for p in pending) < room.nbytes
