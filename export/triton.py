"""A model repository that Triton Inference Server reads: versions are added, never changed."""

import errno
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import onnx
from pydantic import Field

from wsseg.export.engines import describe
from wsseg.export.graph import OUTPUTS
from wsseg.imaging.definitions import Frozen
from wsseg.imaging.errors import WssegError
from wsseg.imaging.scratch import scratch_folder
from wsseg.serve.manifest import (
    AREA_VARIANCE,
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
    "# Written by wsseg-export, and overwritten by the next export. For your own settings:\n"
    "# configs/NAME.pbtxt and tritonserver --model-config-name=NAME.\n"
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
    entry, profile = served.entry, served.entry.profile
    # Batches as large as the waiting requests allow. Only a TensorRT engine has a size at which it
    # is fastest, its profile's: to prefer one without that reason makes Triton hold requests back
    # from a batch that could take them.
    batching: tuple[ConfigField, ...] = (("max_queue_delay_microseconds", QUEUE_DELAY_US),)
    batch, side = 1, [WARMUP_SIDE, WARMUP_SIDE]
    if profile is not None:
        batch, *side = profile.optimum
        batching = (("preferred_batch_size", [batch]), *batching)
    # One black slice before a version is ready, so that no patient's slice pays for set-up.
    # Triton's random data are random bytes, which as floats are often infinite or no number.
    black = (
        ("data_type", Word("TYPE_FP32")),
        ("dims", [served.manifest.channels, *side]),
        ("zero_data", Word("true")),
    )
    warmup = (
        ("name", f"{batch} x {side[0]} x {side[1]}"),
        ("batch_size", batch),
        ("inputs", (("key", INPUT), ("value", black))),
    )
    # TF32 off in ONNX Runtime's CUDA provider: fp32 is what the export compared with PyTorch.
    cuda = (("name", "cuda"), ("parameters", (("key", "use_tf32"), ("value", "0"))))
    accelerators = (("execution_accelerators", (("gpu_execution_accelerator", cuda),)),)
    on_cuda = (("optimization", accelerators),) if entry.runtime == "onnxruntime" else ()
    return interface_text(served) + text_format(
        (
            ("max_batch_size", served.max_batch),
            ("version_policy", (("latest", (("num_versions", 1),)),)),
            ("dynamic_batching", batching),
            # One engine uses all cores, or all of a GPU; a second would only hold memory.
            ("instance_group", (("kind", Word(DEVICES[served.device])), ("count", 1))),
            *on_cuda,
            ("model_warmup", warmup),
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
        AREA_VARIANCE: ("TYPE_FP32", [classes]),
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
    lines = []
    for name, value in fields:
        if isinstance(value, tuple):
            text = f" {{\n{text_format(value, indent + '  ')}{indent}}}"
        elif isinstance(value, str):
            # Bytes beyond printable ASCII in octal, which all versions of protobuf read alike.
            plain = value.replace("\\", "\\\\").replace('"', '\\"').encode()
            text = "".join(chr(b) if 0x20 <= b < 0x7F else f"\\{b:03o}" for b in plain)
            text = f': "{text}"'
        else:
            text = f": {value.text if isinstance(value, Word) else value}"
        lines.append(f"{indent}{name}{text}\n")
    return "".join(lines)


def _tensor(name: str, kind: str, dims: list[int]) -> tuple[ConfigField, ...]:
    return (("name", name), ("data_type", Word(kind)), ("dims", dims))


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
    # Writing is tried beside the repository, because Triton sees what is tried inside.
    beside = _existing(repository.resolve().parent)
    try:
        with scratch_folder(beside):
            pass
    except OSError as error:
        raise WssegError(
            f"{beside} cannot be written to, and versions are made beside the repository "
            f"{repository}: {error.strerror}; choose another --triton"
        ) from error
    inside = _existing(repository.resolve() / name)
    if not os.access(inside, os.W_OK):
        raise WssegError(f"{inside} cannot be written to: choose another --triton")


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
    version, file = str(served.version), FILES[served.entry.runtime]
    entry = served.entry.model_copy(update={"file": file})
    alone = manifest.model_copy(update={"engines": (entry,)})
    repository = repository.resolve()
    repository.mkdir(parents=True, exist_ok=True)
    # Beside the repository: inside, Triton would take the scratch folder for a model.
    with scratch_folder(repository.parent) as scratch:
        staged = scratch / manifest.name
        (staged / version).mkdir(parents=True)
        (staged / version / file).write_bytes(engine_bytes(folder, served.entry))
        text = alone.model_dump_json(indent=2) + "\n"
        (staged / version / FILE_NAME).write_text(text, encoding="utf-8")
        (staged / CONFIG).write_text(HEADER + config_text(served), encoding="utf-8")
        if (model / CONFIG).exists():
            _move(staged / version, model / version)
            (staged / CONFIG).replace(model / CONFIG)
        else:
            _move(staged, model)
    return model / version


def _served(folder: Path, manifest: Manifest, options: TritonOptions, version: int) -> Served:
    entry = next(
        (
            entry
            for entry in manifest.engines
            if entry.file == options.engine
            or (not options.engine and entry.runtime == "onnxruntime")
        ),
        None,
    )
    if entry is None:
        raise WssegError(
            f"the model has no engine {options.engine or 'for ONNX Runtime'}: it has "
            f"{', '.join(entry.file for entry in manifest.engines)}"
        )
    if entry.runtime not in BACKENDS:
        raise WssegError(
            f"{entry.file} is for {entry.runtime}, which Triton does not load: "
            f"choose an engine for {' or '.join(BACKENDS)}"
        )
    if entry.runtime == "tensorrt" and options.device == "cpu":
        raise WssegError(f"{entry.file} runs on a GPU only: choose an ONNX file for the CPU")
    most = entry.profile.maximum[0] if entry.profile else options.max_batch
    # A TensorRT engine has the outputs of the ONNX file that it was built from, but one.
    outputs: tuple[str, ...] = OUTPUTS
    for source in (e for e in (entry, *manifest.engines) if e.runtime == "onnxruntime"):
        model = onnx.load_from_string(engine_bytes(folder, source))
        there = {output.name for output in model.graph.output}
        if entry.runtime == "tensorrt":
            there.discard(PROBABILITY)
        outputs = tuple(name for name in (*OUTPUTS, PROBABILITY, AREA_VARIANCE) if name in there)
        break
    return Served(
        name=manifest.name,
        version=version,
        manifest=manifest,
        entry=entry,
        outputs=outputs,
        device="gpu" if entry.runtime == "tensorrt" else options.device,
        max_batch=min(options.max_batch, most),
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


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(place for place in (path, *path.parents) if place.exists())


def _check_same_interface(model: Path, served: Served) -> None:
    try:
        found = (model / CONFIG).read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    if not found.startswith(HEADER.partition(",")[0]):
        raise WssegError(
            f"{model / CONFIG} was not written by wsseg-export and would be replaced: choose "
            "another --name"
        )
    if interface_text(served) not in found:
        raise WssegError(
            f"{model} takes or gives other tensors than this model (classes, channels, backend), "
            "and one configuration holds for all versions: choose another --name"
        )


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
