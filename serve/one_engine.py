"""One entry of a manifest as a running engine, for those who compare all of them."""

from dataclasses import replace
from pathlib import Path

from wsseg.imaging.errors import WssegError
from wsseg.serve.engine import Engine
from wsseg.serve.manifest import EngineFile, Manifest
from wsseg.serve.onnx_engine import EngineOptions, open_onnx


def open_entry(
    folder: Path, manifest: Manifest, entry: EngineFile, options: EngineOptions
) -> Engine:
    """Open exactly this engine of a model folder, whatever `options.precision` says.

    Raises WssegError where it does not run on this machine.
    """
    if entry.runtime != "onnxruntime":
        raise WssegError(f"{entry.file}: this version opens no engines of {entry.runtime}")
    only = manifest.model_copy(update={"engines": (entry,)})
    precision = entry.precision
    if precision not in ("fp32", "fp16"):
        raise WssegError(f"{entry.file}: this version opens no {precision} engines")
    return open_onnx(folder, only, replace(options, precision=precision))
