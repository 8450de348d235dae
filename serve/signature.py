"""Who approved a model: the SHA-256 of its files, signed by a key that an installation trusts."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import read_regular

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SUMS = "SHA256SUMS"
"""The SHA-256 of every file of a model folder, in the form that `sha256sum --check` reads."""
SIGNATURE = "SHA256SUMS.sig"
"""The Ed25519 signature (RFC 8032) of `SUMS`: its 64 bytes and nothing else."""
SUMS_BYTES = 1 << 20
KEY_BYTES = 1 << 16


def check_signed(folder: Path, name: str, content: bytes, trusted: Sequence[Path]) -> None:
    """Check that one of the trusted keys signed the file `name` of a model folder.

    content: of that file, which must be the bytes that are used afterwards. trusted: files with a
    public Ed25519 key each, in PEM. Raises WssegError for a model without a signature, with that of
    another key, or changed since, and for a file that is no such key.
    """
    keys = [_public_key(file) for file in trusted]
    try:
        sums = read_regular(folder / SUMS, SUMS_BYTES)
        signature = read_regular(folder / SIGNATURE, KEY_BYTES)
    except OSError as error:
        raise WssegError(
            f"model {folder} is not signed ({Path(error.filename or SUMS).name}: {error.strerror}),"
            " and --trust asks for it: sign it by wsseg sign, or leave --trust out"
        ) from error
    if not any(_signed(key, signature, sums) for key in keys):
        raise WssegError(
            f"model {folder}: its signature is of none of the trusted keys "
            f"({', '.join(map(str, trusted))}), or its {SUMS} was changed: get the model again "
            "from those who approved it"
        )
    line = f"{hashlib.sha256(content).hexdigest()}  {name}"
    if line not in sums.decode("utf-8", "replace").splitlines():
        raise WssegError(
            f"model {folder}: {name} was changed after it was signed: get the model again from "
            "those who approved it"
        )


def _signed(key: "Ed25519PublicKey", signature: bytes, content: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def _public_key(file: Path) -> "Ed25519PublicKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(read_regular(file, KEY_BYTES))
    except OSError as error:
        raise WssegError(f"trusted key {file} cannot be read: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise WssegError(
            f"{file} holds no public Ed25519 key in PEM: make one by "
            f"openssl pkey -in KEY -pubout -out {file.name}"
        )
    return key
