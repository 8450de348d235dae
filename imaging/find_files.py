"""Every file under a path, once: sorted, links followed, devices accounted for."""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from wsseg.imaging.changed import seen_by
from wsseg.imaging.errors import Failure
from wsseg.imaging.find_content import get_content, is_pointer
from wsseg.imaging.scan import FileRef


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
