"""An engine that fails at one slice, in each way that engines do, and one with a damaged file."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.reliability.command import infer as command
from bench.reliability.command import lost, rows
from bench.reliability.result import Result
from bench.reliability.scans import write_model
from tests.serve.conftest import failures, make_manifest, write_pictures, write_volume
from tests.serve.engines import faulty
from wsseg.serve.engines.base import EngineOptions
from wsseg.serve.engines.child import ChildEngine
from wsseg.serve.infer import infer
from wsseg.serve.options import InferOptions

SCANS = 20
PATIENCE = 5.0
FAULTS = {
    "engine aborts at a slice": faulty.ABORT,
    "engine sleeps for ever at a slice": faulty.HANG,
    "engine computes for ever at a slice": faulty.LOOP,
    "engine raises at a slice": faulty.RAISE,
    "engine finds no memory for a slice": faulty.NO_MEMORY,
    "engine has NaN for a slice": faulty.NO_NUMBER,
}
_OPENER = "tests.serve.engines.faulty:opened"


def engines(folder: Path) -> Iterator[Result]:
    """A result for each way to fail; a slice that fp32 computes instead costs no row at all."""
    # The engine's process finds the engine by this.
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    model = write_model(folder / "model")
    sound = write_pictures(folder / "sound", SCANS)
    usual = folder / "usual" / "ratios.csv"
    code, seconds = _run(model, usual, sound)
    if code:
        raise AssertionError(f"exit code {code} without a fault")
    for index, (name, first) in enumerate(FAULTS.items()):
        bad = folder / f"bad-{index}"
        bad.mkdir()
        slices = np.full((1, 24, 40), 150, np.float32)
        slices[0, 0, 0] = first
        write_volume(bad / "bad.nii", slices)
        report = folder / f"out-{index}" / "ratios.csv"
        code, taken = _run(model, report, *sorted(sound.iterdir()), bad / "bad.nii")
        told = ", ".join(row["reason"] for row in failures(report)) or "computed again in fp32"
        yield Result(f"{name}: {told}", 1, lost(usual, report), str(code), taken - seconds)
    yield _damaged(folder / "damaged", sound)


def _run(model: Path, report: Path, *inputs: Path) -> tuple[int, float]:
    begun = time.monotonic()
    engine = ChildEngine(Path(), make_manifest(), EngineOptions(), PATIENCE, _OPENER)
    options = InferOptions(model=model, report=report, device="cpu", skip=False)
    named = list(inputs)
    summary = infer(named, options, engine=lambda: engine)
    return summary.exit_code, time.monotonic() - begun


def _damaged(folder: Path, scans: Path) -> Result:
    """One byte of an engine's file is another: nothing is measured with it."""
    model = write_model(folder / "model")
    content = bytearray((model / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (model / "model.onnx").write_bytes(content)
    report = folder / "ratios.csv"
    done = command("--model", model, "--report", report, scans)
    return Result(
        "the only engine's file is damaged: refused before a scan is read",
        1,
        rows(report).total(),
        str(done.code),
    )
