"""Files that several readers look at, opened once: what a file is, its header, its pixels."""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO, NamedTuple

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
