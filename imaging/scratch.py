"""Scratch folders: each is locked by the process that uses it, so that what a killed process has
left is told from what another one is using, and removed.
"""

import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows has no flock: nothing is locked there
    fcntl = None  # type: ignore[assignment]

TEMPORARY = "wsseg-scratch-"
"""How the names of scratch folders among the system's temporary files begin."""
BESIDE = ".tmp-wsseg-"
"""How the names of scratch folders beside outputs begin; hidden, so that they are no inputs."""
COMMITTED = "committed"
"""The file that a scratch folder has whose content is about to take its place, see `files`."""
OLD_SECONDS = 30 * 24 * 3600.0
"""Where no lock tells whether its user is alive, a folder is left behind if nothing in it has
changed for so long."""

# Of these file systems one system alone has the disk, so that its locks are known to all users:
# on a share, a lock may be of one machine, and in a container, a process may have any number.
_OF_ONE_SYSTEM = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs")
)

_ATTEMPTS = 9

_swept: set[str] = set()
_sweeping = threading.Lock()


class Scratch:
    """A new scratch folder in `parent`, by default the folder for temporary files.

    `close` removes it, as does the end of this object or of the process. The first one in a parent
    removes those that killed processes left there.
    """

    def __init__(self, parent: Path | None = None) -> None:
        prefix = TEMPORARY if parent is None else BESIDE
        parent = Path(tempfile.gettempdir()) if parent is None else parent
        sweep(parent)
        descriptor = None
        for _ in range(_ATTEMPTS):
            self.path = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
            with suppress(BlockingIOError, FileNotFoundError):  # taken for one that was left
                descriptor = lock_folder(self.path)
                break
        self.close = weakref.finalize(self, _remove, self.path, descriptor, os.getpid())


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield the path of a new `Scratch`; what cannot be removed after the block stays silently."""
    scratch = Scratch(parent)
    try:
        yield scratch.path
    finally:
        scratch.close()


def _remove(path: Path, descriptor: int | None, owner: int) -> None:
    if os.getpid() != owner:  # a forked process inherits the object, and not the folder
        return
    shutil.rmtree(path, ignore_errors=True)
    if descriptor is not None:
        os.close(descriptor)


def sweep(parent: Path) -> None:
    """Remove the scratch folders in `parent` whose processes were killed; once in each process.

    In doubt a folder stays: that of another user, and, where the file system does not know the
    locks of all its users, one in which something changed within `OLD_SECONDS`.
    """
    with _sweeping:
        key = os.path.realpath(parent)
        if key in _swept:
            return
        _swept.add(key)
    with suppress(OSError):  # of the folder: whoever writes to it will report it
        found = [entry for entry in os.scandir(key) if entry.name.startswith((TEMPORARY, BESIDE))]
        locks_tell = bool(found) and _file_system(key) in _OF_ONE_SYSTEM
        for entry in found:
            with suppress(OSError):  # of one folder: removed meanwhile, or not ours
                _sweep_one(entry, locks_tell=locks_tell)


def _sweep_one(entry: os.DirEntry[str], *, locks_tell: bool) -> None:
    status = entry.stat(follow_symlinks=False)
    mine = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    if not (entry.is_dir(follow_symlinks=False) and mine):
        return
    path = Path(entry.path)
    descriptor = lock_folder(path)  # an error where its process is alive
    try:
        # Whoever locks the output next completes what is committed.
        told = locks_tell and descriptor is not None and not (path / COMMITTED).exists()
        if told or time.time() - _last_change(path) > OLD_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def lock_folder(path: Path) -> int | None:
    """A descriptor that locks a folder until it is closed; None where there are no locks.

    Raises BlockingIOError if it is locked already, FileNotFoundError if it is gone.
    """
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        raise FileNotFoundError(path)
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        raise
    except OSError:  # a share without locks for folders
        os.close(descriptor)
        return None


def is_share(path: Path) -> bool:
    """Whether other machines may change what is in a folder, as far as the system tells."""
    return _file_system(os.path.realpath(path)) not in (*_OF_ONE_SYSTEM, "")


def _last_change(path: Path) -> float:
    """The time of the last change of a folder and all that is in it, in seconds of `time.time`."""
    return max(each.lstat().st_mtime for each in (path, *path.rglob("*")))


def _file_system(path: str) -> str:
    """The type of the file system that has a real path; "" where the system does not tell."""
    best, kind = "", ""
    with suppress(OSError), Path("/proc/self/mountinfo").open(encoding="utf-8") as mounts:
        for line in mounts:
            before, _, after = line.partition(" - ")
            point = before.split()[4].encode().decode("unicode_escape")  # \040 is a space
            inside = path == point or path.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):  # the last one mounted lies on top
                best, kind = point, after.split()[0]
    return kind
