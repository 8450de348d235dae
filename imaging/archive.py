"""Archives and gzip files, unpacked under new names; members that could do harm are refused."""

import errno
import gzip
import io
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, Literal

from wsseg.imaging.errors import Failure, ReadError, no_space
from wsseg.imaging.files import version_of
from wsseg.imaging.hashed_names import member_of, real_name
from wsseg.imaging.limits import DEFAULT_LIMITS, RATIO, RATIO_FLOOR_BYTES, ReadLimits, shown_mib
from wsseg.imaging.scan import FileRef
from wsseg.imaging.scratch import Scratch
from wsseg.imaging.volume_header import file_packing, open_unpacked

# Most bytes of the headers of one member of a tar archive: long names take a few KB.
TAR_HEADER_BYTES = 2**20

_SUFFIX = re.compile(r"(\.nii|\.img|\.hdr|\.seg)?\.[A-Za-z0-9]{1,8}$", re.IGNORECASE)
_GZIP_SUFFIX = re.compile(r"\.gz$", re.IGNORECASE)
_ENCRYPTED = 0x1
_CHUNK = 2**20
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Budget:
    """How many bytes one archive may still unpack, the packed files within it among them."""

    def __init__(self, limits: ReadLimits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self.left = limits.inflated_bytes


@dataclass(frozen=True)
class _Entry:
    """A member as the archive's directory describes it, before any byte is unpacked."""

    name: str
    size: int
    packed_size: int
    plain: bool  # a file, not a link or a device
    encrypted: bool = False


class _TooMuchError(Exception):
    """A stream yielded more bytes than allowed."""


def unpack_zip(archive: FileRef, scratch: Path, budget: Budget) -> Iterator[FileRef | Failure]:
    """Unpack a zip archive into a new folder under `scratch`; yield each member as a file.

    A member that is refused or damaged is a Failure, and costs no other member its place; an
    archive that cannot be opened is one Failure. Files are named by number, with their own
    suffix, and members that differ only in their suffix share the number: a NIfTI .hdr finds its
    .img. All members are unpacked before the first is yielded, for the same reason.
    """
    yield from _unpacked(_zip_members, archive, scratch, budget)


def unpack_tar(archive: FileRef, scratch: Path, budget: Budget) -> Iterator[FileRef | Failure]:
    """Unpack a tar archive, gzip-compressed or not, as `unpack_zip` does a zip archive.

    It has no directory and is read once through: members after damage are lost, and reported.
    """
    yield from _unpacked(_tar_members, archive, scratch, budget)


def unpack_gzip(packed: FileRef, scratch: Path, budget: Budget) -> Iterator[FileRef | Failure]:
    """Unpack a gzip-compressed file under `scratch`; it keeps the packed file's source."""
    yield from _unpacked(_gzip_member, packed, scratch, budget)


def _unpacked(
    members: Callable[[FileRef, Path, Budget], Iterator[FileRef | Failure]],
    archive: FileRef,
    scratch: Path,
    budget: Budget,
) -> Iterator[FileRef | Failure]:
    results: list[FileRef | Failure] = []
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=scratch, prefix="unpacked-"))
        for member in members(archive, folder, budget):
            results.append(member)  # noqa: PERF402  what was unpacked before an error counts
    except Exception as error:  # the libraries raise many kinds on damage; none may stop a run
        results.append(_damaged(archive.source, error, budget))
    yield from results


def _zip_members(archive: FileRef, folder: Path, budget: Budget) -> Iterator[FileRef | Failure]:
    with zipfile.ZipFile(archive.path) as opened:
        members = [member for member in opened.infolist() if not member.is_dir()]
        if len(members) > budget.limits.entries:
            yield _too_many(archive.source, budget)
            return
        paths = _NewPaths(folder)
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            entry = _Entry(
                name=member.filename,
                size=member.file_size,
                packed_size=member.compress_size,
                plain=kind in (0, stat.S_IFREG),
                encrypted=bool(member.flag_bits & _ENCRYPTED),
            )
            shown = member_of(archive.source, member.filename)
            if refusal := _refusal(entry, shown, budget):
                yield refusal
                continue
            budget.left -= entry.size
            # zipfile never yields more bytes than the directory promised, and checks the sum.
            yield _extract(
                partial(opened.open, member), FileRef(paths.new(entry.name), shown), budget
            )


def _tar_members(archive: FileRef, folder: Path, budget: Budget) -> Iterator[FileRef | Failure]:
    packed = file_packing(archive.path) == "file"
    packed_size = archive.path.stat().st_size
    paths = _NewPaths(folder)
    with open_unpacked(archive.path) as plain:
        stream = _Metered(plain)
        count, skipped = 0, 0
        with tarfile.open(fileobj=stream, mode="r|") as opened:
            while True:
                stream.left = TAR_HEADER_BYTES + skipped
                member = opened.next()
                if member is None:
                    return
                skipped = member.size
                count += 1
                if count > budget.limits.entries:
                    yield _too_many(archive.source, budget)
                    return
                if member.isdir():
                    continue
                name = PurePosixPath(member.name).as_posix()  # without the "./" of "tar c ."
                shown = member_of(archive.source, name)
                size = packed_size if packed else member.size
                entry = _Entry(name, member.size, size, plain=member.isreg())
                if refusal := _refusal(entry, shown, budget):
                    yield refusal
                    if entry.plain and refusal.reason != "unsafe_path":
                        return  # what follows lies behind bytes that are not to be unpacked
                    continue
                budget.left -= entry.size
                stream.left = TAR_HEADER_BYTES + member.size
                found = _extract(
                    partial(_tar_content, opened, member), FileRef(paths.new(name), shown), budget
                )
                yield found
                if isinstance(found, Failure):
                    return


