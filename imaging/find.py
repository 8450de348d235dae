"""Finds scans in whatever a user names: files, folders, zip archives, with or without suffix."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from wsseg.imaging.archive import unpack
from wsseg.imaging.dicom_group import group
from wsseg.imaging.dicom_header import Header, read_headers
from wsseg.imaging.errors import Failure, ReadError, WssegError
from wsseg.imaging.find_content import HEAD_BYTES, Content, Head, content_of, header_beside
from wsseg.imaging.find_files import list_files, shown_names
from wsseg.imaging.picture import picture_refs
from wsseg.imaging.scan import FileRef, ScanRef
from wsseg.imaging.volume import volume_refs


def find(paths: Sequence[Path], *, scratch: Path) -> Iterator[ScanRef | Failure]:
    """Every scan in files, folders and zip archives, by headers and first bytes only.

    Each file ends in exactly one scan or Failure (a NIfTI .img in that of its .hdr): what is no
    image is "skipped", what should have been one is "failed". Pictures and NIfTI files come as
    they are met, DICOM scans at the end, because their files may lie anywhere. Archives are
    unpacked into `scratch`, which must outlive the reading of the scans.

    Sources are relative to a single input; of several inputs each is named in front, by as much
    of its path as tells it from the others (see `shown_names`).

    Raises WssegError at once if a path does not exist.
    """
    for path in paths:
        if not path.exists():
            raise WssegError(f"{path} does not exist: check the path")
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
            yield from _nifti(file)
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
    """Files with their content, archives replaced by their members."""
    for file in files:
        found = _with_content(file)
        if isinstance(found, tuple) and found[1] == "zip":
            yield from _members(found[0], scratch)
        else:
            yield found


def _hidden(member: FileRef, archive: FileRef) -> bool:
    inside = member.source.removeprefix(f"{archive.source}/")
    return any(part.startswith((".", "__MACOSX")) for part in inside.split("/"))


def _with_content(file: FileRef | Failure) -> tuple[FileRef, Content] | Failure:
    if isinstance(file, Failure):
        return file
    try:
        with file.path.open("rb") as stream:
            head = Head(file, stream.read(HEAD_BYTES), file.path.stat().st_size)
    except OSError as error:
        why = error.strerror or type(error).__name__
        return Failure(file.source, "unreadable", f"{file.source} cannot be opened: {why}")
    content = content_of(head)
    return content if isinstance(content, Failure) else (file, content)


def _members(archive: FileRef, scratch: Path) -> Iterator[tuple[FileRef, Content] | Failure]:
    """The members of a zip archive, hidden ones passed over; none is an archive itself."""
    empty = True
    for member in unpack(archive, scratch):
        empty = False
        if isinstance(member, Failure):
            yield member
        elif not _hidden(member, archive) and not header_beside(member.path):
            yield _with_content(member)
    if empty:
        message = f"{archive.source} is an empty archive"
        yield Failure(archive.source, "empty_archive", message, status="skipped")


def _nifti(file: FileRef) -> Iterator[ScanRef | Failure]:
    try:
        yield from volume_refs(file)
    except ReadError as error:
        yield Failure(file.source, error.reason, str(error))
