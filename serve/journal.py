"""The journal of a run: what each finished scan gave, so that a run that ends early can go on.

A text file beside the report, to which each scan adds one line when it is done: a checksum, the
digest of all that its rows depend on, and the rows. A line that was torn or damaged costs its scan
alone. A file of lines needs no files of its own beside it and no locks of a network share, which a
database in it would.
"""

import hashlib
import json
import logging
import os
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from wsseg.imaging.disk import writing
from wsseg.imaging.errors import AllFailedError, Failure, ReadError, SomeFailedError, WssegError
from wsseg.imaging.files import Version, seen_by, version_of
from wsseg.imaging.publishing import sync, sync_files
from wsseg.imaging.scan import FileRef, ScanRef
from wsseg.imaging.volumes import open_volume
from wsseg.serve.report import Provenance
from wsseg.serve.scan_rows import ScanRows

FORMAT = "wsseg journal 2"
RUN = "run"
"""The key of the lines that state the settings of a run."""
HEAD_BYTES = 4096
SYNC_SECONDS = 1.0
"""What a power cut may cost at most, beside the scans in flight; a killed process costs none."""
DIGEST_BYTES = 20
_PART_BYTES = 1 << 20

FileState = tuple[str, int, int]

logger = logging.getLogger(__name__)


def file_state(path: Path) -> FileState:
    """The absolute path of a file, its size and its CRC-32.

    Raises OSError. A checksum of accidents, not of intent, at the speed of memory: whoever may
    change an output may change the journal too.
    """
    size = crc = 0
    with path.open("rb", buffering=0) as stream:
        while part := stream.read(_PART_BYTES):
            size += len(part)
            crc = zlib.crc32(part, crc)
    return str(path.absolute()), size, crc


def journal_path(report: Path) -> Path:
    """The journal of a report; hidden, so that no later run takes it for an input."""
    return report.with_name(f".{report.name}.journal")


