"""Errors a user can act on. Anything else that is raised is a bug and keeps its traceback."""

from dataclasses import dataclass
from typing import ClassVar, Literal


class WssegError(Exception):
    """Something a user can fix: the message names what was found, expected, and what to do."""

    exit_code: ClassVar[int] = 2


class NothingToDoError(WssegError):
    """The input holds nothing that this command works on."""

    exit_code: ClassVar[int] = 3


class AllFailedError(WssegError):
    """There was work, and none of it succeeded."""

    exit_code: ClassVar[int] = 4


class SomeFailedError(WssegError):
    """Part of the work succeeded and its results stand; the message tells what did not."""

    exit_code: ClassVar[int] = 8


class ReadError(WssegError):
    """An image file that cannot be read; `reason` is a short stable code for machines."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["ReadError"], tuple[str, str]]:
        """Let other processes have the error whole."""
        return type(self), (self.reason, str(self))


Status = Literal["skipped", "failed"]


@dataclass(frozen=True)
class Failure:
    """A file that gave no result, as a value, so that it costs no other file its result.

    `source` is the path as the report shows it; `status` tells what was passed over on purpose
    (a report, a segmentation, a text file) from what should have been read and could not.
    """

    source: str
    reason: str
    message: str
    status: Status = "failed"