def _tar_content(opened: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = opened.extractfile(member)
    if content is None:
        raise tarfile.ReadError("no file")
    return content


def _gzip_member(packed: FileRef, folder: Path, budget: Budget) -> Iterator[FileRef | Failure]:
    most = min(budget.left, budget.limits.may_inflate(packed.path.stat().st_size))
    path = _NewPaths(folder).new(_GZIP_SUFFIX.sub("", real_name(packed.source)))
    with gzip.open(packed.path) as stream:
        content = io.BufferedReader(_Metered(stream, most))
        result = _extract(lambda: content, FileRef(path, packed.source), budget)
    if isinstance(result, FileRef):
        budget.left -= path.stat().st_size
    yield result


class _Metered(io.RawIOBase):
    """A stream that yields `left` bytes and raises if there are more."""

    def __init__(
        self, stream: io.BufferedReader | gzip.GzipFile, left: int = TAR_HEADER_BYTES
    ) -> None:
        self._stream = stream
        self.left = left

    def readable(self) -> Literal[True]:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        self.left -= len(content)
        if self.left < 0:
            raise _TooMuchError
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        """Close the stream below too."""
        self._stream.close()
        super().close()


def _too_many(source: str, budget: Budget) -> Failure:
    message = (
        f"{source} holds more than {budget.limits.entries} files: split it, unpack it yourself, or "
        "raise --max-entries"
    )
    return Failure(source, "too_many_entries", message)


def _refusal(entry: _Entry, shown: str, budget: Budget) -> Failure | None:
    """Why a member must not be unpacked, by its directory entry alone."""
    large = entry.size > RATIO_FLOOR_BYTES
    # The archive may be of either system, so both readings of its separators must be safe.
    readings = (PurePosixPath(entry.name), PureWindowsPath(entry.name))
    rules = (
        (
            any(path.anchor or ".." in path.parts for path in readings),
            "unsafe_path",
            "its path leaves the archive: unpack it yourself if you trust it",
        ),
        (not entry.plain, "unsafe_path", "it is a link, not a file: pack what it leads to"),
        (entry.encrypted, "encrypted", "it is encrypted: unpack it yourself"),
        (
            large and entry.size > RATIO * max(entry.packed_size, 1),
            "archive_bomb",
            f"it would grow more than {RATIO}-fold: unpack it yourself if you trust it",
        ),
        (
            entry.size > budget.left,
            "archive_too_large",
            f"the archive grows beyond {shown_mib(budget.limits.inflated_bytes)}: unpack it "
            "yourself, or raise --max-inflated-mb",
        ),
    )
    for broken, reason, why in rules:
        if broken:
            return Failure(shown, reason, f"{shown} was not unpacked: {why}")
    return None


class _NewPaths:
    """New paths in a folder; members of one stem share a number, repeated ones do not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers: dict[str, int] = {}

    def new(self, name: str) -> Path:
        match = _SUFFIX.search(name)
        suffix = match.group() if match else ""
        stem = name.removesuffix(suffix)
        numbers = self._numbers
        path = self._folder / f"{numbers.setdefault(stem, len(numbers)):06d}{suffix}"
        while path.exists():
            numbers[f"{stem}\0{len(numbers)}"] = len(numbers)
            path = self._folder / f"{len(numbers) - 1:06d}{suffix}"
        return path


def _extract(content: Callable[[], IO[bytes]], to: FileRef, budget: Budget) -> FileRef | Failure:
    try:
        with content() as stream, to.path.open("xb") as file:
            shutil.copyfileobj(stream, file, _CHUNK)
    except Exception as error:
        to.path.unlink(missing_ok=True)
        return _damaged(to.source, error, budget)
    return to


def _damaged(shown: str, error: Exception, budget: Budget) -> Failure:
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return Failure(shown, "no_space", no_space(shown))
    if isinstance(error, _TooMuchError):
        return Failure(
            shown,
            "archive_bomb",
            f"{shown} was not unpacked, it grows more than {RATIO}-fold or beyond "
            f"{shown_mib(budget.limits.inflated_bytes)}: unpack it yourself if you trust it, or "
            "raise --max-inflated-mb",
        )
    return Failure(
        shown,
        "broken_archive",
        f"{shown} cannot be unpacked ({type(error).__name__}): copy it or pack it again",
    )


KEPT = 4
"""Unpacked files that are kept: a table names the slices of one file after the other."""


def unpacked(path: Path) -> Path:
    """A copy of what a gzip file holds, in the folder for temporary files, under its own name.

    The last few are kept while the process runs. Raises ReadError for a file that cannot be
    unpacked, or that grows beyond the limits of archives.
    """
    return _copy(path, (os.getpid(), *version_of(path))).path


class _Copy:
    """A folder with one file, removed when nothing uses it any more."""

    def __init__(self, packed: Path) -> None:
        self._scratch = Scratch()
        folder = self._scratch.path
        (file,) = unpack_gzip(FileRef(packed, packed.name), folder, Budget())
        if isinstance(file, Failure):
            raise ReadError(file.reason, file.message)
        self.path = file.path.rename(folder / packed.name.removesuffix(packed.suffix))


@lru_cache(maxsize=KEPT)
def _copy(path: Path, _key: tuple[int, int, int]) -> _Copy:
    return _Copy(path)
