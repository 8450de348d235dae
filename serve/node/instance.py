"""One instance as it arrives: written as it comes, limited, and named by what its header says."""

import os
import weakref
import zlib
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from pydicom.filereader import read_partial
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian
from pynetdicom.dsutils import create_file_meta

from wsseg.imaging.dicom.file import silence_pydicom, text
from wsseg.serve.node.spool import Spool, digest

OUT_OF_RESOURCES = 0xA700
NOT_UNDERSTOOD = 0xC000

_SERIES_TAG = 0x0020000E
_TAGS = [0x00080016, 0x00080018, 0x0020000D, _SERIES_TAG]
_HEADER_BYTES = 1 << 20
"""The series is named in the first bytes of a data set; so many are inflated to find it."""


class RefusedError(Exception):
    """An instance is not stored. status: of the C-STORE response. reason: a word for metrics."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


@dataclass(frozen=True)
class Named:
    """What is asked to be stored, by the command: SOP class, instance and transfer syntax."""

    sop_class: UID
    instance: UID
    syntax: UID


class Arrival:
    """A data set that is written to a file of the spool while it comes in.

    What goes wrong is kept as `refused` and told at the end, because a sender hears of it only
    then; what still comes is dropped.
    """

    def __init__(self, spool: Spool, named: Named, most: int) -> None:
        self.named = named
        self.path = spool.scratch()
        self.refused: RefusedError | None = None
        self.received = 0
        self._most = most
        self._file: BinaryIO | None = None
        # Also where an association ends before its instance does.
        self.remove = weakref.finalize(self, _remove, self.path)
        if lacking := spool.lacks():
            self._refuse(RefusedError(OUT_OF_RESOURCES, "spool_full", lacking))
            return
        try:
            self._file = self.path.open("wb")
            self._file.write(bytes(128) + b"DICM")
            with silence_pydicom:  # it quotes UIDs that are none
                meta = create_file_meta(
                    sop_class_uid=named.sop_class,
                    sop_instance_uid=named.instance,
                    transfer_syntax=named.syntax,
                )
                write_file_meta_info(self._file, meta)  # type: ignore[arg-type]
            self._start = self._file.tell()
        except OSError as error:
            self._refuse(_no_space(error))
        except Exception as error:  # of a UID that is none
            self._refuse(
                RefusedError(
                    NOT_UNDERSTOOD, "not_understood", f"bad command: {type(error).__name__}"
                )
            )

    def write(self, fragment: bytes | memoryview) -> None:
        """Take a fragment of the data set."""
        self.received += len(fragment)
        if self._file is None:
            return
        if self.received > self._most:
            self._refuse(
                RefusedError(
                    OUT_OF_RESOURCES, "too_large", f"an instance has more than {self._most} bytes"
                )
            )
            return
        try:
            self._file.write(fragment)
        except OSError as error:
            self._refuse(_no_space(error))

    def finish(self) -> None:
        """The data set is whole: make the file durable."""
        if self._file is None:
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            self._refuse(_no_space(error))

    def series(self) -> str:
        """The key of the series that the finished instance belongs to.

        Raises RefusedError if the instance was refused before, or cannot be understood.
        """
        if self.refused:
            raise self.refused
        try:
            found = self._header()
            same = found[1] == self.named.instance and found[0] == self.named.sop_class
        except Exception as error:  # pydicom raises many types on damage
            raise RefusedError(
                NOT_UNDERSTOOD, "not_understood", f"its header stopped with {type(error).__name__}"
            ) from error
        if not same:
            raise RefusedError(
                NOT_UNDERSTOOD, "mismatch", "its header names another object than the command"
            )
        if not (found[2] and found[3]):
            raise RefusedError(NOT_UNDERSTOOD, "no_series", "its header names no study or series")
        return digest(found[2], found[3])

    def _header(self) -> list[str]:
        """SOP class, instance, study and series of the data set."""

        def after_series(tag: BaseTag, _vr: str | None, _length: int) -> bool:
            return int(tag) > _SERIES_TAG

        options: dict[str, Any] = {"stop_when": after_series, "specific_tags": _TAGS}
        with self.path.open("rb") as file, silence_pydicom:
            if self.named.syntax == DeflatedExplicitVRLittleEndian:
                file.seek(self._start)
                body = zlib.decompressobj(-zlib.MAX_WBITS).decompress(
                    file.read(_HEADER_BYTES), _HEADER_BYTES
                )
                dataset = read_partial(BytesIO(body), force=True, **options)
            else:
                dataset = read_partial(file, **options)
            keywords = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
            return [text(dataset, keyword) for keyword in keywords]

    def drop(self) -> None:
        """Forget what came; its file is closed and removed."""
        file, self._file = self._file, None
        if file:
            with suppress(OSError):  # what was buffered finds no space
                file.close()
        self.remove()

    def _refuse(self, refused: RefusedError) -> None:
        self.refused = refused
        self.drop()


def _no_space(error: OSError) -> RefusedError:
    return RefusedError(OUT_OF_RESOURCES, "no_space", f"cannot be written: {error.strerror}")


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
