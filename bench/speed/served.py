"""Which engine `wsseg-infer` takes by itself."""

import csv
import tempfile
from functools import cache
from pathlib import Path

from bench.speed.command import infer_command
from wsseg.imaging.errors import WssegError
from wsseg.serve.manifest import load_model


@cache
def served(model: Path, scans: Path) -> int:
    """The place in the manifest of the engine that measures these scans with its defaults."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "ratios.csv")
        infer_command(scans, model, report, count=0)()
        with report.open(newline="", encoding="utf-8") as file:
            row = next(csv.DictReader(file))
    for number, entry in enumerate(load_model(model)[0].engines):
        runtime = row["engine"].replace("-", "_").startswith(entry.runtime)
        if runtime and (entry.precision, entry.sha256) == (row["precision"], row["model_sha256"]):
            return number
    raise WssegError(f"{model} lists no engine {row['engine']} {row['precision']}")


def served_precision(model: Path, scans: Path) -> str:
    """The precision of that engine."""
    return load_model(model)[0].engines[served(model, scans)].precision
