"""Work ahead of the consumer in threads, in order, within a bound on memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
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
) -> Iterator[B]:
    """map(work, items), in order, with `work` running in threads ahead of the consumer.

    `weigh` gives the bytes of a result, and for an item whose result is not there yet an estimate.
    `items` is drawn in the consumer's thread. What `work` raises is raised in the item's turn.
    Closing the generator cancels what has not begun.
    """
    source = iter(items)
    pending: deque[_Ahead[A, B]] = deque()
    pool = ThreadPoolExecutor(room.threads, thread_name_prefix="wsseg")
    try:
        drained = False
        while pending or not drained:
            while not drained and _has_room(pending, room, weigh):
                drained = True
                for item in source:
                    pending.append(_Ahead(item, pool.submit(work, item)))
                    drained = False
                    break
            if pending:
                yield pending.popleft().result.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _has_room(
    pending: deque[_Ahead[A, B]], room: Room, weigh: Callable[[A | B], int]
) -> bool:
    if len(pending) < 1:
        return True
    return len(pending) < room.results and sum(p.nbytes(weigh) for p in pending) < room.nbytes
