"""The graph as a PyTorch program: slower than any other engine, and there to compare them with."""

import hashlib
from pathlib import Path
from typing import Final

import torch

from wsseg.export.difference import Standard
from wsseg.export.graph import DeployGraph
from wsseg.export.onnx_file import EXAMPLE, METADATA, open_axes
from wsseg.export.parity import judge_served
from wsseg.serve.manifest import EngineFile, Manifest
from wsseg.serve.torch_engine import open_torch
from wsseg.train.predictor import Predictor

FILE: Final = "model.pt2"


def make_torch_engine(
    manifest: Manifest, predictor: Predictor, standard: Standard, folder: Path, description: str
) -> EngineFile:
    """Write the fp32 program into the folder; return its entry with checksum and parity.

    description: JSON, kept in the file. EngineRejectedError where the file, read back, disagrees
    with the network that it was made from.
    """
    graph = DeployGraph(predictor, manifest.thresholds, "fp32").eval()
    example = torch.zeros(EXAMPLE[0], manifest.channels, *EXAMPLE[1:])
    program = torch.export.export(graph, (example,), dynamic_shapes=open_axes())
    _forget_sources(program)
    file = folder / FILE
    torch.export.save(program, file, extra_files={METADATA: description})
    entry = EngineFile(
        file=FILE,
        runtime="torch",
        precision="fp32",
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        builder=f"torch {torch.__version__}",
    )
    engine = open_torch(folder, manifest, entry, 0, device="cpu")
    return entry.model_copy(update={"parity": judge_served(engine, entry.precision, standard)})


def _forget_sources(program: torch.export.ExportedProgram) -> None:
    """Drop where each node comes from: folders of this machine, and lines of source."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
