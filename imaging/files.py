"""Whether a file is still the one that was found."""

import io
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO, NamedTuple

from wsseg.imaging.errors import ReadError, WssegError
from wsseg.imaging.scan import FileRef

# Files and folders that appear whole or not at all.


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a scratch path beside `path`; it takes its place only if the block succeeds.

    The scratch name keeps its suffixes, because writers choose the format by them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tmp-") as scratch:
        partial = Path(scratch, path.name)
        yield partial
        partial.replace(path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty scratch folder that replaces the folder `path` only if the block succeeds.

    A folder cannot be replaced in one step on every system: the old one is moved aside first and
    put back if the new one cannot take its place.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Outside the scratch folder, whose clean-up would take it along if the exchange broke off.
    previous = path.with_name(f".previous-{path.name}")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tmp-") as scratch:
        partial = Path(scratch, path.name)
        partial.mkdir()
        yield partial
        shutil.rmtree(previous, ignore_errors=True)
        try:
            if path.exists():
                path.replace(previous)
            partial.replace(path)
        except BaseException:
            if previous.exists() and not path.exists():
                previous.replace(path)
            raise
        shutil.rmtree(previous, ignore_errors=True)


# One process at a time on one output: a lock that the kernel gives back, however it ends.

try:
    import fcntl
except ModuleNotFoundError:  # Windows has no flock: nothing is held there
    fcntl = None  # type: ignore[assignment]

PREFIX = ".lock-"


@contextmanager
def lock_output(output: Path, busy: str) -> Iterator[None]:
    """Hold an output, a file or a folder, which need not exist yet; WssegError where another does.

    busy: what the error says. The lock is a file beside the output while it is held; one that a
    killed process left behind locks nothing. It holds among processes of one machine; on a network
    share, among machines, only if the share passes locks on (NFS from version 4, mostly).
    """
    place = output.resolve()  # one folder under two names is one
    path = place.with_name(f"{PREFIX}{place.name}")
    try:
        descriptor = _locked(path)
    except BlockingIOError as error:
        raise WssegError(busy) from error
    except OSError:
        # No right to write there, or a file system without locks: the work itself will tell.
        descriptor = None
    try:
        yield
    finally:
        if descriptor is not None:
            # While it is still locked: afterwards it could be another's.
            with suppress(OSError):
                path.unlink()
            os.close(descriptor)


def _locked(path: Path) -> int | None:
    """A descriptor of the locked file; BlockingIOError where another process has locked it."""
    if fcntl is None:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except OSError:
            os.close(descriptor)
            raise
        # Another process let go between our opening and locking, and its file is gone.
        os.close(descriptor)


# Files that a table names as another system writes paths: back-slashes, accents in two forms.


def named_file(folder: Path, text: str) -> Path:
    """The file that `text` names, relative to `folder`; as written where there is none.

    A back-slash separates folders where no file has it in its name. An accent may be one character
    with its letter in the table and a second one on the disk, or the other way round, in any part
    of the path.
    """
    path = folder / text
    if "\\" not in text and text.isascii():
        # No other way to write it: nothing needs to be looked up.
        return path
    if path.exists():
        return path
    for way in (text.replace("\\", "/"), text):
        found = _on_disk(folder, Path(way))
        if found is not None:
            return found
    return path


def name_key(text: str) -> str:
    """What two ways of writing one path have in common."""
    return unicodedata.normalize("NFC", text.replace("\\", "/"))


def _on_disk(folder: Path, path: Path) -> Path | None:
    place = Path(path.anchor) if path.anchor else folder
    for part in path.parts[1:] if path.anchor else path.parts:
        following = place / part
        if not following.exists():
            alike = next(_alike(place, part), None)
            if alike is None:
                return None
            following = alike
        place = following
    return place


def _alike(folder: Path, name: str) -> Iterator[Path]:
    wanted = unicodedata.normalize("NFC", name)
    if folder.is_dir():
        for entry in folder.iterdir():
            if unicodedata.normalize("NFC", entry.name) == wanted:
                yield entry


Version = tuple[int, int]
"""Size in bytes and time of change in ns: what tells a file from another one put in its place."""


class HeldFile(NamedTuple):
    """A file as it was when it was opened. content: None where only its start is held."""

    version: Version
    start: bytes
    content: bytes | None


# Of the running thread alone: each reads its own files.
_held: ContextVar[Mapping[Path, HeldFile]] = ContextVar("held", default={})  # noqa: B039


@contextmanager
def holding(files: Mapping[Path, HeldFile]) -> Iterator[None]:
    """Let the readers of this thread find these files in memory while the block runs."""
    token = _held.set({**_held.get(), **files})
    try:
        yield
    finally:
        _held.reset(token)


def held_file(path: Path) -> HeldFile | None:
    """The file as it is held for this thread; None where it is not."""
    return _held.get().get(path)


def open_file(path: Path, *, buffering: int = -1) -> BinaryIO:
    """A file to read: from memory where it is held as a whole, else from the disk."""
    held = held_file(path)
    if held is None or held.content is None:
        return path.open("rb", buffering=buffering)
    return io.BytesIO(held.content)


def version_of(path: Path) -> Version:
    """The version of the file that is held, else that of the file now.

    It is a part of the key under which a file's content is kept.
    """
    held = held_file(path)
    return seen_by(path.stat()) if held is None else held.version


def seen_by(status: os.stat_result) -> Version:
    """The version that a file's status tells."""
    return status.st_size, status.st_mtime_ns


def check_unchanged(file: FileRef, seen: tuple[str | int, ...]) -> None:
    """Compare what a file shows now with what it showed when it was found, if that is known.

    Raises ReadError: a file that was replaced meanwhile may belong to another scan or patient.
    """
    if file.seen and file.seen != seen:
        raise ReadError(
            "changed",
            f"{file.source} was replaced after the inputs were listed: run it again when nothing "
            "writes to them",
        )


@contextmanager
def unchanged(file: FileRef) -> Iterator[None]:
    """Read a file of any format but DICOM, which is told by its UIDs; raises as above.

    A file that was replaced by a broken one, or while it was read, is told as one that changed.
    """
    if not file.seen:
        yield
        return
    check_unchanged(file, version_of(file.path))
    try:
        yield
    finally:
        check_unchanged(file, version_of(file.path))
