"""The spool: what a node holds, as folders that pass from state to state by renaming.

    inbox -> ready -> measured -> returning -> done, or dead-letter

Each series is a folder with its instances, named by a digest of its UIDs. A rename is the one step
that changes its state, so that the process may end at any moment.
"""

import hashlib
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from wsseg.imaging.publishing import make_folder, sync
from wsseg.serve.node.durable import move_durably, write_durably

INSTANCES = "instances"
SERIES = "series.json"
REASON = "reason.json"
PARTIAL, RESULTS, DEAD = "partial", "results", "dead-letter"
UNMEASURED, UNRETURNED, LATE = "unmeasured", "unreturned", "late"
FULL_SPOOL, FULL_DISK = "the spool is full", "the disk is nearly full"
BLOCK = 4096
"""Smallest space that a file takes on most disks."""
GIB = 1 << 30

State = Literal["inbox", "ready", "measured", "returning", "done"]
STATES: tuple[State, ...] = ("inbox", "ready", "measured", "returning", "done")


def digest(*uids: str) -> str:
    """A name for files and folders, which is safe whatever the UIDs hold."""
    return hashlib.sha256("\0".join(uids).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def now_text() -> str:
    """The time, for people and programs."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Limits:
    """nbytes: of all instances that are held. free: of the disk, below which nothing is taken."""

    nbytes: int
    free: int


class Spool:
    """The folder of a node. Threads of associations store into it, one thread moves its series."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self.root = root.absolute()
        self.limits = limits
        self.nbytes = 0
        self._lock = threading.RLock()

    def open(self) -> None:
        """Make the folders, forget what was half received, and count what is held."""
        shutil.rmtree(self.root / PARTIAL, ignore_errors=True)
        for name in (PARTIAL, *STATES, RESULTS, DEAD):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for key in self.keys("inbox"):
            if not instances(self.folder("inbox", key)):  # ended before its first instance was in
                shutil.rmtree(self.folder("inbox", key), ignore_errors=True)
        sync(self.root)
        self.nbytes = sum(_nbytes(self.root / state) for state in STATES)

    def folder(self, state: State, key: str) -> Path:
        """The folder of a series in a state; it need not exist."""
        return self.root / state / key

    def keys(self, state: State) -> list[str]:
        """The series in a state, the oldest first."""
        found = []
        with os.scandir(self.root / state) as entries:
            for entry in entries:
                try:
                    found.append((entry.stat().st_mtime_ns, entry.name))
                except FileNotFoundError:  # it just moved on
                    continue
        return [name for _, name in sorted(found)]

    def count(self, name: str) -> int:
        """How many series are in a state; of `DEAD` how many series and objects were given up."""
        return sum(1 for _ in (self.root / name).iterdir())

    def scratch(self) -> Path:
        """A new name for something that is not whole yet, or not needed any more."""
        return self.root / PARTIAL / uuid.uuid4().hex

    def lacks(self) -> str:
        """Why nothing more can be accepted; "" if it can."""
        if self.nbytes >= self.limits.nbytes:
            return FULL_SPOOL
        if shutil.disk_usage(self.root).free < self.limits.free:
            return FULL_DISK
        return ""

    def store(self, file: Path, key: str, name: str) -> bool:
        """Take a whole and durable file into the inbox of its series; False if it is held already.

        From here on the instance survives a power cut.
        """
        folder = self.folder("inbox", key) / INSTANCES
        with self._lock:
            known = any((self.root / state / key / INSTANCES / name).exists() for state in STATES)
            with suppress(FileNotFoundError):  # the others may need it: it is kept from now on
                os.utime(self.folder("done", key))
            if not known:
                make_folder(folder)
                self.nbytes += _blocks(file.stat().st_size)
                file.rename(folder / name)
            if not folder.exists():  # it was stored, and passed on, before
                return False
            descriptor = os.open(folder, os.O_RDONLY)
        # Outside the lock, and by a descriptor: the folder may be renamed meanwhile. Also where the
        # instance was there: who stored it may not have come so far.
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return not known

    def complete(self, key: str) -> Literal["ready", "late", "busy", "empty"]:
        """Pass a series on from the inbox, with all instances that are still held of it.

        Nobody may be returning its results. "late": instances of it were removed after they had
        been measured and have not come again, so that it could only be measured in part; it stays.
        "busy": its results are not placed yet. "empty": there are no instances.
        """
        with self._lock:
            inbox = self.folder("inbox", key)
            if not instances(inbox):
                return "empty"
            if self.folder("measured", key).exists():
                return "busy"
            for source in (
                self.folder("ready", key),
                self.folder("returning", key),
                self.folder("done", key),
                self.root / DEAD / f"{UNMEASURED}-{key}",
            ):
                if source.exists():
                    self._gather(source / INSTANCES, inbox / INSTANCES)
                    self.discard(source)
            before = next((read_json(each / SERIES) for each in self.results(key)), {})
            known = before.get("instances", [])
            if isinstance(known, list) and set(known) - {each.name for each in instances(inbox)}:
                return "late"
            sync(inbox / INSTANCES)  # who stored the last one may not have come so far
            move_durably(inbox, self.folder("ready", key))
            return "ready"

    def _gather(self, source: Path, target: Path) -> None:
        for file in source.iterdir() if source.exists() else ():
            if not (target / file.name).exists():
                file.rename(target / file.name)
        sync(target)

    def move(self, key: str, before: State, after: State) -> Path:
        """Pass a series from one state to another; returns its folder."""
        target = self.folder(after, key)
        with self._lock:
            move_durably(self.folder(before, key), target)
        return target

    def bury(self, folder: Path, name: str, reason: str) -> Path:
        """Move a folder to the dead letters, with the reason; returns its new place."""
        write_durably(folder / REASON, _reason(reason))
        held = _nbytes(folder) if folder.parent.parent == self.root else 0
        target, count = self.root / DEAD / name, 1
        with self._lock:
            while target.exists():
                count += 1
                target = self.root / DEAD / f"{name}-{count}"
            move_durably(folder, target)
            self.nbytes -= held if folder.parent.name in STATES else 0
        return target

    def bury_result(self, file: Path, name: str, reason: str) -> None:
        """Move an object that could not be returned to the dead letters, with the reason.

        Its folder is made first, and found again if the process ends before the object is in it.
        """
        target, count = self.root / DEAD / name, 1
        while (target / file.name).exists():
            count += 1
            target = self.root / DEAD / f"{name}-{count}"
        make_folder(target)
        write_durably(target / REASON, _reason(reason))
        move_durably(file, target / file.name)

    def sweep(self, seconds: float) -> None:
        """Remove the series that have been done for so long."""
        for key in self.keys("done"):
            folder = self.folder("done", key)
            with self._lock:
                if time.time() - folder.stat().st_mtime >= seconds:
                    self.discard(folder)

    def discard(self, folder: Path) -> None:
        """Remove a folder: at once for everyone, and from the disk then."""
        scratch = self.scratch()
        with self._lock:
            held = _nbytes(folder) if folder.parent.name in STATES else 0
            folder.rename(scratch)
            self.nbytes -= held
        shutil.rmtree(scratch, ignore_errors=True)

    def results(self, key: str) -> Iterator[Path]:
        """The folders of results that a series has: one, or two if a new one is just coming."""
        for day in sorted((self.root / RESULTS).iterdir(), reverse=True):
            if (day / key).exists():
                yield day / key


def instances(folder: Path) -> list[Path]:
    """The instances of a series in its folder."""
    return sorted((folder / INSTANCES).glob("*.dcm"))


def read_json(path: Path) -> dict[str, object]:
    """The object in a JSON file; an empty one where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _reason(text: str) -> bytes:
    return json.dumps({"reason": text, "time": now_text()}, indent=2).encode() + b"\n"


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _nbytes(folder: Path) -> int:
    """The space of all instances below a folder."""
    return sum(
        _blocks(Path(root, name).stat().st_size)
        for root, _, names in os.walk(folder)
        if Path(root).name == INSTANCES
        for name in names
    )
