"""Folders that are looked at again and again: which files are complete, and what they gave."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from wsseg.imaging.discovery import list_files
from wsseg.imaging.errors import Failure
from wsseg.imaging.scan import FileRef

if TYPE_CHECKING:
    from wsseg.imaging.dicom import Header


@dataclass
class _File:
    """A file as it was seen. since: when it was first seen so, by `Watched.clock`.

    taken: it belongs to the files that are measured. headers: of a DICOM file that was read so.
    """

    seen: tuple[str | int, ...]
    since: float
    taken: bool = False
    headers: "list[Header] | Failure | None" = None


@dataclass
class Watched:
    """The files under folders, of which those are complete that did not change for a while.

    A file counts as complete when it has been seen twice, at least `settle` seconds apart, with the
    same size and time of change. The clocks of machines that share a folder have no part in it.
    """

    folders: tuple[Path, ...]
    settle: float
    clock: Callable[[], float] = time.monotonic
    _files: dict[str, _File] = field(default_factory=dict)
    _news: bool = True

    def look(self) -> float | None:
        """List all files; returns in how many seconds the next one may be complete, if one may."""
        now = self.clock()
        before, self._files = self._files, {}
        for item in (item for folder in self.folders for item in list_files(folder, "")):
            if isinstance(item, Failure):
                continue
            path = str(item.path)
            file = self._files.get(path) or before.pop(path, None)
            if file is None or file.seen != item.seen:
                self._news |= bool(file and file.taken)
                file = _File(item.seen, now)
            self._files[path] = file
        self._news |= any(file.taken for file in before.values())
        ages = [now - file.since for file in self._files.values() if not file.taken]
        self._news |= any(age >= self.settle for age in ages)
        waiting = [self.settle - age for age in ages if age < self.settle]
        return min(waiting, default=None)

    @property
    def has_news(self) -> bool:
        """Whether the files that are complete are others than those that were taken."""
        return self._news

    def take(self) -> None:
        """From now on, those files are measured that were complete at the last look."""
        now = self.clock()
        for file in self._files.values():
            file.taken = file.taken or now - file.since >= self.settle
        self._news = False

    def is_complete(self, file: FileRef) -> bool:
        """Whether a file is among those that were taken, and has not changed since."""
        known = self._files.get(str(file.path))
        return known is not None and known.taken and known.seen == file.seen

    def headers(self, file: FileRef) -> "list[Header] | Failure | None":
        """What `read_headers` gave for a file that has not changed since; None if it was not read.

        For a hundred thousand files, reading the headers would take minutes each time.
        """
        return self._files[str(file.path)].headers

    def remember(self, file: FileRef, headers: "list[Header] | Failure") -> None:
        """Keep what `read_headers` gave for a file, unless it was unpacked from an archive."""
        known = self._files.get(str(file.path))
        if known is not None and known.seen == file.seen:
            known.headers = headers
