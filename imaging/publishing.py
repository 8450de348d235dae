"""Publishing: files that are on the disk before they have their names, several at once."""

import errno
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path

from wsseg.imaging.scratch import BESIDE, COMMITTED, lock_folder

NEW = "new"
"""The part of a scratch folder that is published."""

# What systems answer that have no such call for this kind of file: nothing can be done about it.
_NOT_SYNCED = frozenset((errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF))

_log = logging.getLogger(__name__)


class NotPlacedError(OSError):
    """A file that could not take its place. kept: names of the files that lie beside theirs."""

    kept: Sequence[str] = ()

    @property
    def failed(self) -> Path:
        """The place that is taken."""
        return Path(self.filename)


def publish(scratch: Path, names: Sequence[str]) -> None:
    """Move what `scratch` has under these names to its own folder: all, or none with an error.

    From the moment when their names are written down, a later process completes the work.
    """
    for folder, _, files in os.walk(scratch / NEW, topdown=False):
        for name in files:
            sync(Path(folder, name))
        sync(Path(folder))
    begun = scratch / "names"
    begun.write_text(json.dumps(names), encoding="ascii")
    sync(begun)
    marker = begun.replace(scratch / COMMITTED)
    sync(scratch)
    sync(scratch.parent)
    try:
        _place(scratch, names)
    except BaseException:
        marker.unlink(missing_ok=True)  # before anything else is done with the new files
        raise
    sync(scratch.parent)
    marker.unlink(missing_ok=True)


def _place(scratch: Path, names: Sequence[str]) -> None:
    """Move the new files of `scratch` to their places, unless they are there already.

    Raises NotPlacedError, with all old ones put back, where one cannot be moved.
    """
    old_files = scratch / "old"
    old_files.mkdir(exist_ok=True)
    with ExitStack() as undo:
        for name in names:
            new, old, target = scratch / NEW / name, old_files / name, scratch.parent / name
            if not new.exists() or (old.exists() and target.exists()):
                continue  # moved by a process that was killed; and perhaps replaced since
            try:
                if target.exists() and target.is_dir() == new.is_dir():
                    target.replace(old)
                    undo.callback(_restore, old, target)
                new.replace(target)
                undo.callback(target.replace, new)
            except OSError as error:
                raise NotPlacedError(error.errno, error.strerror, str(target)) from error
        undo.pop_all()


def _restore(old: Path, target: Path) -> None:
    """Put an old file back, or beside its place if that was taken meanwhile: never lost."""
    try:
        old.replace(target)
    except OSError:
        keep(old, target)


def keep(scratch: Path, target: Path) -> Path:
    """Move a file beside its place, over no other file."""
    names = (target.with_name(f"{target.stem}.kept{n}{target.suffix}") for n in count(1))
    free = next(name for name in names if not name.exists())
    scratch.replace(free)
    return free


def committed(output: Path) -> Iterator[tuple[Path, list[str]]]:
    """The scratch folders that were about to put something there, with all names in each."""
    with suppress(OSError):
        for scratch in output.parent.glob(f"{BESIDE}*"):
            with suppress(OSError, ValueError):
                names = json.loads((scratch / COMMITTED).read_text(encoding="ascii"))
                if output.name in names and all(Path(name).name == name for name in names):
                    yield scratch, names


def complete(output: Path) -> None:
    """Complete what a killed process had begun to put there; for the process that has locked it."""
    for scratch, names in list(committed(output)):
        try:
            descriptor = lock_folder(scratch)
        except OSError:
            continue  # it is being used
        try:
            _place(scratch, names)
            sync(scratch.parent)
            shutil.rmtree(scratch, ignore_errors=True)
            _log.warning("%s is completed, of which a killed process had put a part", output)
        except OSError as error:
            _log.warning("%s cannot be completed: %s", output, error)
        finally:
            if descriptor is not None:
                os.close(descriptor)


def sync(path: Path) -> None:
    """Wait until a file, or the list of a folder, is on the disk.

    Raises OSError where the disk fails or is full, which some shares tell only here.
    """
    folder = path.is_dir()
    if folder and os.name == "nt":  # Windows opens no folder
        return
    try:
        # Windows takes only what can be written.
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    except PermissionError:
        if folder:  # one that may be written to, and not be listed
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SYNCED:
            raise
    finally:
        os.close(descriptor)


def sync_files(paths: Iterable[Path]) -> None:
    """`sync` for many files, then for their folders; one that is gone is left out.

    Raises the first OSError after all have been tried.
    """
    files = list(paths)
    failed: OSError | None = None
    for path in (*files, *dict.fromkeys(file.parent for file in files)):
        try:
            sync(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            failed = failed or error
    if failed:
        raise failed


def make_folder(path: Path) -> None:
    """Make a folder and those above it, so that a power cut does not undo it."""
    missing = [path]
    while not missing[-1].exists():
        missing.append(missing[-1].parent)
    path.mkdir(parents=True, exist_ok=True)
    for above in missing[1:]:
        sync(above)
