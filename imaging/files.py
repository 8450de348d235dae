"""Files: written whole or not at all, locked, found by name, and opened once for many readers."""

import errno
import io
import os
import stat
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO, NamedTuple

from wsseg.imaging.disk import writing
from wsseg.imaging.errors import ReadError, WssegError
from wsseg.imaging.publishing import (
    NEW,
    NotPlacedError,
    committed,
    complete,
    keep,
    make_folder,
    publish,
    sync,
)
from wsseg.imaging.scan import FileRef
from wsseg.imaging.scratch import scratch_folder

try:
    import fcntl
except ModuleNotFoundError:  # Windows has no flock: nothing is locked there
    fcntl = None  # type: ignore[assignment]

PREFIX = ".lock-"
_noted: ContextVar[list[Path] | None] = ContextVar("noted", default=None)


@contextmanager
def atomic(path: Path, *, nbytes: int = 0) -> Iterator[Path]:
    """Yield a scratch path that replaces the file `path` only if the block succeeds.

    The scratch name keeps its suffixes, because writers choose the format by them. The file is on
    the disk before it has its name, except within `noting`. Raises NotWrittenError, which is an
    OSError too, for want of space or of the right to write. nbytes: size of the file, which that
    error then tells; 0 if not known.
    """
    noted = _noted.get()
    with writing(path):
        make_folder(path.parent)
        with scratch_folder(path.parent) as scratch:
            partial = scratch / path.name
            with writing(path, partial, needed=nbytes):
                yield partial
            if noted is None:
                sync(partial)
            partial.replace(path)
        if noted is None:
            sync(path.parent)
    if noted is not None:
        noted.append(path)


@contextmanager
def noting() -> Iterator[list[Path]]:
    """Yield a list that receives each file which `atomic` puts in its place in this thread.

    Whoever has the list calls `sync_files` with it: for many at once, that costs less.
    """
    paths: list[Path] = []
    token = _noted.set(paths)
    try:
        yield paths
    finally:
        _noted.reset(token)


def noted_so_far() -> tuple[Path, ...]:
    """The files that the innermost `noting` of this thread has so far."""
    return tuple(_noted.get() or ())


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty scratch folder that replaces the folder `path` only if the block succeeds.

    A folder cannot be replaced in one step on every system: the old one is moved aside first and
    put back if the new one cannot take its place. See `atomic_files` for a process that is killed
    between the two. Raises NotWrittenError as `atomic` does.
    """
    path = path.resolve()
    with writing(path):
        make_folder(path.parent)
        with scratch_folder(path.parent) as scratch:
            partial = scratch / NEW / path.name
            partial.mkdir(parents=True)
            with writing(path, partial):
                yield partial
            publish(scratch, [path.name])


@contextmanager
def atomic_files(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield scratch paths that together replace the files `paths` if the block succeeds.

    The files lie in one folder. All of them take their places, or none: where one cannot, because
    a spreadsheet has it open, the old ones are put back and the new ones lie beside them, as the
    NotPlacedError says. A process that is killed, or a power cut, before all have their places
    leaves a mixture until `lock_output` or `recover` of any of the files completes it.
    """
    parent = paths[0].parent
    make_folder(parent)
    names = [path.name for path in paths]
    with scratch_folder(parent) as scratch:
        new = scratch / NEW
        new.mkdir()
        yield [new / name for name in names]
        try:
            publish(scratch, names)
        except NotPlacedError as error:
            error.kept = [keep(new / path.name, path).name for path in paths]
            raise


def recover(output: Path) -> None:
    """Complete what a killed process had begun to put in the place of `output`, if it had."""
    if any(committed(output)):
        with suppress(WssegError), lock_output(output, "it is being completed"):
            pass


@contextmanager
def lock_output(output: Path, busy: str, *, shared: bool = False) -> Iterator[None]:
    """Lock an output, a file or a folder, which need not exist yet, for one process at a time.

    shared: for all processes that lock it so, at one time.

    Raises WssegError with the message `busy` where another process has locked it. The lock is a
    file beside the output; the kernel releases it however the process ends, so that a file which
    a killed process left behind locks nothing. What a killed process had begun to put in the place
    of the output is completed, see `atomic_files`. The lock is valid among processes of one
    machine; on a network share, among machines, only if the share passes locks on (NFS from
    version 4, mostly).
    """
    output = output.resolve()  # one folder under two names is one
    path = output.with_name(f"{PREFIX}{output.name}")
    try:
        descriptor = _locked(path, shared=shared)
    except BlockingIOError as error:
        raise WssegError(busy) from error
    except OSError:
        # No right to write there, or a file system without locks: the work itself reports it.
        descriptor = None
    try:
        if descriptor is not None:
            complete(output)
        yield
    finally:
        if descriptor is not None:
            # While it is still locked: afterwards another process may own it.
            with suppress(OSError):
                if shared:  # the last one removes it
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            os.close(descriptor)


