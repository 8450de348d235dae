"""Finds scans in whatever a user names: files, folders, archives, with or without suffix."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from wsseg.imaging.archive import Budget, unpack_gzip, unpack_tar, unpack_zip
from wsseg.imaging.dicom_group import group
from wsseg.imaging.dicom_header import Header, read_headers
from wsseg.imaging.errors import Failure, ReadError, Status, WssegError
from wsseg.imaging.find_content import ARCHIVES, Content, content_of, read_head
from wsseg.imaging.find_files import list_files, missing, shown_names
from wsseg.imaging.find_pairs import header_beside
from wsseg.imaging.picture import picture_refs
from wsseg.imaging.scan import FileRef, ScanRef
from wsseg.imaging.volume import volume_refs
from wsseg.imaging.volume_header import NoImageError


def find(paths: Sequence[Path], *, scratch: Path) -> Iterator[ScanRef | Failure]:
    """Every scan in files, folders, zip and tar archives and gzip files, by first bytes only.

    Each file ends in scans or in one Failure (the voxels of a pair in that of their header):
    what is no image is "skipped", what is one and is not read, or may be, is "failed". Pictures
    and volumes come as they are met, DICOM scans at the end, because their files may lie
    anywhere. Archives are unpacked into `scratch`, which must outlive the reading of the scans.

    Sources are relative to a single input; of several inputs each is named in front, by as much
    of its path as tells it from the others (see `shown_names`).

    Raises WssegError at once if a path does not exist.
    """
    for path in paths:
        if not path.exists():
            raise WssegError(missing(path, str(path))[1])
    return _find([header_beside(path) or path for path in paths], scratch)


def _find(paths: Sequence[Path], scratch: Path) -> Iterator[ScanRef | Failure]:
    headers: list[Header] = []
    files = _unpacked(_once(paths), scratch)
    for found in files:
        if isinstance(found, Failure):
            yield found
            continue
        file, content = found
        if content == "dicom":
            images = read_headers(file)
            if isinstance(images, Failure):
                yield images
            else:
                headers += images
        elif content == "volume":
            yield from _volumes(file)
        else:
            yield from picture_refs(file)
    yield from group(headers)


def _once(paths: Sequence[Path]) -> Iterator[FileRef | Failure]:
    """The files under all paths; one that several of them reach counts once."""
    seen: set[Path] = set()
    for root, name in zip(paths, shown_names(paths), strict=True):
        for found in list_files(root, name):
            if isinstance(found, FileRef):
                if header_beside(found.path):
                    continue
                target = found.path.resolve()
                if target in seen:
                    yield _repeated(found)
                    continue
                seen.add(target)
            yield found


def _repeated(file: FileRef) -> Failure:
    message = f"{file.source} was named or linked before"
    return Failure(file.source, "duplicate", message, status="skipped")


def _unpacked(
    files: Iterable[FileRef | Failure], scratch: Path
) -> Iterator[tuple[FileRef, Content] | Failure]:
    """Files with their content, archives and packed files replaced by what they hold."""
    for file in files:
        found = _with_content(file)
        if isinstance(found, tuple) and found[1] in ARCHIVES:
            yield from _held(*found, scratch, Budget())
        else:
            yield found


def _with_content(file: FileRef | Failure) -> tuple[FileRef, Content] | Failure:
    if isinstance(file, Failure):
        return file
    try:
        content = content_of(read_head(file))
    except OSError as error:
        why = error.strerror or type(error).__name__
        return Failure(file.source, "unreadable", f"{file.source} cannot be opened: {why}")
    return content if isinstance(content, Failure) else (file, content)


def _held(
    file: FileRef, content: Content, scratch: Path, budget: Budget
) -> Iterator[tuple[FileRef, Content] | Failure]:
    """What a packed file or an archive holds."""
    if content == "gzip":
        for unpacked in unpack_gzip(file, scratch, budget):
            yield _unless_archive(_with_content(unpacked))
    else:
        unpack = unpack_tar if content == "tar" else unpack_zip
        yield from _members(file, unpack(file, scratch, budget), scratch, budget)


def _members(
    archive: FileRef, members: Iterable[FileRef | Failure], scratch: Path, budget: Budget
) -> Iterator[tuple[FileRef, Content] | Failure]:
    """The members of an archive, hidden ones passed over; none is an archive itself."""
    empty = True
    for member in members:
        empty = False
        if isinstance(member, Failure):
            yield member
        elif not _hidden(member, archive) and not header_beside(member.path):
            found = _with_content(member)
            if isinstance(found, tuple) and found[1] == "gzip":
                yield from _held(*found, scratch, budget)
            else:
                yield _unless_archive(found)
    if empty:
        message = f"{archive.source} is an empty archive"
        yield Failure(archive.source, "empty_archive", message, status="skipped")


def _unless_archive(
    found: tuple[FileRef, Content] | Failure,
) -> tuple[FileRef, Content] | Failure:
    """Archives within archives are not unpacked: there is no end to them."""
    if isinstance(found, Failure) or found[1] not in ARCHIVES:
        return found
    source = found[0].source
    message = f"{source} is an archive inside an archive: unpack the outer one first"
    return Failure(source, "nested_archive", message)


def _hidden(member: FileRef, archive: FileRef) -> bool:
    inside = member.source.removeprefix(f"{archive.source}/")
    return any(part.startswith((".", "__MACOSX")) for part in inside.split("/"))


def _volumes(file: FileRef) -> Iterator[ScanRef | Failure]:
    try:
        yield from volume_refs(file)
    except ReadError as error:
        status: Status = "skipped" if isinstance(error, NoImageError) else "failed"
        yield Failure(file.source, error.reason, str(error), status=status)