@dataclass
class Journal:
    """The journal of one run. Threads may look scans up while one adds them.

    settings: all that the rows of every scan depend on, by name. scratch: folder into which
    archives are unpacked, whose files have no time of change that would mean anything. verified:
    the versions of files that were compared before; given if another run over the same scans
    follows, for which the journal then stays. incomplete: there are scans to measure again when
    there is more space, though the report is written.
    """

    report: Path
    settings: Mapping[str, str]
    provenance: Provenance
    scratch: Path
    verified: dict[str, Version] | None = None
    incomplete: bool = False
    _places: dict[str, tuple[int, int]] = field(default_factory=dict)
    _stream: BinaryIO | None = None
    _unsynced: bool = False
    _written: deque[str] = field(default_factory=deque)
    _has_scans: bool = False

    def __post_init__(self) -> None:
        self.path = journal_path(self.report)
        self._header = f"{FORMAT} {json.dumps(dict(self.settings), sort_keys=True)}"
        self._unpacked = f"{self.scratch}{os.sep}"
        self._run = hashlib.sha256(self._header.encode()).digest()

    @property
    def has_scans(self) -> bool:
        """Whether any scan is known."""
        return self._has_scans

    def key(self, ref: ScanRef) -> str:
        """The digest of all that the rows of a scan depend on; "" where a file cannot be read.

        The files count by their names in the tables, their sizes, times of change and first
        `HEAD_BYTES` bytes; those of archives by all of their bytes.
        """
        shape = (ref.kind, ref.volume, ref.part, ref.flags, ref.frames, ref.name_ending)
        told = [self._run, repr(shape).encode()]
        try:
            for file in ref.files:
                told.append(f"\0{file.source}\0".encode("utf-8", "backslashreplace"))
                told += (
                    _state(path, whole=path.startswith(self._unpacked))
                    for path in _parts(file, ref)
                )
        except (OSError, ReadError):
            return ""
        # At once: each update of so many bytes lets another thread take the interpreter.
        return hashlib.blake2b(b"".join(told), digest_size=DIGEST_BYTES).hexdigest()

    def find(self, key: str, ref: ScanRef) -> ScanRows | None:
        """The rows of a scan with this key, if all files that were written for it are whole."""
        entry = self._entry(key)
        try:
            if entry is None:
                return None
            known = {} if self.verified is None else self.verified
            compared: dict[str, Version] = {}
            for name, *before in entry["files"]:
                path = Path(name)
                version = version_of(path)
                if known.get(name) == version:
                    continue
                # The size first: most damage shows without reading the file.
                if version[0] != before[0] or [*file_state(path)[1:]] != before:
                    return None
                compared[name] = version
            rows = ScanRows.from_values(entry["rows"], ref, self.provenance)
        except (OSError, ValueError, LookupError, TypeError):
            return None
        known |= compared
        self._written.extend(compared)  # the process that wrote them may not have come to it
        return replace(rows, key=key)

    def keep(self, files: Iterable[FileState]) -> None:
        """Have files of a scan on the disk within `SYNC_SECONDS`, or when `sync` is called.

        In a thread and many at once: a disk that is asked for each file by itself would be waited
        for. A power cut before loses nothing either, because `find` compares their checksums.
        """
        self._written.extend(file[0] for file in files)

    def _entry(self, key: str) -> Any:
        """The value of the line of this key; None where there is none that can be read."""
        if (place := self._places.get(key)) is None:
            return None
        try:
            with self.path.open("rb") as stream:
                stream.seek(place[0])
                return json.loads(stream.read(place[1]).split(b" ", 2)[2])
        except (OSError, ValueError, LookupError):
            return None

    def add(self, key: str, rows: ScanRows, files: Sequence[FileState]) -> None:
        """Add a scan that is done, with the files that were written for it.

        From here on it survives the end of the process, and within `SYNC_SECONDS` a power cut. A
        journal that cannot be written costs no measurement: the run goes on without it.
        """
        if key:
            self._add(key, {"files": files, "rows": rows.values()})

    def series_key(self, instances: Iterable[str]) -> str:
        """The digest of what the rows of a server's series depend on: its instances, by UIDs."""
        told = "\0".join(instances).encode()
        return hashlib.blake2b(self._run + told, digest_size=DIGEST_BYTES).hexdigest()

    def find_series(self, key: str) -> tuple[ScanRows | Failure, ...] | None:
        """What a series with this key gave, in order, if the journal has all of it."""
        entry = self._entry(key)
        try:
            return tuple(self._item(item) for item in entry["series"]) if entry else None
        except (LookupError, TypeError):
            return None

    def add_series(self, key: str, items: Sequence[str | list[Any]]) -> None:
        """Add a server's series that is done: the keys of its scans, and its skipped files."""
        self._add(key, {"series": items})

    def _item(self, item: str | list[Any]) -> ScanRows | Failure:
        if isinstance(item, list):
            return Failure(*item)
        found = self.find(item, ScanRef("dicom", ()))
        if found is None:
            raise LookupError(item)
        return replace(found, ref=ScanRef("dicom", (FileRef(Path(), found.origin.source),)))

    def _add(self, key: str, value: object) -> None:
        if self._stream is None:
            return
        try:
            self._append(key, value)
        except OSError as error:
            logger.warning(
                "the journal cannot be written any more (%s): should this run end early, --resume "
                "measures the scans from here on again",
                error.strerror,
                extra={"event": "journal_failed"},
            )
            self._close()
        self._has_scans = True

    @contextmanager
    def opened(self, *, resume: bool) -> Iterator[None]:
        """Open the journal; it is removed if the run writes its report, or ends before any scan,
        but not if the run is `incomplete`.

        resume: keep what it has; else it begins anew. Raises AllFailedError where it cannot be
        made: nor could the report.
        """
        try:
            with writing(self.report):
                self._open(resume=resume)
        except OSError as error:
            self._close()
            if isinstance(error, AllFailedError):
                raise
            raise AllFailedError(f"{self.report} could not be written: {error}") from error
        stop = threading.Event()

        def sync_often() -> None:
            while not stop.wait(SYNC_SECONDS):
                self.sync()

        thread = threading.Thread(target=sync_often, name="wsseg-journal", daemon=True)
        thread.start()
        needed = True
        try:
            yield
            needed = self.verified is not None
        except SomeFailedError:  # of what follows the report, which is written
            needed = False
            raise
        finally:
            stop.set()
            thread.join()
            self.sync()
            self._close()
            if self.incomplete and not needed:
                needed = True
                logger.warning(
                    "a disk was full: after making room, the same command with --resume measures "
                    "the scans that lack a result or a file",
                    extra={"event": "disk_full"},
                )
            if not needed or not self._has_scans:
                with suppress(OSError):
                    self.path.unlink()

    def _open(self, *, resume: bool) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before, end = self._read() if resume else ("", 0)
        self._stream = self.path.open("ab", buffering=0)
        self._stream.truncate(end)  # a torn line would spoil the next one
        if before != self._header:
            if before:
                logger.warning(
                    "%s: scans that were measured before are measured again",
                    _difference(before, self._header),
                    extra={"event": "journal_changed"},
                )
            self._append(RUN, self._header)
        self.sync()
        with suppress(OSError):
            sync(self.path.parent)  # the name of the new file

    def _read(self) -> tuple[str, int]:
        """Find all whole lines; returns the last header and the end of the last whole line."""
        header, at, end, damaged = "", 0, 0, 0
        with self.path.open("rb") as stream:
            for line in stream:
                checksum, _, payload = line.rstrip(b"\n").partition(b" ")
                key, _, text = payload.partition(b" ")
                if line.endswith(b"\n") and checksum == b"%08x" % zlib.crc32(payload):
                    end = at + len(line)
                    if key == RUN.encode():
                        header = json.loads(text)
                    else:
                        self._places[key.decode()] = (at, len(line))
                else:
                    damaged += 1
                at += len(line)
        if damaged:
            logger.warning(
                "damaged lines in the journal: %d; their scans are measured again",
                damaged,
                extra={"event": "journal_damaged", "lines": damaged},
            )
        self._has_scans = bool(self._places)
        return header, end

    def _append(self, key: str, value: object) -> None:
        if self._stream is None:
            return
        payload = f"{key} {json.dumps(value, separators=(',', ':'))}".encode("ascii")
        rest = memoryview(b"%08x %s\n" % (zlib.crc32(payload), payload))
        while rest:
            rest = rest[self._stream.write(rest) :]
        self._unsynced = True

    def sync(self) -> None:
        """Have all files that were written for scans, and the journal, on the disk."""
        paths = [Path(self._written.popleft()) for _ in range(len(self._written))]
        try:
            sync_files(paths)
        except OSError as error:
            logger.warning(
                "label maps or other files of scans may not be on the disk (%s): check it",
                error.strerror,
                extra={"event": "files_not_synced"},
            )
        stream = self._stream
        if self._unsynced and stream:
            self._unsynced = False
            # A disk that fails is told by the next line.
            with suppress(OSError, ValueError):
                os.fsync(stream.fileno())

    def _close(self) -> None:
        stream, self._stream = self._stream, None
        if stream:
            stream.close()


