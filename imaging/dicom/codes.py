"""Codes of a clinical terminology: what a class is, and in which organ, as DICOM records it."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, field_validator

from wsseg.imaging.definitions import Frozen, fault_text
from wsseg.imaging.errors import WssegError

PRIVATE = "99WSSEG"
"""The designator of wsseg's own codes. DICOM reserves designators that begin with 99 for codes that
no terminology has (PS3.16, section 8)."""

LONGEST = 64
"""Characters that DICOM allows in a code's meaning."""

_ROLES = ("type", "category", "anatomy")
_EXAMPLES = "SCT:52988006, or with its meaning SCT:52988006:Lesion"
# What people write for a terminology, in capitals, and DICOM's designator of it.
_DESIGNATORS = {
    "DCM": "DCM",
    "DICOM": "DCM",
    "FMA": "FMA",
    "LN": "LN",
    "LOINC": "LN",
    "NCIT": "NCIt",
    "RADLEX": "RADLEX",
    "SCT": "SCT",
    "SNOMED": "SCT",
    "SNOMED-CT": "SCT",
    "SNOMEDCT": "SCT",
    "UCUM": "UCUM",
}


class Code(Frozen):
    """A coded concept (PS3.3, section 8.8).

    scheme: designator of the terminology: SCT for SNOMED CT, DCM, UCUM, another that DICOM (PS3.16,
    table 8-1) or HL7 lists, or one that begins with 99 for private codes. value: the code. meaning:
    text for people.
    """

    scheme: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,16}$")]
    value: Annotated[str, Field(min_length=1, max_length=LONGEST)]
    meaning: Annotated[str, Field(min_length=1, max_length=LONGEST)]

    @field_validator("scheme")
    @classmethod
    def _as_dicom_writes_it(cls, scheme: str) -> str:
        right = _DESIGNATORS.get(scheme.upper(), scheme)
        if right != scheme:
            raise ValueError(f"DICOM names the terminology {right}, not {scheme}: write {right}")
        return scheme

    @field_validator("value", "meaning")
    @classmethod
    def _allowed(cls, text: str) -> str:
        if text != text.strip() or "\\" in text or not text.isprintable():
            raise ValueError(
                f"{text!r} has a backslash, a control character or a space at its end, which DICOM "
                "does not allow in a code: leave it out"
            )
        return text


def parse_code(text: str) -> Code:
    """Read `SCHEME:VALUE` or `SCHEME:VALUE:MEANING`.

    A meaning that is not given is looked up in pydicom's dictionary of the scheme. It has the codes
    that the context groups of DICOM PS3.16 list: all of DCM, but only a part of SNOMED CT. Raises
    ValueError for a text that is no code and for a value that the dictionary lacks.
    """
    scheme, _, rest = text.strip().partition(":")
    value, _, meaning = (part.strip() for part in rest.partition(":"))
    if not scheme or not value:
        raise ValueError(f"{text!r} is no code: expected SCHEME:VALUE, such as {_EXAMPLES}")
    try:
        # The scheme is checked first: its fault explains more than a missing meaning.
        checked = Code(scheme=scheme, value=value, meaning=meaning or "unknown")
        return (
            checked
            if meaning
            else Code(scheme=scheme, value=value, meaning=_meaning(scheme, value))
        )
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(f"{text!r}: {fault['loc'][0]}: {fault_text(fault)}") from error


def _as_code(value: Any) -> Any:
    return parse_code(value) if isinstance(value, str) else value


CodeText = Annotated[Code, BeforeValidator(_as_code)]
"""A code, which settings may write as text."""


class ClassCodes(Frozen):
    """The codes of a class; None where nothing is stated.

    type: the structure or finding itself (SCT:52988006, lesion). category: what kind of thing the
    type is (SCT:49755003, morphologically abnormal structure). anatomy: the organ or region of the
    body that contains it (SCT:76752008, breast).
    """

    type: CodeText | None = None
    category: CodeText | None = None
    anatomy: CodeText | None = None


NOTHING_STATED = ClassCodes()
# A SEG has to name a category of every segment. This one claims no more than that the segment is a
# region of an image.
UNSTATED_CATEGORY = Code(scheme="SCT", value="309825002", meaning="Spatial and Relational Concept")


