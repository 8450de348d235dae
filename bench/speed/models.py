"""Model folders for the benchmark, of trained networks or of random weights.

Arithmetic takes as long with any weights; only a trained network tells whether 8 bits agree.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from math import inf
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import wsseg
from bench.speed.setting import Setting
from bench.speed.slices import series_folder, slices_file
from wsseg.export import parity
from wsseg.export.parity import TOLERANCES, EngineRejectedError, Tolerance
from wsseg.export.publish import ExportOptions, export_run
from wsseg.imaging.definitions import RatioDefinition, Window
from wsseg.imaging.files import atomic_folder
from wsseg.serve.manifest import FILE_NAME
from wsseg.train.config import NetworkName
from wsseg.train.data.preprocess import Preprocess
from wsseg.train.networks import Network, Predictor, build_network, last_layer
from wsseg.train.run_folder import (
    RECORD,
    SAMPLES,
    WEIGHTS,
    RunRecord,
    read_record,
    save_samples,
    save_weights,
)

CLASS = "region"
SAMPLE_SLICES = 2
CALIBRATION_SERIES = 2
CALIBRATION_SLICES = 16
LOGIT_SD = 3.0
INSIDE = 0.2
"""Share of the pixels that the network is made to find."""


def run_folder(setting: Setting, name: NetworkName, size: int) -> Path:
    """The folder of a run, as training leaves it; made once.

    A trained network is taken at `size`, whichever it was trained at: its weights fit any.
    """
    folder = setting.work / "runs" / f"{name}-{size}"
    if not (folder / RECORD).exists():
        trained = setting.trained.get(name)
        with atomic_folder(folder) as partial:
            if trained:
                _copy(trained, size, partial)
            else:
                _make(setting, name, size, partial)
    return folder


def model_folder(setting: Setting, name: NetworkName, size: int) -> Path:
    """The run exported with every engine it can have; made once.

    Random weights decide so little that no 8-bit engine agrees with PyTorch: theirs is made all the
    same, with the gate open, because its speed is that of any weights.
    """
    folder = setting.work / "models" / f"{name}-{size}"
    if not (folder / FILE_NAME).exists():
        print(f"exporting {folder.name}", flush=True)
        with nullcontext() if name in setting.trained else _open_gate():
            try:
                export_run(run_folder(setting, name, size), folder, _options(setting))
            except EngineRejectedError as error:
                print(f"  {error}", flush=True)
    return folder


def _options(setting: Setting) -> ExportOptions:
    images = setting.calibration or series_folder(
        setting, "calibration", series=CALIBRATION_SERIES, slices=CALIBRATION_SLICES
    )
    # fp16 is for GPUs: a CPU computes it in fp32.
    float_kinds = ("fp32", "fp16") if setting.device == "cuda" else ("fp32",)
    return ExportOptions.model_validate(
        {
            "precisions": (*float_kinds, "int8"),
            "calibration": images,
            "calibration_images": CALIBRATION_SERIES * CALIBRATION_SLICES,
        }
    )


@contextmanager
def _open_gate() -> Iterator[None]:
    """Let every 8-bit engine through."""
    wide = Tolerance(probability=inf, agreement=0.0, ratio=inf, border=0.0, ratio_mean=inf)
    with (
        patch.dict(TOLERANCES, {"int8": wide, "bf16": wide}),
        patch.object(parity, "ROUNDED", frozenset()),
    ):
        yield


def trained_runs(folders: Sequence[Path]) -> dict[NetworkName, Path]:
    """Finished runs by the network that they trained."""
    return {read_record(folder).network: folder for folder in folders}


def _copy(trained: Path, size: int, partial: Path) -> None:
    for name in (WEIGHTS, SAMPLES):
        shutil.copy(trained / name, partial / name)
    record = read_record(trained).model_copy(update={"size": size})
    (partial / RECORD).write_text(record.model_dump_json(), encoding="utf-8")


def _make(setting: Setting, name: NetworkName, size: int, partial: Path) -> None:
    pixels = np.load(slices_file(setting)).astype(np.float32)
    samples = list(pixels[:: max(1, len(pixels) // SAMPLE_SLICES)][:SAMPLE_SLICES, None])
    predictor = _predictor(name, size, samples)
    save_weights(predictor.network, partial / WEIGHTS)
    save_samples(samples, partial / SAMPLES)
    (partial / RECORD).write_text(_record(name, size).model_dump_json(), encoding="utf-8")


def _predictor(name: NetworkName, size: int, samples: list[NDArray[np.float32]]) -> Predictor:
    """A network whose values have the sizes of a trained one's, and whose answers are decided.

    With neither, half precision would overflow and roundings would decide masks: the export would
    rightly refuse to publish its engines.
    """
    torch.manual_seed(0)
    network = build_network(name, classes=1, channels=1)
    predictor = Predictor(Preprocess(Window(), size, 1), network)
    raw = torch.from_numpy(np.stack(samples))
    with torch.no_grad():
        _settle(network, predictor.front(raw))
        logits = predictor.eval().logits(raw)
        last = last_layer(network)
        scale = LOGIT_SD / logits.std()
        # Every 1009th: quantile() takes no more than 2**24 values.
        edge = logits.flatten()[::1009].quantile(1 - INSIDE)
        last.weight.mul_(scale)
        if last.bias is not None:
            last.bias.sub_(edge).mul_(scale)
    return predictor


def _settle(network: Network, image: torch.Tensor) -> None:
    """Set the running statistics of all batch norms to those of these images."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    network.train()
    network.coarse_logits(image)


def _record(name: NetworkName, size: int) -> RunRecord:
    return RunRecord(
        classes=(CLASS,),
        ratios=(RatioDefinition(name=CLASS, numerator=CLASS),),
        channels=1,
        window=Window(),
        size=size,
        network=name,
        preset="none",
        initial_weights="none",
        cases=0,
        cases_sha256="",
        epochs=0,
        chosen_epoch=0,
        chosen_by="last",
        seed=0,
        metrics={},
        thresholds=(0.5,),
        wsseg_version=wsseg.__version__,
    )
