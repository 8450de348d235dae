"""The deployable graph as an ONNX model that carries its own description."""

import logging
from pathlib import Path

import onnx
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch.export import Dim

from wsseg.export.graph import DeployGraph
from wsseg.serve import contract
from wsseg.serve.contract import PROBABILITY

INPUT = contract.INPUT
# In the order in which the graph gives them.
OUTPUTS = tuple(contract.OUTPUTS)
# Known to ONNX Runtime and TensorRT for years, and the newest that every node used here needs.
OPSET = 18
# Key of the model's own description (JSON) in the file's metadata_props.
METADATA = "wsseg"

# Batch of 2 and an oblong size that is not the network's: the exporter takes a 1, or two equal
# numbers, for a property of the network rather than of this example.
EXAMPLE = (2, 72, 88)

logger = logging.getLogger(__name__)


def to_onnx(graph: DeployGraph, *, channels: int, description: str) -> onnx.ModelProto:
    """The graph as ONNX, optimised and checked, with batch, height and width left open.

    channels: of the input. description: JSON, kept in the file's metadata under `wsseg`. Notes that
    the exporter leaves on every node (source lines, paths of this machine) are removed.
    """
    example = torch.zeros(EXAMPLE[0], channels, *EXAMPLE[1:])
    program = torch.onnx.export(
        graph.eval(),
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        # PROBABILITY costs a runtime that is not asked for it no time: the others come from it.
        output_names=[*OUTPUTS, PROBABILITY],
        dynamic_shapes=open_axes(),
        verbose=False,
    )
    if program is None:
        raise AssertionError("the dynamo exporter returns its program")
    ClearMetadataAndDocStringPass()(program.model)
    model: onnx.ModelProto = program.model_proto
    onnx.helper.set_model_props(model, {METADATA: description})
    onnx.checker.check_model(model, full_check=True)
    return model


def open_axes() -> dict[str, dict[int, Dim]]:
    """The axes of the input whose length only a run tells."""
    return {INPUT: {0: Dim("batch"), 2: Dim("height"), 3: Dim("width")}}


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write one file with the weights inside; ValueError past 2 GiB, which none comes near."""
    path.write_bytes(model.SerializeToString(deterministic=True))
    logger.info("%s: %.1f MB", path.name, path.stat().st_size / 1e6)
