"""Errors that a user can correct, and the borders where what libraries raise becomes one."""

import errno
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

# Modules that the base install leaves out, and the extra that brings each.
_EXTRAS = {
    "cryptography": "sign",
    "dicomweb_client": "dicomweb",
    "requests": "dicomweb",
    "highdicom": "dicom",
    "jaxtyping": "train",
    "lightning_fabric": "train",
    "matplotlib": "train",
    "safetensors": "train",
    "tensorboard": "train",
    "torch": "train",
    "torchvision": "train",
    "onnx": "export",
    "onnxscript": "export",
    "nilearn": "demo",
    "prometheus_client": "node",
    "pynetdicom": "node",
    "watchfiles": "follow",
    "ray": "cluster",
    "statsmodels": "agree",
}


class WssegError(Exception):
    """An error that a user can correct: the message names what was found, expected, and what to do.

    Anything else that is raised is a bug and keeps its traceback.
    """

    exit_code: ClassVar[int] = 2


class NothingToDoError(WssegError):
    """The input has nothing that this command can process."""

    exit_code: ClassVar[int] = 3


class AllFailedError(WssegError):
    """Every part of the work failed."""

    exit_code: ClassVar[int] = 4


class SomeFailedError(WssegError):
    """Part of the work succeeded and its results are valid; the message names what failed."""

    exit_code: ClassVar[int] = 8


class ReadError(WssegError):
    """An image file that cannot be read; `reason` is a short stable code for machines."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["ReadError"], tuple[str, str]]:
        """Keep the reason when the error is passed to another process."""
        return type(self), (self.reason, str(self))


Status = Literal["skipped", "failed"]


class NotPossibleError(WssegError):
    """A scan cannot have an output because of its kind; `reason` is a short code for machines."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Failure:
    """A file that gave no result, as a value, so that it costs no other file its result.

    source: the path as the report shows it. status: "skipped" for a file that is ignored on purpose
    (a report, a segmentation, a text file), "failed" for one that should have been read.
    """

    source: str
    reason: str
    message: str
    status: Status = "failed"


logger = logging.getLogger(__name__)


def lines_of(error: BaseException) -> str:
    """The lines of code that an exception passed: all of its traceback but its message."""
    return "".join(traceback.format_tb(error.__traceback__))


@contextmanager
def translate_errors(source: str) -> Iterator[None]:
    """Turn every exception into a ReadError that names the file `source`.

    The messages of libraries may quote header values, hence patient data: the error and the log
    contain only the kind of the exception and the lines of code it passed.
    """
    try:
        yield
    except WssegError:
        raise
    except Exception as error:
        lines = lines_of(error)
        logger.debug("%s while reading %s\n%s", type(error).__name__, source, lines)
        raise _translated(source, error) from error


@contextmanager
def unquoted(work: str) -> Iterator[None]:
    """Turn what libraries raise during `work` into a WssegError that has their kind alone.

    Their messages may quote header values, hence patient data, as in `translate_errors`. Errors of
    the operating system stay as they are.
    """
    try:
        yield
    except (WssegError, OSError):
        raise
    except Exception as error:
        lines = lines_of(error)
        kind = type(error).__name__
        logger.debug("%s while %s\n%s", kind, work, lines)
        raise WssegError(
            f"{work} stopped with {kind}; --verbose logs the lines of code it passed"
        ) from error


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


@contextmanager
def missing_packages() -> Iterator[None]:
    """Raise WssegError, with the extra to install, where a package of that extra is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(str(error.name).partition(".")[0])
        if extra is None:
            raise
        raise WssegError(f"{error.name} is missing: pip install 'wsseg[{extra}]'") from error
