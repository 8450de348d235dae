"""OpenVINO over the ONNX files of a model folder: judged like every other engine."""

from collections.abc import Sequence
from pathlib import Path

from wsseg.export.difference import Standard
from wsseg.export.parity import judge_served
from wsseg.serve.manifest import EngineFile, Manifest, PrecisionName
from wsseg.serve.openvino_engine import no_bfloat, no_openvino, open_openvino

# fp16 files are for GPUs: a CPU computes them in fp32, after rounding.
PRECISIONS: dict[PrecisionName, tuple[PrecisionName, ...]] = {
    "fp32": ("fp32", "bf16"),
    "int8": ("int8",),
}
"""In what a file of one precision is computed."""


def planned_openvino(files: Sequence[EngineFile]) -> tuple[EngineFile, ...]:
    """The entries that OpenVINO, if it is installed, can have over ONNX files that were made."""
    if no_openvino():
        return ()
    import openvino

    return tuple(
        entry.model_copy(
            update={
                "runtime": "openvino",
                "precision": precision,
                "builder": f"openvino {openvino.__version__}",
                "parity": None,
                "relative_time": None,
            }
        )
        for entry in files
        for precision in PRECISIONS.get(entry.precision, ())
        if precision != "bf16" or no_bfloat() is None
    )


def judge_openvino(
    entry: EngineFile, manifest: Manifest, standard: Standard, folder: Path
) -> EngineFile:
    """The entry with its parity figures; EngineRejectedError where it disagrees with PyTorch."""
    engine = open_openvino(folder, manifest, entry, 0)
    return entry.model_copy(update={"parity": judge_served(engine, entry.precision, standard)})
