"""One process at a time on one output: a lock that the kernel gives back, however it ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsseg.imaging.errors import WssegError

try:
    import fcntl
except ModuleNotFoundError:  # Windows has no flock: nothing is held there
    fcntl = None  # type: ignore[assignment]

PREFIX = ".lock-"


@contextmanager
def held(output: Path, busy: str) -> Iterator[None]:
    """Hold an output, a file or a folder, which need not exist yet; WssegError where another does.

    busy: what the error says. The lock is a file beside the output while it is held; one that a
    killed process left behind locks nothing. It holds among processes of one machine; on a network
    share, among machines, only if the share passes locks on (NFS from version 4, mostly).
    """
    place = output.resolve()  # one folder under two names is one
    path = place.with_name(f"{PREFIX}{place.name}")
    try:
        descriptor = _locked(path)
    except BlockingIOError as error:
        raise WssegError(busy) from error
    except OSError:
        # No right to write there, or a file system without locks: the work itself will tell.
        descriptor = None
    try:
        yield
    finally:
        if descriptor is not None:
            # While it is still locked: afterwards it could be another's.
            with suppress(OSError):
                path.unlink()
            os.close(descriptor)


def _locked(path: Path) -> int | None:
    """A descriptor of the locked file; BlockingIOError where another process has locked it."""
    if fcntl is None:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except OSError:
            os.close(descriptor)
            raise
        # Another process let go between our opening and locking, and its file is gone.
        os.close(descriptor)
