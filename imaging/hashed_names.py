"""Names of files for reports where the real ones may name patients: keyed digests."""

import hashlib
import hmac
import re

DIGITS = 32
"""Hexadecimal digits of a digest: 128 bits, of which no two names share any by chance."""

# An ending tells the format; any other one may be a part of a name, as in ct.mueller.
_HARMLESS = re.compile(
    r"\.(dcm|dicom|ima|nii|hdr|img|nrrd|nhdr|mh[ad]|mg[hz]|png|jpe?g|jp2|j2k|tiff?|bmp|gif|webp"
    r"|p[bgnp]m|zip|tar|tgz)(\.gz)?$",
    re.IGNORECASE,
)


class HashedName(str):
    """What reports call a file: HMAC-SHA256 (RFC 2104) of its name under a salt, and its suffix.

    It is this digest wherever it is written, compared or quoted. `name` is the real one, for what
    depends on names: their order, their folders and their suffixes. Passed to another process, it
    leaves the salt behind.
    """

    __slots__ = ("_salt", "name")
    name: str
    _salt: bytes

    def __new__(cls, name: str, salt: bytes) -> "HashedName":
        """The digest of a name."""
        told = hmac.new(salt, name.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()
        ending = _HARMLESS.search(name)
        made = super().__new__(cls, told[:DIGITS] + (ending[0].lower() if ending else ""))
        made.name, made._salt = name, salt
        return made

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        """Pickle the digest and the name."""
        return _without_salt, (str(self), self.name)

    def like(self, name: str) -> "HashedName":
        """The digest of another name under the same salt."""
        if not self._salt:
            raise AssertionError("the salt stays where files are found")
        return HashedName(name, self._salt)


def _without_salt(digest: str, name: str) -> HashedName:
    made = str.__new__(HashedName, digest)
    made.name, made._salt = name, b""
    return made


def real_name(source: str) -> str:
    """The name that a source stands for; itself where sources are not hashed."""
    return source.name if isinstance(source, HashedName) else source


def renamed(source: str, name: str) -> str:
    """A source for another name, hashed as this one is."""
    return source.like(name) if isinstance(source, HashedName) else name


def member_of(archive: str, name: str) -> str:
    """The source of a file in an archive."""
    return renamed(archive, f"{real_name(archive)}/{name}")


def salt_print(salt: bytes) -> str:
    """What tells a salt from another one and does not tell the salt."""
    return hmac.new(salt, b"", hashlib.sha256).hexdigest()[:DIGITS]
