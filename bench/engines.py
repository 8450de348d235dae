"""How long a slice takes in the exported engine, as a ratio to PyTorch in the same run.

    python -m bench.engines [--size 256] [--runs 5]

Random weights: time does not depend on them.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from bench.timing import ratio, where
from wsseg.export.graph import DeployGraph
from wsseg.export.onnx_file import save_onnx, to_onnx, without_probability
from wsseg.imaging.definitions import Window
from wsseg.train.config import NetworkName
from wsseg.train.front import Front
from wsseg.train.networks import build_network
from wsseg.train.predictor import Predictor

NETWORKS: tuple[NetworkName, ...] = ("mobilenet_v2", "resnet50")


def compare(name: NetworkName, size: int, runs: int, folder: Path) -> str:
    """One row: ONNX Runtime over eager PyTorch, fp32, one slice, the same graph."""
    import onnxruntime

    network = build_network(name, classes=1, channels=1, dropout=0.0)
    predictor = Predictor(Front(Window(), size, 1), network).eval()
    graph = DeployGraph(predictor, (0.5,), "fp32").eval()
    path = folder / f"{name}.onnx"
    save_onnx(without_probability(to_onnx(graph, channels=1, description="{}")), path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 1, size, size)).astype(np.float32)
    tensor = torch.from_numpy(pixels)

    def eager() -> None:
        with torch.inference_mode():
            graph(tensor)

    return ratio(lambda: session.run(None, {"pixels": pixels}), eager, runs)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{where()}; one {arguments.size} x {arguments.size} slice, fp32\n")
    print("| network | ONNX Runtime time / eager PyTorch time |")
    print("|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS:
            row = compare(name, arguments.size, arguments.runs, Path(folder))
            print(f"| {name} | {row} |")


if __name__ == "__main__":
    main()
