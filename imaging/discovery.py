"""Finds scans in whatever a user names: files, folders and archives, recognised by content."""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from wsseg.imaging.archive import Budget, unpack_gzip, unpack_tar, unpack_zip
from wsseg.imaging.content import ARCHIVES, Content, content_of, get_content, is_pointer, read_head
from wsseg.imaging.dicom import Header, group, read_headers
from wsseg.imaging.errors import Failure, ReadError, Status, WssegError
from wsseg.imaging.files import seen_by
from wsseg.imaging.hashed_names import HashedName, real_name, renamed
from wsseg.imaging.limits import DEFAULT_LIMITS, ReadLimits
from wsseg.imaging.pictures import picture_refs
from wsseg.imaging.scan import FileRef, ScanRef
from wsseg.imaging.volume_header import NoImageError
from wsseg.imaging.volumes import header_beside, volume_refs

if TYPE_CHECKING:
    from wsseg.imaging.watched import Watched

_Item = tuple[FileRef, Content] | Failure
"""A file with its content, or why it has none that is read."""


def find(
    paths: Sequence[Path],
    *,
    scratch: Path,
    limits: ReadLimits = DEFAULT_LIMITS,
    watched: "Watched | None" = None,
    salt: bytes | None = None,
) -> Iterator[ScanRef | Failure]:
    """Every scan in files, folders, zip and tar archives and gzip files, by first bytes only.

    Each file ends in scans or in one Failure (the voxels of a pair in that of their header): what
    is no image is "skipped"; an image, or what may be one, that is not read is "failed". Pictures
    and volumes are yielded as they are met, DICOM scans at the end, because their files may be
    anywhere. Archives are unpacked into `scratch`, which must outlive the reading of the scans.

    Sources are relative to a single input; with several inputs, each source begins with as much
    of the path of its input as distinguishes it (see `shown_names`).

    watched: leave out the files that it does not call complete, and DICOM series that have one.

    salt: sources are keyed digests under it, see `HashedName`; the order is that of the names.

    Raises WssegError at once if a path does not exist.
    """
    for path in paths:
        if not path.exists():
            raise WssegError(missing(path, str(path))[1])
    files = _once([header_beside(path) or path for path in paths], salt)
    return _find(files, scratch, limits, watched)


def _find(
    files: Iterator[FileRef | Failure],
    scratch: Path,
    limits: ReadLimits,
    watched: "Watched | None",
) -> Iterator[ScanRef | Failure]:
    headers: list[Header] = []
    growing: set[tuple[str, str]] = set()
    if watched:
        files = _complete(files, watched, limits, (headers, growing))
    for item in _unpacked(files, scratch, limits):
        if isinstance(item, Failure):
            yield item
            continue
        file, content = item
        if content == "dicom":
            images = read_headers(file, limits)
            if watched:
                watched.remember(file, images)
            if isinstance(images, Failure):
                yield images
            else:
                headers += images
        elif content == "picture":
            yield from picture_refs(file)
        else:
            try:
                yield from volume_refs(file, limits)
            except ReadError as error:
                status: Status = "skipped" if isinstance(error, NoImageError) else "failed"
                yield Failure(file.source, error.reason, str(error), status=status)
    yield from group(header for header in headers if header.series not in growing)


def _complete(
    files: Iterable[FileRef | Failure],
    watched: "Watched",
    limits: ReadLimits,
    found: tuple[list[Header], set[tuple[str, str]]],
) -> Iterator[FileRef | Failure]:
    """The files that are complete and yet to be read.

    found: receives the headers that are known, and the series of files that may still be written.
    """
    headers, growing = found
    for file in files:
        if isinstance(file, Failure):
            yield file
        elif watched.is_complete(file):
            known = watched.headers(file)
            if isinstance(known, list):
                headers += known
            else:
                yield known or file
        else:
            item = _with_content(file)
            if isinstance(item, tuple) and item[1] == "dicom":
                images = read_headers(file, limits)
                if isinstance(images, list):
                    growing.update(image.series for image in images)


def _once(paths: Sequence[Path], salt: bytes | None) -> Iterator[FileRef | Failure]:
    """The files under all paths, without the voxels of pairs; each file once."""
    seen: set[Path] = set()
    names = shown_names(paths)
    if salt:
        names = [HashedName(name, salt) for name in names]
    for root, name in zip(paths, names, strict=True):
        for item in list_files(root, name):
            if isinstance(item, FileRef):
                if header_beside(item.path):
                    continue
                target = item.path.resolve()
                if target in seen:
                    message = f"{item.source} was named or linked before"
                    yield Failure(item.source, "duplicate", message, status="skipped")
                    continue
                seen.add(target)
            yield item


def _unpacked(
    files: Iterable[FileRef | Failure], scratch: Path, limits: ReadLimits
) -> Iterator[_Item]:
    """Files with their content; archives and packed files are replaced by what they hold."""
    for file in files:
        item = _with_content(file)
        if isinstance(item, Failure) or item[1] not in ARCHIVES:
            yield item
            continue
        archive, content = item
        budget = Budget(limits)
        if content == "gzip":
            yield from _unpacked_gzip(archive, scratch, budget)
            continue
        unpack = unpack_tar if content == "tar" else unpack_zip
        empty = True
        for member in unpack(archive, scratch, budget):
            empty = False
            if isinstance(member, Failure):
                yield member
                continue
            inside = real_name(member.source).removeprefix(f"{real_name(archive.source)}/")
            hidden = any(part.startswith((".", "__MACOSX")) for part in inside.split("/"))
            if not hidden and not header_beside(member.path):
                item = _with_content(member)
                if isinstance(item, tuple) and item[1] == "gzip":
                    yield from _unpacked_gzip(item[0], scratch, budget)
                else:
                    yield _unless_archive(item)
        if empty:
            message = f"{archive.source} is an empty archive"
            yield Failure(archive.source, "empty_archive", message, status="skipped")


