"""When a series is complete: after a pause, or soon after the release of who sent it."""

import threading
import time
from dataclasses import dataclass, field


@dataclass
class _Series:
    """last: when its last instance came. senders: associations that sent it and are open.
    released: when the last of them was released; None if one is open, or ended otherwise. aborted:
    one ended otherwise, and none has begun to send the series since."""

    last: float
    senders: set[int] = field(default_factory=set)
    released: float | None = None
    aborted: bool = False


class Arrivals:
    """The series of the inbox, and when each of them is complete.

    DICOM does not say when a series is complete. A series is taken to be when no instance of it has
    come for `settle` seconds, or, after every association that sent it was released, for
    `settle_released` seconds. One that was aborted is no sign of an end: its sender will try again.
    """

    def __init__(self, settle: float, settle_released: float) -> None:
        self._settle = settle
        self._settle_released = settle_released
        self._series: dict[str, _Series] = {}
        self._lock = threading.Lock()

    def came(self, key: str, sender: int | None = None) -> None:
        """An instance of the series came; sender: by which association, if that is known."""
        now = time.monotonic()
        with self._lock:
            series = self._series.setdefault(key, _Series(now))
            series.last = now
            if sender is not None:
                if sender not in series.senders:
                    series.aborted = False
                series.senders.add(sender)
                series.released = None

    def ended(self, sender: int, *, released: bool) -> None:
        """An association ended; released: in good order."""
        now = time.monotonic()
        with self._lock:
            for series in self._series.values():
                if sender in series.senders:
                    series.senders.discard(sender)
                    series.aborted = series.aborted or not released
                    if not (series.senders or series.aborted):
                        series.released = now

    def complete(self) -> list[str]:
        """The series that are complete; they stay so until they are forgotten or grow."""
        now = time.monotonic()
        with self._lock:
            return [key for key, series in self._series.items() if self._is_complete(series, now)]

    def _is_complete(self, series: _Series, now: float) -> bool:
        if now - series.last >= self._settle:
            return True
        return series.released is not None and (
            now - max(series.released, series.last) >= self._settle_released
        )

    def forget(self, key: str) -> None:
        """The series was passed on."""
        with self._lock:
            self._series.pop(key, None)

    def __len__(self) -> int:
        """How many series are arriving."""
        return len(self._series)
