"""A model repository that Triton Inference Server reads: versions are added, never changed."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import onnx
from pydantic import Field

from wsseg.export.onnx_file import OUTPUTS
from wsseg.export.triton_config import BACKENDS, Served, config_text, interface_text
from wsseg.imaging.definitions import Frozen
from wsseg.imaging.errors import WssegError
from wsseg.serve.contract import PROBABILITY
from wsseg.serve.manifest import FILE_NAME, EngineFile, Manifest
from wsseg.serve.model_folder import engine_bytes, load_model

CONFIG = "config.pbtxt"
FILES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
# First line of a configuration of ours. What is tuned by hand lives where no export writes.
HEADER = (
    "# Written by wsseg-export, and anew by the next one. Tuned by hand: configs/NAME.pbtxt and\n"
    "# tritonserver --model-config-name=NAME.\n"
)


class TritonOptions(Frozen):
    """How Triton is to serve a model.

    engine: its file in the model folder, empty for the first ONNX file (fp32 where there is one).
    version: number in the repository, else one above the highest. device: "auto" is a GPU where
    Triton has one. max_batch: most slices in one batch; a TensorRT engine's profile may allow
    fewer.
    """

    engine: str = ""
    version: Annotated[int, Field(ge=1)] | None = None
    device: Literal["auto", "cpu", "gpu"] = "auto"
    max_batch: Annotated[int, Field(ge=1)] = 32


def check_request(repository: Path, name: str, options: TritonOptions) -> None:
    """Raises WssegError for what can be known to fail before anything is exported."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise WssegError(
            f"Triton cannot serve a model named {name!r}: the name is a folder and part of a URL, "
            "give --name of letters, digits, '_', '-' and '.', a letter or digit first"
        )
    if repository.exists() and not repository.is_dir():
        raise WssegError(f"{repository} is a file, a model repository is a folder")
    _free_version(repository / name, options.version)
    _check_writable(repository, name)


def add_version(folder: Path, repository: Path, options: TritonOptions) -> Path:
    """Add a model folder's engine to the repository; returns the folder of the new version.

    That folder is a model folder itself: the engine, and a manifest that names it alone. A server
    that polls the repository sees a version whole or not at all: it is written beside the
    repository, where Triton does not look, and moved in one step; config.pbtxt follows, in another.
    Raises WssegError where an engine or name cannot be served, where the version is there, and
    where the repository's model takes or gives other tensors; nothing is changed then.
    """
    manifest, folder = load_model(folder)
    check_request(repository, manifest.name, options)
    model = repository / manifest.name
    served = _served(folder, manifest, options, _free_version(model, options.version))
    _check_same_interface(model, served)
    version = str(served.version)
    with _staged(repository) as scratch:
        staged = scratch / manifest.name
        _write_version(staged / version, folder, served)
        (staged / CONFIG).write_text(HEADER + config_text(served), encoding="utf-8")
        if (model / CONFIG).exists():
            _move(staged / version, model / version)
            (staged / CONFIG).replace(model / CONFIG)
        else:
            _move(staged, model)
    return model / version


def _served(folder: Path, manifest: Manifest, options: TritonOptions, version: int) -> Served:
    entry = _choose(manifest, options.engine)
    if entry.runtime not in BACKENDS:
        raise WssegError(
            f"{entry.file} is for {entry.runtime}, which Triton does not load: "
            f"choose an engine for {' or '.join(BACKENDS)}"
        )
    if entry.runtime == "tensorrt" and options.device == "cpu":
        raise WssegError(f"{entry.file} runs on a GPU only: choose an ONNX file for the CPU")
    most = entry.profile.maximum[0] if entry.profile else options.max_batch
    outputs: tuple[str, ...] = OUTPUTS
    if entry.runtime == "onnxruntime":
        model = onnx.load_from_string(engine_bytes(folder, entry))
        there = {output.name for output in model.graph.output}
        outputs = tuple(name for name in (*OUTPUTS, PROBABILITY) if name in there)
    return Served(
        name=manifest.name,
        version=version,
        manifest=manifest,
        entry=entry,
        outputs=outputs,
        device="gpu" if entry.runtime == "tensorrt" else options.device,
        max_batch=min(options.max_batch, most),
    )


def _choose(manifest: Manifest, file: str) -> EngineFile:
    for entry in manifest.engines:
        if entry.file == file or (not file and entry.runtime == "onnxruntime"):
            return entry
    raise WssegError(
        f"the model has no engine {file or 'for ONNX Runtime'}: it has "
        f"{', '.join(entry.file for entry in manifest.engines)}"
    )


def _free_version(model: Path, wanted: int | None) -> int:
    """The wanted version, or the next: above all that are there, as Triton serves the highest."""
    names = [path.name for path in model.iterdir()] if model.is_dir() else []
    highest = max((int(name) for name in names if re.fullmatch(r"[1-9][0-9]*", name)), default=0)
    if names and CONFIG not in names:
        raise WssegError(f"{model} holds files but no {CONFIG}: choose another --name")
    if wanted is not None and wanted <= highest:
        raise WssegError(
            f"{model} has version {highest}, and Triton serves the highest: give --triton-version "
            f"{highest + 1} or above, or leave it out"
        )
    return wanted or highest + 1


def _check_writable(repository: Path, name: str) -> None:
    """Tried beside the repository; asked of what lies inside, where Triton sees what is tried."""
    beside = _existing(repository.resolve().parent)
    try:
        tempfile.TemporaryDirectory(dir=beside, prefix=".tmp-").cleanup()
    except OSError as error:
        raise WssegError(
            f"{beside} cannot be written to, and versions are made beside the repository "
            f"{repository}: {error.strerror}; choose another --triton"
        ) from error
    inside = _existing(repository.resolve() / name)
    if not os.access(inside, os.W_OK):
        raise WssegError(f"{inside} cannot be written to: choose another --triton")


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(place for place in (path, *path.parents) if place.exists())


def _check_same_interface(model: Path, served: Served) -> None:
    try:
        found = (model / CONFIG).read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    if not found.startswith(HEADER.partition(".")[0]):
        raise WssegError(
            f"{model / CONFIG} was not written by wsseg-export and would be replaced: choose "
            "another --name"
        )
    if interface_text(served) not in found:
        raise WssegError(
            f"{model} takes or gives other tensors than this model (classes, channels, backend), "
            "and one configuration holds for all versions: choose another --name"
        )


def _write_version(target: Path, folder: Path, served: Served) -> None:
    target.mkdir(parents=True)
    file = FILES[served.entry.runtime]
    (target / file).write_bytes(engine_bytes(folder, served.entry))
    entry = served.entry.model_copy(update={"file": file})
    alone = served.manifest.model_copy(update={"engines": (entry,)})
    (target / FILE_NAME).write_text(alone.model_dump_json(indent=2) + "\n", encoding="utf-8")


@contextmanager
def _staged(repository: Path) -> Iterator[Path]:
    """A scratch folder beside the repository: inside, Triton would take it for a model."""
    repository = repository.resolve()
    repository.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=repository.parent, prefix=".tmp-") as scratch:
        yield Path(scratch)


def _move(source: Path, target: Path) -> None:
    """Rename a folder, which never replaces one that holds files."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            raise WssegError(
                f"{target} was made by someone else meanwhile: export again"
            ) from error
        if error.errno == errno.EXDEV:
            raise WssegError(
                f"{target.parent} is where a disk is mounted, so nothing beside it can be moved "
                "into it in one step: give a folder on that disk as the repository"
            ) from error
        raise
