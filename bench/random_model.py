"""A model folder with a random network: enough for time and memory, which weights do not change."""

import hashlib
from pathlib import Path

from wsseg.export.graph import DeployGraph, save_onnx, to_onnx
from wsseg.imaging.definitions import RatioDefinition, Window
from wsseg.serve.manifest import FILE_NAME, EngineFile, Manifest, Training
from wsseg.train.config import NetworkName
from wsseg.train.data.preprocess import Preprocess
from wsseg.train.networks import Predictor, build_network


def write_random_model(folder: Path, name: NetworkName, size: int) -> Path:
    """Write a grey network of one class that sees `size` x `size` pixels; returns the folder."""
    folder.mkdir(parents=True)
    network = build_network(name, classes=1, channels=1, dropout=0.0)
    graph = DeployGraph(
        Predictor(Preprocess(Window(), size, 1), network).eval(), (0.5,), "fp32"
    ).eval()
    path = folder / "model.onnx"
    save_onnx(to_onnx(graph, channels=1, description="{}"), path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = Manifest(
        name="random",
        classes=("region",),
        ratios=(RatioDefinition(name="region", numerator="region"),),
        channels=1,
        window=Window(),
        network_size=size,
        thresholds=(0.5,),
        training=Training(
            preset="none",
            network=name,
            weights="none",
            cases=0,
            cases_sha256="",
            epochs=0,
            seed=0,
        ),
        engines=(
            EngineFile(file=path.name, runtime="onnxruntime", precision="fp32", sha256=sha256),
        ),
        wsseg_version="0",
        created="2026-01-01T00:00:00Z",
    )
    (folder / FILE_NAME).write_text(manifest.model_dump_json(), encoding="utf-8")
    return folder
