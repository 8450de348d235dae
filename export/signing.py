"""The signature of a model folder, for installations that run approved models only."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import atomic, read_regular
from wsseg.serve.manifest import ENGINE_BYTES, engine_bytes, load_model
from wsseg.serve.signature import KEY_BYTES, SIGNATURE, SUMS

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class PasswordNeededError(WssegError):
    """A private key is encrypted, and no password was given."""


def sign_model(folder: Path, key: Path, password: bytes | None = None) -> tuple[Path, Path]:
    """Write the list of all files of a model folder and its signature; returns the two files.

    key: private Ed25519 key in PEM. An earlier signature is replaced. Raises WssegError for a
    folder that is no intact model, for anything but files in it, and for a key that is none;
    PasswordNeededError for an encrypted key without its password.
    """
    private = _private_key(key, password)
    manifest, _ = load_model(folder)
    for entry in manifest.engines:
        engine_bytes(folder, entry)
    text = _sums(folder).encode()
    sums, signature = folder / SUMS, folder / SIGNATURE
    # A list must never stand beside the signature of another one.
    signature.unlink(missing_ok=True)
    for path, content in ((sums, text), (signature, private.sign(text))):
        with atomic(path) as partial:
            partial.write_bytes(content)
    return sums, signature


def _sums(folder: Path) -> str:
    """A line for each file of the folder, in the order of their names."""
    lines = []
    for file in sorted(folder.iterdir()):
        if file.name in (SUMS, SIGNATURE) or file.name.startswith("."):
            continue
        if file.is_symlink() or not file.is_file() or not file.name.isprintable():
            raise WssegError(
                f"{folder} holds {file.name!r}, and a model is made of plain files alone: move it "
                "elsewhere, or export the model again"
            )
        digest = hashlib.sha256(read_regular(file, ENGINE_BYTES)).hexdigest()
        lines.append(f"{digest}  {file.name}\n")
    return "".join(lines)


def _private_key(file: Path, password: bytes | None) -> "Ed25519PrivateKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(read_regular(file, KEY_BYTES), password)
    except OSError as error:
        raise WssegError(f"key {file} cannot be read: {error.strerror}") from error
    except TypeError as error:  # encrypted without a password, or a password for a plain key
        if password is None:
            raise PasswordNeededError(f"key {file} is encrypted: its password is needed") from error
        raise WssegError(f"key {file} is not encrypted, but a password was given") from error
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        wrong = " or the password is wrong" if password else ""
        raise WssegError(
            f"{file} holds no private Ed25519 key in PEM{wrong}: make one by "
            f"openssl genpkey -algorithm ed25519 -out {file.name}"
        )
    return key
