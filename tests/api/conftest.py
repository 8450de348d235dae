"""The examples of docs/python.md, run once in a folder with a few cases and scans."""

import contextlib
import csv
import io
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import blob
from tests.small_network import small_network

GUIDE = Path(__file__).parents[2] / "docs" / "python.md"
SMALLER = {
    "size=128": "size=32",
    "epochs=40": 'epochs=8, batch=2, learning_rate=2e-3, ema=0.5, accelerator="cpu"',
    # A network of so few steps is too coarse for the gate of int8.
    'precisions=("fp32", "int8"), calibration="cases.csv"': 'precisions=("fp32",)',
}
"""What the examples are run with, to take seconds."""


@dataclass(frozen=True)
class Guide:
    """folder: where the examples ran. names: what they defined. printed: their output."""

    folder: Path
    names: dict[str, Any]
    printed: str


def write_cases(folder: Path, count: int = 8) -> None:
    """cases.csv with ratios and a small mark in each picture, and masks where a case judges; scans,
    and recorded.csv with their ratios."""
    for name in ("images", "marks", "masks", "scans"):
        (folder / name).mkdir()
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "ratio", "marks", "mask", "split"])
        for number in range(1, count + 1):
            picture, mask = blob(number)
            name, held_out = f"p{number:02}.png", number % 4 == 0
            mark = np.zeros_like(mask)
            row, column = (int(values.mean()) for values in np.nonzero(mask))
            mark[row - 1 : row + 2, column - 1 : column + 2] = True
            Image.fromarray(picture).save(folder / "images" / name)
            Image.fromarray(mark.astype(np.uint8)).save(folder / "marks" / name)
            Image.fromarray(mask.astype(np.uint8)).save(folder / "masks" / name)
            writer.writerow(
                [f"images/{name}", mask.mean(), f"marks/{name}",
                 f"masks/{name}" if held_out else "", "val" if held_out else "train"]
            )  # fmt: skip
    recorded = ["source,ratio"]
    for number in (20, 21, 22):
        picture, mask = blob(number)
        Image.fromarray(picture).save(folder / "scans" / f"{number}.png")
        recorded.append(f"{number}.png,{mask.mean()}")
    (folder / "recorded.csv").write_text("\n".join(recorded))
    (folder / "scans" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")


@pytest.fixture(scope="session")
def guide(tmp_path_factory: pytest.TempPathFactory) -> Guide:
    """All examples of the guide, in their order, as one program."""
    program = "\n".join(re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL))
    for text, smaller in SMALLER.items():
        assert text in program
        program = program.replace(text, smaller)
    folder = tmp_path_factory.mktemp("guide")
    write_cases(folder)
    names: dict[str, Any] = {}
    root, log = logging.getLogger(), logging.getLogger("wsseg")
    handlers, level = root.handlers[:], log.level
    output = contextlib.redirect_stdout(io.StringIO())
    with small_network(), contextlib.chdir(folder), output as printed:
        exec(compile(program, GUIDE.name, "exec"), names)
    root.handlers[:] = handlers
    log.setLevel(level)
    return Guide(folder, names, printed.getvalue())
