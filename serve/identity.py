"""The key table of a run: who and when each scan is, kept apart from the measurements.

Only what asks for it reads a patient's identifier or a study's date, see `--identify`.
"""

import hashlib
import hmac
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.valuerep import DA

from wsseg.imaging.dicom import at_pixels, open_dicom, silence_pydicom, tags_of, text
from wsseg.imaging.disk import writing
from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import atomic
from wsseg.imaging.hashed_names import real_name
from wsseg.imaging.publishing import sync
from wsseg.imaging.scan import FileRef, ScanRef
from wsseg.imaging.scratch import scratch_folder
from wsseg.serve.report import KeyRow, SeriesOrigin, table_writer

SALT_BYTES = 32
KEY_DIGITS = 32
"""Hexadecimal digits of a key: 128 bits, of which no two patients share any by chance."""
_KEYWORDS = ("PatientID", "IssuerOfPatientID", "StudyDate")


@dataclass
class Identifier:
    """Collects the rows of a key table.

    salt: secret of the site, under which equal patients have equal keys. real: also write the
    identifier itself, and the name that a hashed source stands for.
    """

    salt: bytes
    real: bool = False
    rows: list[KeyRow] = field(default_factory=list)

    def add(self, ref: ScanRef, origin: SeriesOrigin) -> None:
        """Add the key and the study date of a scan; empty where its file states none."""
        file = next((file for file in ref.files if file.source == origin.source), ref.files[0])
        header = _header(ref, file)
        patient, issuer = (text(header, name) for name in _KEYWORDS[:2])
        self.rows.append(
            KeyRow(
                origin=origin,
                patient_key=patient_key(self.salt, patient, issuer),
                study_date=study_date(text(header, "StudyDate")),
                patient_id=patient if self.real else "",
                issuer_of_patient_id=issuer if self.real else "",
                path=real_name(file.source) if self.real else "",
            )
        )

    def write(self, path: Path) -> None:
        """Write the table, whole or not at all, which its owner alone may read."""
        with atomic(path) as partial:
            partial.touch(mode=0o600)
            with table_writer(path)(partial, KeyRow) as write:
                write(self.rows)


def patient_key(salt: bytes, patient: str, issuer: str = "") -> str:
    """A key that is the same for the same patient, and that cannot be reversed without the salt.

    HMAC-SHA256 (RFC 2104) of the issuer and the identifier, without the spaces that DICOM pads them
    with. "" for a patient without an identifier: strangers would share a key.
    """
    patient, issuer = patient.strip(), issuer.strip()
    if not patient:
        return ""
    message = f"{issuer}\0{patient}".encode()
    return hmac.new(salt, message, hashlib.sha256).hexdigest()[:KEY_DIGITS]


def study_date(value: str) -> str:
    """A date of DICOM (20240229, or 2024.02.29 as ACR-NEMA wrote it) by ISO 8601; "" for none."""
    try:
        found = DA(value)
    except ValueError:
        return ""
    return date(found.year, found.month, found.day).isoformat() if found else ""


def load_salt(path: Path) -> bytes:
    """The salt in a file, which is made if it is missing and which its owner alone may read.

    Raises WssegError for a file that others can read, or that holds no salt.
    """
    if not path.exists():
        _make_salt(path)
    try:
        mode = path.stat().st_mode
        content = path.read_text(encoding="ascii").strip()
        salt = bytes.fromhex(content)
    except OSError as error:
        raise WssegError(f"the salt {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise WssegError(
            f"{path} holds no salt: expected {2 * SALT_BYTES} hexadecimal digits; name another "
            "file, which is then made"
        ) from error
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise WssegError(
            f"the salt {path} can be read by others, who could then find out whose a key is: "
            f"chmod 600 {path}"
        )
    if len(salt) < SALT_BYTES:
        raise WssegError(
            f"the salt {path} has {len(salt)} bytes, expected {SALT_BYTES}: name another file, "
            "which is then made"
        )
    return salt


def _make_salt(path: Path) -> None:
    """Write a new salt, whole or not at all, unless another process does so at the same time."""
    try:
        with writing(path), scratch_folder(path.parent) as scratch:
            made = scratch / path.name
            made.touch(mode=0o600)
            made.write_text(secrets.token_hex(SALT_BYTES) + "\n", encoding="ascii")
            sync(made)  # whose keys are lost with it
            with suppress(FileExistsError):
                os.link(made, path)  # replaces nothing, other than a rename
            sync(path.parent)
    except OSError as error:
        raise WssegError(f"the salt {path} cannot be made: {error.strerror}") from error


def _header(ref: ScanRef, file: FileRef) -> Dataset:
    """The identifying elements of a file of a scan; empty for what is no DICOM."""
    if ref.kind != "dicom":
        return Dataset()
    try:
        with silence_pydicom:
            header, _ = open_dicom(file.path, file.source, tags=tags_of(_KEYWORDS), stop=at_pixels)
            return header
    except Exception:  # the scan was measured; its identity is unknown, and no text may quote it
        return Dataset()
