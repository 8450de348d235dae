"""config.pbtxt: what Triton Inference Server is told of a model, in protobuf's text format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wsseg.export.engine_onnx import describe
from wsseg.serve.contract import INPUT, PROBABILITY
from wsseg.serve.manifest import EngineFile, Manifest

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


Field = tuple[str, "Value"]
Value = str | int | Word | list[int] | tuple[Field, ...]


@dataclass(frozen=True)
class Served:
    """One engine as Triton is to serve it.

    name: of the model in Triton. version: the repository's number of it. entry: the engine in the
    manifest. outputs: names that its file has. device: a key of DEVICES. max_batch: slices in one
    batch, and in one request.
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


def text_format(fields: Sequence[Field], indent: str = "") -> str:
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


def _tensor(name: str, kind: str, dims: list[int]) -> tuple[Field, ...]:
    return (("name", name), ("data_type", Word(kind)), ("dims", dims))


def _batching(entry: EngineFile) -> tuple[Field, ...]:
    """Batches as large as the waiting requests allow.

    Only a TensorRT engine has a size it is fastest at: its profile's. To prefer one without that
    reason makes Triton hold requests back from a batch that could take them.
    """
    delay: Field = ("max_queue_delay_microseconds", QUEUE_DELAY_US)
    if entry.profile is None:
        return (delay,)
    return (("preferred_batch_size", [entry.profile.optimum[0]]), delay)


def _optimization(entry: EngineFile) -> tuple[Field, ...]:
    """TF32 off in ONNX Runtime's CUDA provider: fp32 is what the export compared with PyTorch."""
    if entry.runtime != "onnxruntime":
        return ()
    tf32 = (("key", "use_tf32"), ("value", "0"))
    cuda = (("name", "cuda"), ("parameters", tf32))
    accelerators = (("gpu_execution_accelerator", cuda),)
    return (("optimization", (("execution_accelerators", accelerators),)),)


def _warmup(served: Served) -> tuple[Field, ...]:
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


def _parameters(served: Served) -> tuple[Field, ...]:
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
