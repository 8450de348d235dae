"""The int8 engine of a model folder: calibrated, judged, layer by layer put back, written."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from wsseg.export.difference import Standard
from wsseg.export.engine_onnx import FILES, judged, traced
from wsseg.export.onnx_file import METADATA, save_onnx
from wsseg.export.parity import EngineRejectedError, require_evidence
from wsseg.export.quantize.network_part import Layer, network_part
from wsseg.export.quantize.qdq import quantised
from wsseg.export.quantize.ranges import Method, measure_ranges
from wsseg.export.quantize.search import Found, search
from wsseg.export.quantize.sensitivity import most_sensitive_first
from wsseg.serve.cpu import judged_with
from wsseg.serve.manifest import EngineFile, Manifest, Parity
from wsseg.train.predictor import Predictor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """Raw slices (c, H, W) that stand for all that the engine will see, and how ranges are set."""

    slices: Sequence[NDArray[np.float32]]
    method: Method


def make_int8_engine(
    manifest: Manifest,
    entry: EngineFile,
    predictor: Predictor,
    standard: Standard,
    calibration: Calibration,
    folder: Path,
) -> EngineFile:
    """Write the planned int8 engine into the folder and return its entry.

    The network computes in 8 bits, all that goes before and after it in float32; `float_layers`
    names what had to stay float32. Raises EngineRejectedError, with the layers that hurt most,
    where none agrees with PyTorch or nothing is there to judge it by; no file is left then.
    """
    require_evidence(entry.precision, standard)
    file = folder / entry.file
    model = _float_model(manifest, predictor, folder)
    part, inputs = network_part(model), _network_inputs(predictor, calibration)
    ranges = measure_ranges(part, inputs, calibration.method)

    def attempt(kept: Sequence[Layer]) -> Parity:
        save_onnx(_described(quantised(model, part, ranges, kept), model), file)
        return judged(manifest, _hashed(entry, file), standard, folder)

    try:
        found = search(attempt, lambda: most_sensitive_first(part, ranges, inputs))
    except EngineRejectedError:
        file.unlink()
        raise
    return _judged_entry(entry, file, found)


def _float_model(manifest: Manifest, predictor: Predictor, folder: Path) -> onnx.ModelProto:
    """The fp32 graph. Tracing takes as long as all the rest: what was published is read back."""
    exact = folder / FILES["fp32"]
    return onnx.load(exact) if exact.is_file() else traced(manifest, predictor, "fp32")


def _network_inputs(predictor: Predictor, calibration: Calibration) -> list[NDArray[np.float32]]:
    """What the network itself sees of each slice: after window, resizing and normalising."""
    with torch.inference_mode():
        return [predictor.front(torch.from_numpy(raw[None])).numpy() for raw in calibration.slices]


def _judged_entry(entry: EngineFile, file: Path, found: Found) -> EngineFile:
    return _hashed(entry, file).model_copy(
        update={
            "parity": found.parity,
            "float_layers": tuple(layer.name for layer in found.in_float),
            "instructions": judged_with(),
        }
    )


def _described(made: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """The quantised model with the float model's own description, and nothing of the quantiser."""
    texts = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(made, {METADATA: texts[METADATA]})
    onnx.checker.check_model(made, full_check=True)
    return made


def _hashed(entry: EngineFile, file: Path) -> EngineFile:
    return entry.model_copy(update={"sha256": hashlib.sha256(file.read_bytes()).hexdigest()})
