"""A tiny job done once through the commands: cases, run, model."""

import csv
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.small_network import small_network
from wsseg.cli.main import app


def blob(seed: int, side: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc on noise: 8-bit picture and mask."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:side, :side]
    centre, radius = rng.uniform(16, side - 16, 2), rng.uniform(6, 12)
    mask = (row - centre[0]) ** 2 + (column - centre[1]) ** 2 <= radius**2
    picture = np.where(mask, 180, 60) + rng.normal(0, 10, mask.shape)
    return picture.clip(0, 255).astype(np.uint8), mask


def write_outlined(folder: Path, count: int) -> Path:
    """Write pictures with masks and a table that names them."""
    table = folder / "outlined.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "mask", "split"])
        for index in range(count):
            picture, mask = blob(index)
            Image.fromarray(picture).save(folder / f"image{index}.png")
            Image.fromarray(mask.astype(np.uint8)).save(folder / f"mask{index}.png")
            split = "val" if index % 4 == 3 else "train"
            writer.writerow([f"image{index}.png", f"mask{index}.png", split])
    return table


def call(*arguments: object, code: int = 0) -> str:
    """Run `wsseg` with these arguments, expect the exit code, return what it printed."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    # A command keeps its log to itself; in this process other tests listen to that log.
    log = logging.getLogger("wsseg")
    log.handlers.clear()
    log.setLevel(logging.NOTSET)
    log.propagate = True
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.output


@pytest.fixture(autouse=True)
def _small_network() -> Iterator[None]:
    """Commands are about files and words; `test_offline` starts them all with a real network."""
    with small_network():
        yield


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with cases/, run/ and model/ made by marks, train and export."""
    folder = tmp_path_factory.mktemp("job")
    outlined = write_outlined(folder, 8)
    call("marks", outlined, "--out", folder / "cases", "--percent", 8)
    with small_network():
        call(
            "train", folder / "cases" / "cases.csv", "--out", folder / "run", "--network",
            "mobilenet_v2", "--size", 32, "--epochs", 2, "--batch", 4, "--accelerator", "cpu",
            "--precision", "fp32", "--code", "roi=SCT:52988006",
        )  # fmt: skip
        anatomy = "roi.anatomy=SCT:76752008"
        call("export", folder / "run", "--out", folder / "model", "--torch", "--code", anatomy)
    return folder
