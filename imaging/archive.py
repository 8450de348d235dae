"""Zip archives: members are unpacked under names of our own, and hostile ones are refused."""

import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from wsseg.imaging.errors import Failure
from wsseg.imaging.scan import FileRef

MAX_INFLATED_BYTES = 4 * 2**30
MAX_ENTRIES = 100_000
# Deflate reaches 1032:1 on zeros, scans rarely 10:1. Small members are never judged by ratio: an
# empty label map of a whole CT compresses a thousandfold and is harmless.
MAX_RATIO = 200
RATIO_FLOOR_BYTES = 64 * 2**20

_SUFFIX = re.compile(r"(\.nii|\.img|\.hdr)?\.[A-Za-z0-9]{1,8}$", re.IGNORECASE)
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_ENCRYPTED = 0x1


def unpack(archive: FileRef, scratch: Path) -> Iterator[FileRef | Failure]:
    """Unpack a zip archive into a new folder under `scratch`; yield each member as a file.

    A member that is refused or damaged is a Failure, and costs no other member its place; an
    archive that cannot be opened is one Failure. Files are named by number, with their own
    suffix, and members that differ only in their suffix share the number: a NIfTI .hdr finds its
    .img. All members are unpacked before the first is yielded, for the same reason.
    """
    try:
        with zipfile.ZipFile(archive.path) as opened:
            unpacked = list(_members(opened, archive.source, scratch))
    except Exception as error:  # zipfile raises many kinds on damage; none may stop a run
        kind = type(error).__name__
        yield Failure(
            archive.source,
            "broken_archive",
            f"{archive.source} cannot be opened as a zip archive ({kind}): pack it again",
        )
        return
    yield from unpacked


def _members(opened: zipfile.ZipFile, source: str, scratch: Path) -> Iterator[FileRef | Failure]:
    members = [member for member in opened.infolist() if not member.is_dir()]
    if len(members) > MAX_ENTRIES:
        yield Failure(
            source,
            "too_many_entries",
            f"{source} holds {len(members)} files, at most {MAX_ENTRIES} are unpacked: split it",
        )
        return
    scratch.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=scratch, prefix="zip-"))
    numbers: dict[str, int] = {}
    inflated = 0
    for member in members:
        shown = f"{source}/{member.filename}"
        refusal = _refusal(member, shown, inflated) or _nested(opened, member, shown)
        if refusal:
            yield refusal
            continue
        inflated += member.file_size
        yield _extract(opened, member, FileRef(_place(folder, member.filename, numbers), shown))


def _refusal(member: zipfile.ZipInfo, shown: str, inflated: int) -> Failure | None:
    """Why a member must not be unpacked, judged by its directory entry alone."""
    large = member.file_size > RATIO_FLOOR_BYTES
    rules = (
        (_escapes(member.filename), "unsafe_path", "its path leaves the archive"),
        (_is_link(member), "unsafe_path", "it is a link, not a file"),
        (bool(member.flag_bits & _ENCRYPTED), "encrypted", "it is encrypted: unpack it yourself"),
        (
            large and member.file_size > MAX_RATIO * max(member.compress_size, 1),
            "archive_bomb",
            f"it would grow more than {MAX_RATIO}-fold: unpack it yourself if you trust it",
        ),
        (
            inflated + member.file_size > MAX_INFLATED_BYTES,
            "archive_too_large",
            f"the archive grows beyond {MAX_INFLATED_BYTES >> 30} GiB: unpack it yourself",
        ),
    )
    for broken, reason, why in rules:
        if broken:
            return Failure(shown, reason, f"{shown} was not unpacked: {why}")
    return None


def _escapes(name: str) -> bool:
    # The archive may come from either world, so both readings of its separators must be safe.
    return any(
        path.is_absolute() or path.anchor != "" or ".." in path.parts
        for path in (PurePosixPath(name), PureWindowsPath(name))
    )


def _is_link(member: zipfile.ZipInfo) -> bool:
    kind = stat.S_IFMT(member.external_attr >> 16)
    return kind not in (0, stat.S_IFREG)


def _nested(opened: zipfile.ZipFile, member: zipfile.ZipInfo, shown: str) -> Failure | None:
    """An archive inside the archive, by its content: its limits could not be enforced here."""
    try:
        with opened.open(member) as stream:
            inner = stream.read(4) in _ZIP_MAGIC
    except Exception as error:
        return _damaged(shown, error)
    if not inner:
        return None
    message = f"{shown} is an archive inside an archive: unpack it yourself"
    return Failure(shown, "nested_archive", message, status="skipped")


def _place(folder: Path, name: str, numbers: dict[str, int]) -> Path:
    """A new path in `folder`; members of one stem share a number, repeated ones do not."""
    found = _SUFFIX.search(name)
    suffix = found.group() if found else ""
    stem = name.removesuffix(suffix)
    path = folder / f"{numbers.setdefault(stem, len(numbers)):06d}{suffix}"
    while path.exists():
        numbers[f"{stem}\0{len(numbers)}"] = len(numbers)
        path = folder / f"{len(numbers) - 1:06d}{suffix}"
    return path


def _extract(opened: zipfile.ZipFile, member: zipfile.ZipInfo, to: FileRef) -> FileRef | Failure:
    try:
        # zipfile never yields more bytes than the directory entry promised, and checks the sum.
        with opened.open(member) as stream, to.path.open("xb") as file:
            shutil.copyfileobj(stream, file, 2**20)
    except Exception as error:
        to.path.unlink(missing_ok=True)
        return _damaged(to.source, error)
    return to


def _damaged(shown: str, error: Exception) -> Failure:
    return Failure(
        shown,
        "broken_archive",
        f"{shown} cannot be unpacked ({type(error).__name__}): pack it again, check the disk",
    )
