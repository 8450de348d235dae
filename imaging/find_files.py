"""Every file under a path, once: sorted, links and devices accounted for, never followed out."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from wsseg.imaging.errors import Failure
from wsseg.imaging.scan import FileRef


def list_files(root: Path, name: str) -> Iterator[FileRef | Failure]:
    """The file `root`, or the files under the folder `root`, sorted by name.

    Hidden files and folders, among them the scratch folders of interrupted runs, are passed over
    silently. Links to folders and links that leave the folder are not followed but reported: so
    no loop can hang and nothing outside what the user named is read. `name` is the `source` of a
    named file, and stands before the sources, relative to `root`, of the files of a folder.
    """
    if not root.is_dir():
        yield _checked(root, name)
        return
    inside = root.resolve()
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            yield _unreadable(_source(folder, root, name), error)
            continue
        visible = [entry for entry in entries if not entry.name.startswith(".")]
        below = [Path(e.path) for e in visible if e.is_dir(follow_symlinks=False)]
        folders += reversed(below)
        for entry in visible:
            path = Path(entry.path)
            source = _source(path, root, name)
            if entry.is_symlink():
                yield _followed(path, source, inside)
            elif not entry.is_dir(follow_symlinks=False):
                yield _checked(path, source)


def shown(name: str) -> str:
    """A file name as reports can store it: bytes that are no UTF-8 are replaced."""
    return os.fsencode(name).decode("utf-8", "replace")


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


def _followed(path: Path, source: str, inside: Path) -> FileRef | Failure:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        return _unreadable(source, error)
    if target.is_dir():
        what = "is a link to a folder, and links are not followed"
    elif not target.is_relative_to(inside):
        what = "is a link that leaves the input folder"
    else:
        return _checked(path, source)
    message = f"{source} {what}: name its target as an input of its own"
    return Failure(source, "link", message, status="skipped")


def _checked(path: Path, source: str) -> FileRef | Failure:
    """The file, unless it is something that reading could hang on."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return _unreadable(source, error)
    if stat.S_ISREG(mode):
        return FileRef(path, source)
    message = f"{source} is a pipe, socket or device, not a file"
    return Failure(source, "special_file", message, status="skipped")


def _unreadable(source: str, error: OSError | RuntimeError) -> Failure:
    why = getattr(error, "strerror", None) or type(error).__name__
    return Failure(source, "unreadable", f"{source} cannot be opened: {why}")
