"""The series of a DICOMweb server as scans: fetched ahead, measured as files, and removed again."""

import hashlib
import re
import shutil
import threading
from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsseg.imaging.discovery import find
from wsseg.imaging.errors import Failure, ReadError, WssegError, translate_errors
from wsseg.imaging.limits import DEFAULT_LIMITS, ReadLimits
from wsseg.imaging.scan import ScanRef
from wsseg.serve.dicomweb.server import Server
from wsseg.serve.dicomweb.session import ATTEMPTS, Json, ServerError, Session
from wsseg.serve.journal import Journal
from wsseg.serve.pipeline import Outcome, PrefetchLimits, prefetch
from wsseg.serve.scan_rows import ScanRows

FETCHED_AHEAD = 2
"""Series that are fetched at once, and that wait to be read."""
STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"

# What is a part of a path of the server and of a name of a file.
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")

Item = ScanRef | Failure | ScanRows


@dataclass(frozen=True)
class _Unit:
    """Series with one UID, normally one, which become scans together as in a folder.

    studies: of each of them, in order.
    """

    series: str
    studies: tuple[str, ...]

    @property
    def sources(self) -> list[str]:
        """How the tables call each series, as the beginning of the names of its files."""
        return [f"{study}/{self.series}" for study in self.studies]


@dataclass
class _Fetched:
    """A unit whose files are in `folder`, or are not needed.

    key: of the unit in the journal, "" where it is not to be recorded. entries: what the journal
    has of the items that have come out, in order; None once one of them is to be measured again.
    """

    unit: _Unit
    folder: Path
    key: str
    items: tuple[Item, ...]
    entries: list[str | list[Any]] | None = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        """How the names of all of its files in the tables begin."""
        return tuple(f"{source}/" for source in self.unit.sources)


class ServerSource:
    """The series of a server that match a query, in the order of their UIDs.

    Each instance has the name STUDY/SERIES/INSTANCE.dcm in the tables, by its UIDs: the rows are
    those of a folder with these files. A series of which anything cannot be fetched is one Failure.
    The list of series is asked for at once, and raises WssegError where it is not given.
    most: bytes of a series. reuse: series that the journal has need not be fetched again. limits:
    what reading a file may take.
    """

    def __init__(
        self,
        server: Server,
        query: dict[str, str],
        scratch: Path,
        *,
        most: int,
        reuse: bool = True,
        limits: ReadLimits = DEFAULT_LIMITS,
    ) -> None:
        self._server, self._most, self._reuse, self._limits = server, most, reuse, limits
        self._root = scratch / "dicomweb"
        self._ending = threading.Event()
        self._unreachable = False
        self._in_flight: deque[_Fetched] = deque()
        with closing(Session(server)) as session:
            try:
                self._units, self._failures = _units(session.series(query))
            except ServerError as error:
                raise WssegError(f"the series of {server.url} cannot be listed: {error}") from error

    def refs(self, journal: Journal | None = None) -> Generator[Item, None, None]:
        """Scans, failures, and the rows of scans that the journal has."""
        limits = PrefetchLimits(threads=FETCHED_AHEAD, results=FETCHED_AHEAD)

        def fetch(numbered: tuple[int, _Unit]) -> _Fetched:
            number, unit = numbered
            return self._fetch(unit, self._root / str(number), journal)

        with closing(prefetch(fetch, enumerate(self._units), limits, lambda _: 0)) as units:
            try:
                for fetched in units:
                    self._in_flight.append(fetched)
                    yield from fetched.items
            finally:
                self._ending.set()
        yield from self._failures

    def followed(
        self, outcomes: Iterable[Outcome], journal: Journal | None = None
    ) -> Iterator[Outcome]:
        """Pass outcomes on; of a series that has all of its own, remove the files."""
        for outcome in outcomes:
            name = _name(outcome)
            while self._in_flight and not f"{name}/".startswith(self._in_flight[0].names):
                self._finish(self._in_flight.popleft(), journal)
            if self._in_flight:
                _record(outcome, self._in_flight[0])
            yield outcome
        while self._in_flight:
            self._finish(self._in_flight.popleft(), journal)

    def _finish(self, fetched: _Fetched, journal: Journal | None) -> None:
        shutil.rmtree(fetched.folder, ignore_errors=True)
        if journal and fetched.key and fetched.entries:
            journal.add_series(fetched.key, fetched.entries)

    def _fetch(self, unit: _Unit, folder: Path, journal: Journal | None) -> _Fetched:
        """The scans of a unit; its files are fetched unless the journal has all of its rows."""
        source = unit.sources[0]
        # Once is enough while the server cannot be reached.
        attempts = 1 if self._unreachable else ATTEMPTS
        try:
            with closing(Session(self._server, self._ending.wait, attempts=attempts)) as session:
                names = _instances(session, unit)
                key = journal.series_key(names) if journal else ""
                if journal and self._reuse and (known := journal.find_series(key)) is not None:
                    return _Fetched(unit, folder, "", known)
                left = self._most
                for name in names:
                    if self._ending.is_set():  # nobody waits for it
                        raise ServerError("stopped", "the run has ended")
                    source = name.rpartition("/")[0]
                    path = folder / f"{name}.dcm"
                    with translate_errors(source):
                        path.parent.mkdir(parents=True, exist_ok=True)
                        left -= session.retrieve(name, path, left)
            unpacked = folder / ".unpacked"  # hidden, so that it is not listed
            unpacked.mkdir()
            items = tuple(find([folder], scratch=unpacked, limits=self._limits))
        except ReadError as error:
            self._unreachable = isinstance(error, ServerError) and error.transient
            shutil.rmtree(folder, ignore_errors=True)
            message = f"{source} could not be fetched: {error}"
            return _Fetched(unit, folder, "", (Failure(source, error.reason, message),))
        self._unreachable = False
        return _Fetched(unit, folder, key, items)


