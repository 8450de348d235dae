"""The border where whatever a file made a library raise becomes one ReadError."""

import errno
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from wsseg.imaging.errors import ReadError, WssegError

logger = logging.getLogger(__name__)


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Turn anything that reading `source` raises into a ReadError that names it.

    The libraries' own messages may quote header values, hence patient data: neither the error
    nor the log repeats them, only the kind of the exception and the lines of code it passed.
    """
    try:
        yield
    except WssegError:
        raise
    except Exception as error:
        lines = "".join(traceback.format_tb(error.__traceback__))
        logger.debug("%s while reading %s\n%s", type(error).__name__, source, lines)
        raise _translated(source, error) from error


def no_space(source: str) -> str:
    """What to say where `source` could not be unpacked for want of space."""
    return (
        f"{source} cannot be unpacked, the folder for temporary files is full: free some space "
        "there, or set TMPDIR to a folder that has more"
    )


def _translated(source: str, error: Exception) -> ReadError:
    match error:
        case FileNotFoundError():
            return ReadError("file_gone", f"{source} is not there: check the path")
        case PermissionError():
            return ReadError("no_permission", f"{source} may not be read: change its permissions")
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return ReadError("no_space", no_space(source))
        case MemoryError():
            return ReadError(
                "out_of_memory", f"{source} needs more memory than there is: crop or split it"
            )
        case _:
            kind = type(error).__name__
            return ReadError(
                "unreadable",
                f"{source} cannot be read ({kind}): it is damaged or of an unknown form; "
                "export it again",
            )
