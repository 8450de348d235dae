"""nnU-Net v2's own 2-D predictor and export, with a plan of its own and untrained weights.

Run inside nnU-Net's environment. Two uses:

    run_nnunet.py prepare SLICES.npy MODEL      writes the model folder MODEL and MODEL/scans
    run_nnunet.py predict MODEL OUT cpu|cuda default|once

`prepare` lets nnU-Net's planner look at a tiny data set made of the slices. `predict` calls the
entry point of `nnUNetv2_predict_from_modelfolder`; "once" leaves its mirroring out.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from bench.speed.peers.measured import Stopwatch, say

DATASET = "Dataset001_speed"
CONFIGURATION = "2d"
TRAINER = "nnUNetTrainer"
TRAINING_CASES = 3
TRAINING_SLICES = 16
AIR = -1000
SPACING_MM = (3.0, 0.75, 0.75)
# One volume gives one helper work; more of them would only cost start-up.
HELPERS = "1"


def prepare(slices: Path, model: Path) -> None:
    """Plan for these slices, draw weights, and write the slices as one NIfTI volume."""
    import numpy as np

    # As in CT, air is not 0: nnU-Net would cut zeros away, and plan for smaller slices.
    pixels = np.load(slices).astype(np.int16) + AIR
    shutil.rmtree(model, ignore_errors=True)
    work = model / "work"
    for name in ("raw", "preprocessed", "results"):
        (work / name).mkdir(parents=True)
        os.environ[f"nnUNet_{name}"] = str(work / name)
    _write_dataset(pixels, work / "raw" / DATASET)
    plan = _plan(work / "preprocessed" / DATASET)
    _write_model(plan, work / "raw" / DATASET / "dataset.json", model)
    _write_volume(pixels, model / "scans" / "scan_0000.nii.gz")
    shutil.rmtree(work)


def _write_dataset(pixels: Any, folder: Path) -> None:
    import numpy as np

    for case in range(TRAINING_CASES):
        places = np.arange(case, case + TRAINING_SLICES) % len(pixels)
        _write_volume(pixels[places], folder / "imagesTr" / f"case{case}_0000.nii.gz")
        region = pixels[places] > np.median(pixels)
        _write_volume(region.astype(np.uint8), folder / "labelsTr" / f"case{case}.nii.gz")
    described = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "region": 1},
        "numTraining": TRAINING_CASES,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(described), encoding="utf-8")


def _write_volume(pixels: Any, path: Path) -> None:
    import SimpleITK

    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(pixels)
    image.SetSpacing(SPACING_MM[::-1])
    SimpleITK.WriteImage(image, str(path))


def _plan(preprocessed: Path) -> Path:
    """nnU-Net's fingerprint and plan of the tiny data set."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
    )

    extract_fingerprints([1], num_processes=1, show_progress_bar=False)
    return preprocessed / f"{plan_experiments([1])}.json"


def _write_model(plan: Path, dataset: Path, model: Path) -> None:
    """A model folder as training would leave it, with the weights that training begins from."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    shutil.copy(plan, model / "plans.json")
    shutil.copy(dataset, model / "dataset.json")
    plans = PlansManager(str(plan))
    configuration = plans.get_configuration(CONFIGURATION)
    labels = plans.get_label_manager(json.loads(dataset.read_text(encoding="utf-8")))
    network = nnUNetTrainer.build_network_architecture(
        plans, configuration, 1, labels.num_segmentation_heads, enable_deep_supervision=False
    )
    checkpoint = {
        "network_weights": network.state_dict(),
        "init_args": {"configuration": CONFIGURATION},
        "trainer_name": TRAINER,
        "inference_allowed_mirroring_axes": (0, 1),
    }
    (model / "fold_0").mkdir()
    torch.save(checkpoint, model / "fold_0" / "checkpoint_final.pth")
    print(f"nnU-Net's plan: patch {configuration.patch_size}, batch {configuration.batch_size}")


def predict(model: Path, out: Path, device: str, mirroring: str) -> None:
    """The command line tool on the volume, its network's time counted."""
    for name in ("raw", "preprocessed", "results"):
        os.environ.setdefault(f"nnUNet_{name}", str(out))
    from nnunetv2.inference import predict_from_raw_data as tool

    network = Stopwatch()
    name = "_internal_maybe_mirror_and_predict"
    setattr(tool.nnUNetPredictor, name, network.around(getattr(tool.nnUNetPredictor, name)))
    without = ["--disable_tta"] if mirroring == "once" else []
    sys.argv = [
        "nnUNetv2_predict_from_modelfolder", "-i", str(model / "scans"), "-o", str(out),
        "-m", str(model), "-f", "0", "-device", device, "-npp", HELPERS, "-nps", HELPERS,
        "--disable_progress_bar", *without,
    ]  # fmt: skip
    tool.predict_entry_point_modelfolder()
    say(slices=_slices(out / "scan.nii.gz"), network=network)


def _slices(labels: Path) -> int:
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(labels))
    reader.ReadImageInformation()
    slices: int = reader.GetSize()[2]
    return slices


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        predict(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], sys.argv[5])