def _units(listed: Iterable[Json]) -> tuple[list[_Unit], list[Failure]]:
    """The units of a list of series, in the order of their names in the tables."""
    studies_of: dict[str, set[str]] = defaultdict(set)
    failures = set()
    for entry in listed:
        study, series = _uid(entry, STUDY), _uid(entry, SERIES)
        if study and series:
            studies_of[series].add(study)
        else:
            digest = hashlib.sha256(repr(entry).encode()).hexdigest()[:16]
            message = "the server lists a series without valid UIDs, which cannot be asked for"
            failures.add(Failure(f"series-{digest}", "bad_uid", message))
    units = [_Unit(series, tuple(sorted(studies))) for series, studies in studies_of.items()]
    return sorted(units, key=lambda unit: unit.sources), sorted(failures, key=lambda f: f.source)


def _instances(session: Session, unit: _Unit) -> list[str]:
    """STUDY/SERIES/INSTANCE of all instances of a unit, in order."""
    names = set()
    for study in unit.studies:
        for entry in session.instances(study, unit.series):
            if not (instance := _uid(entry, INSTANCE)):
                raise ServerError("bad_uid", "the server lists an instance without a valid UID")
            names.add(f"{study}/{unit.series}/{instance}")
    if not names:
        raise ServerError("server_answer", "the server lists no instance of it")
    return sorted(names)


def _uid(entry: Json, tag: str) -> str:
    """A UID of a DICOM JSON object; "" where it is not one that can be a part of a path."""
    try:
        uid = entry[tag]["Value"][0]
    except (LookupError, TypeError):
        return ""
    return uid if isinstance(uid, str) and _NAME.fullmatch(uid) else ""


def _name(outcome: Outcome) -> str:
    """How the tables call a file of an outcome."""
    if outcome.measured:
        return outcome.measured.scan.ref.files[0].source
    return outcome.recorded.origin.source if outcome.recorded else outcome.failures[0].source


def _record(outcome: Outcome, fetched: _Fetched) -> None:
    """Note what the journal has of an item, or that the item is to be measured again."""
    if fetched.entries is None:
        return
    key = ""
    if outcome.measured:
        key = outcome.measured.key
    elif outcome.recorded:
        key = outcome.recorded.key
    elif all(failure.status == "skipped" for failure in outcome.failures):
        fetched.entries += [list(vars(failure).values()) for failure in outcome.failures]
        return
    if key and all(failure.status == "skipped" for failure in outcome.failures):
        fetched.entries.append(key)
    else:
        fetched.entries = None
