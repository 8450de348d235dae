"""Open a model folder: read its manifest, and let no altered file run."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wsseg.imaging.definitions import fault_text
from wsseg.imaging.errors import WssegError
from wsseg.serve.manifest import FILE_NAME, SCHEMA_VERSION, EngineFile, Manifest


def load_model(path: Path) -> tuple[Manifest, Path]:
    """Read and check `model.json` of a model folder; returns it with the folder.

    Raises WssegError where the folder is missing, was not written by wsseg-export, or was written
    by a newer version. The engine files are checked when one is opened, see `engine_bytes`.
    """
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise WssegError(f"model folder {path} {found}: give the folder that wsseg-export wrote")
    file = path / FILE_NAME
    try:
        text = file.read_text(encoding="utf-8")
        content: Any = json.loads(text)
    except FileNotFoundError as error:
        raise WssegError(
            f"{path} holds no {FILE_NAME}: give the folder that wsseg-export wrote"
        ) from error
    except (OSError, ValueError) as error:
        raise WssegError(f"{file} cannot be read ({error}): export the model again") from error
    return _parse(content, file), path


def _parse(content: Any, file: Path) -> Manifest:
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise WssegError(
            f"{file} has schema version {version}, this wsseg reads {SCHEMA_VERSION}: "
            "install a newer wsseg"
        )
    try:
        return Manifest.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"]) or "the file as a whole"
        raise WssegError(
            f"{file} is no wsseg model: {place}: {fault_text(first)}; export the model again"
        ) from error


def engine_bytes(folder: Path, entry: EngineFile) -> bytes:
    """Content of an engine file whose SHA-256 is the one that the manifest states.

    The bytes that were checked are the bytes that run: nothing can change in between. Raises
    WssegError for a missing, altered or misplaced file.
    """
    if Path(entry.file).name != entry.file:
        raise WssegError(
            f"{folder}: engine file {entry.file!r} must lie in the model folder itself"
        )
    try:
        content = (folder / entry.file).read_bytes()
    except OSError as error:
        raise WssegError(
            f"{folder}: engine file {entry.file} cannot be read ({error.strerror}): "
            "copy the whole model folder again"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256.lower():
        raise WssegError(
            f"{folder}: engine file {entry.file} has SHA-256 {found[:12]}..., the manifest says "
            f"{entry.sha256[:12]}...: it was altered or cut; copy the whole model folder again"
        )
    return content
