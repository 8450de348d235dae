"""Every file under a path, once: sorted, links and devices accounted for, never followed out."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from wsseg.imaging.errors import Failure
from wsseg.imaging.scan import FileRef


def list_files(root: Path) -> Iterator[FileRef | Failure]:
    """The file `root`, or the files under the folder `root`, sorted by name.

    Hidden files and folders, among them the scratch folders of interrupted runs, are passed over
    silently. Links to folders and links that leave the folder are not followed but reported: so
    no loop can hang and nothing outside what the user named is read. `source` is relative to
    `root`; a named file has its own name.
    """
    if not root.is_dir():
        yield _checked(root, shown(root.name))
        return
    inside = root.resolve()
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            yield _unreadable(_source(folder, root), error)
            continue
        visible = [entry for entry in entries if not entry.name.startswith(".")]
        below = [Path(e.path) for e in visible if e.is_dir(follow_symlinks=False)]
        folders += reversed(below)
        for entry in visible:
            path = Path(entry.path)
            if entry.is_symlink():
                yield _followed(path, _source(path, root), inside)
            elif not entry.is_dir(follow_symlinks=False):
                yield _checked(path, _source(path, root))


def shown(name: str) -> str:
    """A file name as reports can store it: bytes that are no UTF-8 are replaced."""
    return os.fsencode(name).decode("utf-8", "replace")


def _source(path: Path, root: Path) -> str:
    return shown(path.relative_to(root).as_posix())


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
