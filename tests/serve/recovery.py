"""What the tests of recovered masks share: scans, their probabilities' order, a run."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.serve.conftest import (
    rows,
    run,
    write_volume,
)
from wsseg.imaging import RatioDefinition
from wsseg.serve.report import recovered_paths

BOTH = (
    RatioDefinition(name="bright", numerator="bright"),
    RatioDefinition(name="brightest", numerator="brightest"),
    RatioDefinition(name="share", numerator="brightest", denominator="bright"),
)


def smooth(seed: int, shape: tuple[int, int] = (24, 40)) -> np.ndarray:
    """Grey values whose probabilities differ in float32; the same value now and then."""
    random = np.random.default_rng(seed)
    return random.normal(145, 20, shape).clip(100, 190).round().astype(np.uint8)


def write_scans(folder: Path) -> Path:
    """Pictures 0.png to 3.png, and a volume of three slices."""
    folder.mkdir()
    for seed in range(4):
        Image.fromarray(smooth(seed)).save(folder / f"{seed}.png")
    write_volume(folder / "volume.nii.gz", np.stack([smooth(seed) for seed in range(4, 7)]))
    return folder


def recover(model: Path, folder: Path, text: str, *inputs: Path, **options):
    """A run with this known table; its summary, its table and the folder of its masks."""
    (folder / "known.csv").write_text(text, encoding="utf-8")
    report = folder / "out" / "ratios.csv"
    options = {"known_ratios": folder / "known.csv"} | options
    summary = run(model, report, *inputs, **options)
    table, masks = recovered_paths(report)
    return summary, rows(table), masks