def _with_content(file: FileRef | Failure) -> _Item:
    if isinstance(file, Failure):
        return file
    try:
        content = content_of(read_head(file))
    except OSError as error:
        return _unreadable(file.source, error)
    return content if isinstance(content, Failure) else (file, content)


def _unpacked_gzip(packed: FileRef, scratch: Path, budget: Budget) -> Iterator[_Item]:
    for file in unpack_gzip(packed, scratch, budget):
        yield _unless_archive(_with_content(file))


def _unless_archive(item: _Item) -> _Item:
    """Archives within archives are not unpacked, because they may be nested without end."""
    if isinstance(item, Failure) or item[1] not in ARCHIVES:
        return item
    source = item[0].source
    message = f"{source} is an archive inside an archive: unpack the outer one first"
    return Failure(source, "nested_archive", message)


def list_files(root: Path, name: str) -> Iterator[FileRef | Failure]:
    """The file `root`, or the files under the folder `root`, sorted by name.

    name: the source of a named file, and the beginning of the sources of a folder's files, which
    are relative to `root`. Links are followed wherever they lead, as the user who made them
    expects: files by links of git-annex, subjects by links to their folders. No folder is entered
    twice, so that no loop can hang, and none above `root`. Hidden files and folders, among them
    the scratch folders of interrupted runs, are skipped silently.
    """
    if not root.is_dir():
        yield _checked(root, name)
        return
    real_root = root.resolve()
    entered = {real_root}
    folders = [(root, real_root)]
    while folders:
        folder, real_folder = folders.pop()
        subfolders = []
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            yield _unreadable(_source(folder, root, name), error)
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = Path(entry.path)
            source = _source(path, root, name)
            item = _entry(entry, real_folder, source, real_root)
            if not isinstance(item, Path):
                yield item
            elif item not in entered:
                entered.add(item)
                subfolders.append((path, item))
            elif path.is_symlink():
                yield _linked_before(source)
        folders += reversed(subfolders)


def _entry(
    entry: os.DirEntry[str], real_folder: Path, source: str, real_root: Path
) -> FileRef | Failure | Path:
    """What an entry of a folder is: a file, a folder by its real path, or why it is neither."""
    path = Path(entry.path)
    if not entry.is_symlink():
        folder = entry.is_dir(follow_symlinks=False)
        return real_folder / entry.name if folder else _checked(path, source)
    try:
        target = path.resolve(strict=True)
    except FileNotFoundError:
        return Failure(source, *missing(path, source))
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        return _unreadable(source, error)
    if not target.is_dir():
        return _checked(path, source)
    if target != real_root and real_root.is_relative_to(target):
        message = f"{source} is a link to a folder above the input: name that folder as an input"
        return Failure(source, "link", message)
    # A folder of the input is read under its own name, unless that is hidden.
    own = target.relative_to(real_root).parts if target.is_relative_to(real_root) else (".",)
    hidden = any(part.startswith(".") for part in own)
    return target if hidden else _linked_before(source)


def _source(path: Path, root: Path, name: str) -> str:
    below = shown(path.relative_to(root).as_posix())
    return renamed(name, PurePosixPath(real_name(name), below).as_posix())


def _linked_before(source: str) -> Failure:
    message = f"{source} is a link to a folder that is read under another name"
    return Failure(source, "duplicate", message, status="skipped")


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


def missing(path: Path, name: str) -> tuple[str, str]:
    """Why there is nothing at a path: a code, and a sentence that calls the path `name`."""
    if not path.is_symlink():
        return "file_gone", f"{name} does not exist: check the path"
    pointer = os.fsencode(path.readlink())
    if is_pointer(pointer):
        what = f"{name} is a link to content that is not here: {get_content(pointer)}"
        return "content_missing", what
    what = f"{name} is a link to a file that is not there: copy the file, or remove the link"
    return "broken_link", what


def shown(name: str) -> str:
    """A file name as reports can store it: bytes that are no UTF-8 are escaped, each differently.

    Names in an old encoding that differ only in such a byte must not become one source.
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def shown_names(roots: Sequence[Path]) -> list[str]:
    """What reports call each input: "" for a single folder, otherwise its name.

    Where the names of several inputs collide, so that one source could mean two files, they
    become as much of the end of the inputs' paths as distinguishes them: siteA/ct.nii,
    siteB/ct.nii.
    """
    if len(roots) == 1:
        return ["" if roots[0].is_dir() else shown(roots[0].name)]
    paths = [(r.resolve() if ".." in r.parts else r.absolute()).parts for r in roots]
    lengths = [1] * len(roots)
    while longer := _ambiguous(paths, lengths):
        for index in longer:
            lengths[index] += 1
    return [
        shown(PurePosixPath(*path[-length:]).as_posix())
        for path, length in zip(paths, lengths, strict=True)
    ]


def _ambiguous(paths: Sequence[tuple[str, ...]], lengths: Sequence[int]) -> set[int]:
    """Inputs whose last parts, in these numbers, could also name a file of another input."""
    split = [(path[:-length], path[-length:]) for path, length in zip(paths, lengths, strict=True)]
    starts_of: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for start, end in split:
        starts_of.setdefault(end, set()).add(start)
    ambiguous = set()
    for index, (start, end) in enumerate(split):
        above = (starts_of.get(end[:length], {start}) for length in range(1, len(end) + 1))
        if start and any(starts != {start} for starts in above):
            ambiguous.add(index)
    return ambiguous