def _locked(path: Path, *, shared: bool) -> int | None:
    """A descriptor of the locked file; BlockingIOError where another process has locked it."""
    if fcntl is None:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except OSError:
            os.close(descriptor)
            raise
        # Another process released it between our opening and locking, and its file is gone.
        os.close(descriptor)


def is_there(path: Path) -> bool:
    """Whether there is a file or folder of this name; False too for what can be no name of one."""
    try:
        path.stat()
    except (OSError, ValueError):  # too long, with a NUL
        return False
    return True


def named_file(folder: Path, text: str) -> Path:
    """The file that `text` names, relative to `folder`; as written where there is none.

    For tables from other systems: a back-slash separates folders where no file has it in its name,
    and an accent may be one character with its letter in the table and a second one on the disk,
    or the reverse, in any part of the path.
    """
    path = folder / text
    if ("\\" not in text and text.isascii()) or is_there(path):
        return path
    for spelling in (text.replace("\\", "/"), text):
        match = _on_disk(folder, Path(spelling))
        if match is not None:
            return match
    return path


def name_key(text: str) -> str:
    """The same text for every spelling of one path."""
    return unicodedata.normalize("NFC", text.replace("\\", "/"))


def _on_disk(folder: Path, path: Path) -> Path | None:
    """The path (relative to `folder`, or absolute) with its accents as the disk writes them."""
    current = Path(path.anchor) if path.anchor else folder
    for part in path.parts[1:] if path.anchor else path.parts:
        if not is_there(current / part):
            wanted = unicodedata.normalize("NFC", part)
            names = (entry.name for entry in current.iterdir()) if current.is_dir() else ()
            part = next((n for n in names if unicodedata.normalize("NFC", n) == wanted), "")
            if not part:
                return None
        current /= part
    return current


# Files that several readers use, opened once.

Version = tuple[int, int]
"""Size in bytes and time of change in ns: distinguishes a file from one that replaced it."""


class HeldFile(NamedTuple):
    """A file as it was when it was opened. content: None where only its start is held."""

    version: Version
    start: bytes
    content: bytes | None


# Of the current thread alone: each reads its own files.
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
    """The file if it is held for this thread, else None."""
    return _held.get().get(path)


def open_file(path: Path, *, buffering: int = -1) -> BinaryIO:
    """A file to read: from memory where it is held as a whole, else from the disk."""
    held = held_file(path)
    if held is None or held.content is None:
        return path.open("rb", buffering=buffering)
    return io.BytesIO(held.content)


def read_regular(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes, found through links or not.

    Raises OSError for anything else: a pipe or a device could be read without an end.
    """
    # Without waiting: a pipe that nobody writes to would otherwise never be opened.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"it has {status.st_size} bytes, and at most {most} can be")
        return file.read()


def version_of(path: Path) -> Version:
    """The version of the held file, else of the file on the disk; a part of keys of caches."""
    held = held_file(path)
    return seen_by(path.stat()) if held is None else held.version


def seen_by(status: os.stat_result) -> Version:
    """The version of a file with this status."""
    return status.st_size, status.st_mtime_ns


def check_unchanged(file: FileRef, seen: tuple[str | int, ...]) -> None:
    """Raise ReadError for a file whose version, if it is known, is not that of when it was found.

    A file that was replaced meanwhile may belong to another scan or patient.
    """
    if file.seen and file.seen != seen:
        raise ReadError(
            "changed",
            f"{file.source} was replaced after the inputs were listed: run it again when nothing "
            "writes to them",
        )


@contextmanager
def unchanged(file: FileRef) -> Iterator[None]:
    """`check_unchanged` before and after a file is read; for any format but DICOM, which has UIDs.

    A file that was replaced by a broken one, or while it was read, is thus reported as changed.
    """
    if file.seen:
        check_unchanged(file, version_of(file.path))
    try:
        yield
    finally:
        if file.seen:
            check_unchanged(file, version_of(file.path))