def require_finished(report: Path) -> None:
    """Raise WssegError if an unfinished run of this report has left scans in its journal."""
    path = journal_path(report)
    if not path.exists():
        return
    with path.open("rb") as stream:
        has_scans = sum(1 for _ in islice(stream, 2)) > 1  # behind the settings of the run
    if has_scans:
        raise WssegError(
            f"an earlier run of {report} did not end, and {path} holds its scans: give --resume to "
            "go on with it, or --overwrite to begin anew"
        )


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _parts(file: FileRef, ref: ScanRef) -> Iterator[str]:
    """The file, and the one that holds its voxels if that is another."""
    yield str(file.path)
    if ref.kind == "volume":
        data = open_volume(file).header.data
        if data != file.path:
            yield str(data)


def _state(path: str, *, whole: bool) -> bytes:
    """What tells a file from a changed one; plain calls of the system, as there is one a slice."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        if not whole:
            return b"%d %d " % seen_by(status) + os.read(descriptor, HEAD_BYTES)
    finally:
        os.close(descriptor)
    return file_digest(Path(path)).encode()


def _difference(header: str, wanted: str) -> str:
    """Which settings differ, by their names."""
    try:
        before, now = (json.loads(text.removeprefix(FORMAT)) for text in (header, wanted))
        names = sorted(name for name in before | now if before.get(name) != now.get(name))
    except ValueError:
        return "the journal was written by another version"
    return f"changed since the run began ({', '.join(names)})"
