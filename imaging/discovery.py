"""Finds scans in whatever a user names: files, folders, archives, with or without suffix."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from wsseg.imaging.archive import Budget, unpack_gzip, unpack_tar, unpack_zip
from wsseg.imaging.content import ARCHIVES, Content, content_of, get_content, is_pointer, read_head
from wsseg.imaging.dicom import Header, group, read_headers
from wsseg.imaging.errors import Failure, ReadError, Status, WssegError
from wsseg.imaging.files import seen_by
from wsseg.imaging.pictures import picture_refs
from wsseg.imaging.scan import FileRef, ScanRef
from wsseg.imaging.volume_header import NoImageError
from wsseg.imaging.volumes import header_beside, volume_refs

# Every file under a path, once: sorted, links followed, devices accounted for.


def list_files(root: Path, name: str) -> Iterator[FileRef | Failure]:
    """The file `root`, or the files under the folder `root`, sorted by name.

    Links are followed wherever they lead, as the user who made them expects: files by links of
    git-annex, subjects by links to their folders. No folder is entered twice, so that no loop can
    hang, and none above `root`. Hidden files and folders, among them the scratch folders of
    interrupted runs, are passed over silently. `name` is the `source` of a named file, and stands
    before the sources, relative to `root`, of the files of a folder.
    """
    if not root.is_dir():
        yield _checked(root, name)
        return
    inside = root.resolve()
    entered = {inside}
    folders = [(root, inside)]
    while folders:
        folder, place = folders.pop()
        below = []
        for path, found in _listed(folder, place, lambda path: _source(path, root, name), inside):
            if not isinstance(found, Path):
                yield found
            elif found not in entered:
                entered.add(found)
                below.append((path, found))
            elif path.is_symlink():
                yield _linked_before(_source(path, root, name))
        folders += reversed(below)


def _listed(
    folder: Path, place: Path, source: Callable[[Path], str], inside: Path
) -> Iterator[tuple[Path, FileRef | Failure | Path]]:
    """The visible entries of a folder, sorted, and what each of them is."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield folder, _unreadable(source(folder), error)
        return
    for entry in entries:
        if not entry.name.startswith("."):
            path = Path(entry.path)
            yield path, _entry(entry, place, source(path), inside)


def _entry(
    entry: os.DirEntry[str], place: Path, source: str, inside: Path
) -> FileRef | Failure | Path:
    """What an entry of a folder is: a file, a folder by its real path, or why it is neither."""
    if entry.is_symlink():
        return _target(Path(entry.path), source, inside)
    if entry.is_dir(follow_symlinks=False):
        return place / entry.name
    return _checked(Path(entry.path), source)


def shown(name: str) -> str:
    """A file name as reports can store it: bytes that are no UTF-8 are escaped, each in its way.

    Names in an old encoding that differ in such a byte alone must not become one source.
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def shown_names(roots: Sequence[Path]) -> list[str]:
    """What reports call each input: "" for a single folder, otherwise its name.

    Where the names of several inputs collide, so that one source could mean two files, they
    become as much of the end of the inputs' paths as tells them apart: siteA/ct.nii, siteB/ct.nii.
    """
    if len(roots) == 1:
        return ["" if roots[0].is_dir() else shown(roots[0].name)]
    paths = [_whole(root).parts for root in roots]
    lengths = [1] * len(roots)
    while longer := _ambiguous(paths, lengths):
        for index in longer:
            lengths[index] += 1
    return [
        shown(PurePosixPath(*path[-length:]).as_posix())
        for path, length in zip(paths, lengths, strict=True)
    ]


def _whole(root: Path) -> Path:
    return root.resolve() if ".." in root.parts else root.absolute()


def _ambiguous(paths: Sequence[tuple[str, ...]], lengths: Sequence[int]) -> set[int]:
    """Inputs whose ends, of these lengths, are or lie below another's with another beginning."""
    cut = [(path[:-length], path[-length:]) for path, length in zip(paths, lengths, strict=True)]
    starts_of: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for start, end in cut:
        starts_of.setdefault(end, set()).add(start)
    found = set()
    for index, (start, end) in enumerate(cut):
        above = (starts_of.get(end[:length], {start}) for length in range(1, len(end) + 1))
        if start and any(starts != {start} for starts in above):
            found.add(index)
    return found


def _source(path: Path, root: Path, name: str) -> str:
    return PurePosixPath(name, shown(path.relative_to(root).as_posix())).as_posix()


def _target(path: Path, source: str, inside: Path) -> FileRef | Failure | Path:
    """What a link leads to, as `_entry` gives it."""
    try:
        target = path.resolve(strict=True)
    except FileNotFoundError:
        return Failure(source, *missing(path, source))
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        return _unreadable(source, error)
    if not target.is_dir():
        return _checked(path, source)
    if target == inside or not inside.is_relative_to(target):
        # A folder of the input is read under its own name, unless that is hidden.
        own = target.relative_to(inside).parts if target.is_relative_to(inside) else (".",)
        hidden = any(part.startswith(".") for part in own)
        return target if hidden else _linked_before(source)
    message = f"{source} is a link to a folder above the input: name that folder as an input"
    return Failure(source, "link", message)


def _linked_before(source: str) -> Failure:
    message = f"{source} is a link to a folder that is read under another name"
    return Failure(source, "duplicate", message, status="skipped")


def missing(path: Path, name: str) -> tuple[str, str]:
    """Why there is nothing at a path, in a code and in words that call it `name`."""
    if not path.is_symlink():
        return "file_gone", f"{name} does not exist: check the path"
    pointer = os.fsencode(path.readlink())
    if is_pointer(pointer):
        what = f"{name} is a link to content that is not here: {get_content(pointer)}"
        return "content_missing", what
    what = f"{name} is a link to a file that is not there: copy the file, or remove the link"
    return "broken_link", what


def _checked(path: Path, source: str) -> FileRef | Failure:
    """The file, unless it is something that reading could hang on."""
    try:
        status = path.stat()
    except OSError as error:
        return _unreadable(source, error)
    if stat.S_ISREG(status.st_mode):
        return FileRef(path, source, seen_by(status))
    message = f"{source} is a pipe, socket or device, not a file"
    return Failure(source, "special_file", message, status="skipped")


def _unreadable(source: str, error: OSError | RuntimeError) -> Failure:
    why = getattr(error, "strerror", None) or type(error).__name__
    return Failure(source, "unreadable", f"{source} cannot be opened: {why}")


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