def private_code(prefix: str, identity: str, meaning: str | None = None) -> Code:
    """A code of wsseg's own: of a class, or of a quantity that no terminology has.

    Equal identities have equal codes in all models and versions: the value is `prefix`, a hyphen
    and the first 12 digits of the identity's SHA-256 in hexadecimal. meaning: by default the
    identity; it is shortened to the 64 characters that DICOM allows.
    """
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    text = "".join(c if c.isprintable() and c != "\\" else "_" for c in meaning or identity).strip()
    short = text if len(text) <= LONGEST else text[: LONGEST - 3].rstrip() + "..."
    return Code(scheme=PRIVATE, value=f"{prefix}-{digest}", meaning=short or "_")


def type_of(name: str, codes: Mapping[str, ClassCodes]) -> Code:
    """The code of a class's type, or a private code that says no more than the class's name."""
    return codes.get(name, NOTHING_STATED).type or private_code("C", name)


def _as_codes(value: Any) -> Any:
    """Turn the texts of an option, CLASS=CODE or CLASS.ROLE=CODE, into a table by class and role.

    In a table, a text in place of the roles is the code of the type.
    """
    if isinstance(value, Mapping):
        return {
            name: {"type": codes} if isinstance(codes, str) else codes
            for name, codes in value.items()
        }
    if not isinstance(value, list | tuple):
        return value
    table: dict[str, dict[str, str]] = {}
    for text in value:
        match = re.fullmatch(rf"\s*(.+?)(?:\.({'|'.join(_ROLES)}))?\s*=\s*(\S.*)", str(text))
        if not match:
            raise ValueError(
                f"{text!r} names no class and code: expected CLASS=CODE, CLASS.category=CODE or "
                f"CLASS.anatomy=CODE, such as lesion={_EXAMPLES}"
            )
        name, role, code = match.groups(default="type")
        if role in table.setdefault(name, {}):
            raise ValueError(f"class {name} has two codes for its {role}: leave one out")
        table[name][role] = code
    return table


Codes = Annotated[dict[str, ClassCodes], BeforeValidator(_as_codes)]
"""Codes by class name. Settings take a table, {"lesion": {"type": "SCT:52988006"}} or
{"lesion": "SCT:52988006"}, or the texts of an option, ["lesion=SCT:52988006"]."""


def merged(
    base: Mapping[str, ClassCodes], other: Mapping[str, ClassCodes]
) -> dict[str, ClassCodes]:
    """Codes by class name, of which `other` replaces those that it states."""
    result = dict(base)
    for name, codes in other.items():
        stated = {role: getattr(codes, role) for role in _ROLES if getattr(codes, role)}
        result[name] = result.get(name, NOTHING_STATED).model_copy(update=stated)
    return result


def check_classes(codes: Mapping[str, ClassCodes], classes: Iterable[str]) -> None:
    """Raise WssegError for the code of a class that does not exist."""
    known = tuple(classes)
    for name in codes:
        if name not in known:
            raise WssegError(
                f"codes are given for a class {name}, but the classes are {', '.join(known)}: "
                "write one of these before the = of --code"
            )


@cache
def _schemes() -> tuple[str, ...]:
    # Imported here: tables of a megabyte, which few commands need.
    from pydicom.sr.codedict import codes

    return tuple(codes.schemes())


@cache
def _meanings(scheme: str) -> dict[str, str]:
    """Meanings by code value; of several the shortest, because the others add a semantic tag."""
    from pydicom.sr.codedict import codes

    meanings: dict[str, str] = {}
    for code in getattr(codes, scheme).concepts.values():
        known = meanings.setdefault(code.value, code.meaning)
        meanings[code.value] = min(known, code.meaning, key=lambda text: (len(text), text))
    return meanings


def _meaning(scheme: str, value: str) -> str:
    if scheme not in _schemes():
        raise ValueError(
            f"the meaning of {scheme}:{value} is not known, because pydicom has no dictionary of "
            f"{scheme}: write it as {scheme}:{value}:MEANING"
        )
    if value not in _meanings(scheme):
        raise ValueError(
            f"the meaning of {scheme}:{value} is not known, because pydicom's dictionary of "
            f"{scheme} has only the codes that DICOM itself uses: check the number, or write "
            f"{scheme}:{value}:MEANING"
        )
    return _meanings(scheme)[value]
