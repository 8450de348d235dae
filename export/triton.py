"""A model repository that Triton Inference Server reads: versions are added, never changed."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import onnx
from pydantic import Field

from wsseg.export.engines import describe
from wsseg.export.graph import OUTPUTS
from wsseg.imaging.definitions import Frozen
from wsseg.imaging.errors import WssegError
from wsseg.serve.manifest import (
    FILE_NAME,
    INPUT,
    PROBABILITY,
    EngineFile,
    Manifest,
    engine_bytes,
    load_model,
)

CONFIG = "config.pbtxt"
FILES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
# First line of a configuration of ours. What is tuned by hand lives where no export writes.
HEADER = (
    "# Written by wsseg-export, and anew by the next one. Tuned by hand: configs/NAME.pbtxt and\n"
    "# tritonserver --model-config-name=NAME.\n"
)

BACKENDS = {"onnxruntime": "onnxruntime", "tensorrt": "tensorrt"}
DEVICES = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "gpu": "KIND_GPU"}

# Other requests join a batch while an instance is busy anyway. Waiting longer only gathers those
# that arrive together, and costs a lone request this much: little beside a slice's 10 ms and more.
QUEUE_DELAY_US = 1000
# Of an ONNX file, which takes any size: rows and columns of the usual CT slice.
WARMUP_SIDE = 512


@dataclass(frozen=True)
class Word:
    """An enum value, or true or false: what protobuf's text format writes without quotes."""

    text: str


ConfigField = tuple[str, "Value"]
Value = str | int | Word | list[int] | tuple[ConfigField, ...]


@dataclass(frozen=True)
class Served:
    """One engine as Triton is to serve it.

    name: the model's name in Triton. version: its number in the repository. entry: the engine's
    entry in the manifest. outputs: names of the file's outputs. device: a key of DEVICES.
    max_batch: largest number of slices in one batch or request.
    """

    name: str
    version: int
    manifest: Manifest
    entry: EngineFile
    outputs: tuple[str, ...]
    device: str
    max_batch: int


def config_text(served: Served) -> str:
    """The whole of config.pbtxt.

    Requests may have slices of any size, but one batch has one: Triton puts only requests of equal
    height and width together. Ragged batches stay off, as they would reach the graph as one row of
    numbers without shapes.
    """
    return interface_text(served) + text_format(
        (
            ("max_batch_size", served.max_batch),
            ("version_policy", (("latest", (("num_versions", 1),)),)),
            ("dynamic_batching", _batching(served.entry)),
            # One engine uses all cores, or all of a GPU; a second would only hold memory.
            ("instance_group", (("kind", Word(DEVICES[served.device])), ("count", 1))),
            *_optimization(served.entry),
            ("model_warmup", _warmup(served)),
            *_parameters(served),
        )
    )


def interface_text(served: Served) -> str:
    """Name, backend, inputs and outputs: the part that all versions of a model must share."""
    classes = len(served.manifest.classes)
    kinds: Mapping[str, tuple[str, list[int]]] = {
        "mask": ("TYPE_UINT8", [classes, -1, -1]),
        "pixel_area": ("TYPE_INT64", [classes]),
        "soft_area": ("TYPE_FP32", [classes]),
        PROBABILITY: ("TYPE_FP32", [classes, -1, -1]),
    }
    pixels = ("TYPE_FP32", [served.manifest.channels, -1, -1])
    return text_format(
        (
            ("name", served.name),
            ("backend", BACKENDS[served.entry.runtime]),
            ("input", _tensor(INPUT, *pixels)),
            *(("output", _tensor(name, *kinds[name])) for name in served.outputs),
        )
    )


def text_format(fields: Sequence[ConfigField], indent: str = "") -> str:
    """Fields as protobuf text, one a line: nested tuples are messages."""
    return "".join(f"{indent}{name}{_value(value, indent)}\n" for name, value in fields)


def _value(value: Value, indent: str) -> str:
    if isinstance(value, str):
        return f": {_quoted(value)}"
    if isinstance(value, int):
        return f": {value}"
    if isinstance(value, Word):
        return f": {value.text}"
    if isinstance(value, tuple):
        return f" {{\n{text_format(value, indent + '  ')}{indent}}}"
    return f": {value}"


def _quoted(text: str) -> str:
    """Bytes beyond printable ASCII in octal, which all versions of protobuf read alike."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"').encode()
    return '"' + "".join(chr(b) if 0x20 <= b < 0x7F else f"\\{b:03o}" for b in plain) + '"'


def _tensor(name: str, kind: str, dims: list[int]) -> tuple[ConfigField, ...]:
    return (("name", name), ("data_type", Word(kind)), ("dims", dims))


def _batching(entry: EngineFile) -> tuple[ConfigField, ...]:
    """Batches as large as the waiting requests allow.

    Only a TensorRT engine has a size it is fastest at: its profile's. To prefer one without that
    reason makes Triton hold requests back from a batch that could take them.
    """
    delay: ConfigField = ("max_queue_delay_microseconds", QUEUE_DELAY_US)
    if entry.profile is None:
        return (delay,)
    return (("preferred_batch_size", [entry.profile.optimum[0]]), delay)


def _optimization(entry: EngineFile) -> tuple[ConfigField, ...]:
    """TF32 off in ONNX Runtime's CUDA provider: fp32 is what the export compared with PyTorch."""
    if entry.runtime != "onnxruntime":
        return ()
    tf32 = (("key", "use_tf32"), ("value", "0"))
    cuda = (("name", "cuda"), ("parameters", tf32))
    accelerators = (("gpu_execution_accelerator", cuda),)
    return (("optimization", (("execution_accelerators", accelerators),)),)


def _warmup(served: Served) -> tuple[ConfigField, ...]:
    """One black slice before a version is ready, so that no patient's slice pays for set-up.

    Triton's random data are random bytes, which as floats are often infinite or no number.
    """
    profile = served.entry.profile
    side = [WARMUP_SIDE, WARMUP_SIDE] if profile is None else list(profile.optimum[1:])
    batch = 1 if profile is None else profile.optimum[0]
    value = (
        ("data_type", Word("TYPE_FP32")),
        ("dims", [served.manifest.channels, *side]),
        ("zero_data", Word("true")),
    )
    inputs = (("key", INPUT), ("value", value))
    return (("name", f"{batch} x {side[0]} x {side[1]}"), ("batch_size", batch), ("inputs", inputs))


def _parameters(served: Served) -> tuple[ConfigField, ...]:
    """What the newest version is, for people and programs that ask Triton for its config.

    `wsseg` is the manifest without engines, the same JSON as in the ONNX file's metadata.
    """
    manifest, entry = served.manifest, served.entry
    values = {
        "wsseg": describe(manifest),
        "wsseg_model_version": str(served.version),
        "wsseg_classes": ", ".join(manifest.classes),
        "wsseg_ratios": ", ".join(
            f"{r.name} = {r.numerator} / {r.denominator}" for r in manifest.ratios
        ),
        "wsseg_thresholds": ", ".join(str(threshold) for threshold in manifest.thresholds),
        "wsseg_precision": entry.precision,
        "wsseg_sha256": entry.sha256,
        "wsseg_builder": entry.builder or "",
        "wsseg_gpu": entry.gpu or "any",
    }
    return tuple(
        ("parameters", (("key", key), ("value", (("string_value", value),))))
        for key, value in values.items()
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
