"""Two commands on one output: the second says so in one line and harms nothing of the first."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsseg.cli.demo import run_demo
from wsseg.export.publish import ExportOptions, export_run
from wsseg.imaging.errors import WssegError
from wsseg.serve.infer import infer
from wsseg.serve.options import InferOptions
from wsseg.train.simulate.table import simulate_marks

HOLDER = """
import sys, time
from pathlib import Path
from wsseg.imaging.files import lock_output
with lock_output(Path(sys.argv[1]), "taken"):
    print("locked", flush=True)
    time.sleep(600)
"""


def measure(model: Path, out: Path) -> None:
    scans = out.parent / "scans"
    scans.mkdir(exist_ok=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(scans / "a.png")
    infer([scans], InferOptions(model=model, report=out, overwrite=True, isolate=False))


def export(_: Path, out: Path) -> None:
    export_run(out.parent / "no run", out, ExportOptions(overwrite=True))


def demo(_: Path, out: Path) -> None:
    run_demo(out, epochs=1)


def marks(_: Path, out: Path) -> None:
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(out.parent / "a.png")
    table = out.parent / "outlined.csv"
    table.write_text("image,mask\na.png,a.png\n")
    simulate_marks(table, out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (measure, "another run is writing"),
        (export, "another export is writing"),
        (demo, "another demo is at work"),
        (marks, "other marks are being written"),
    ],
)
def test_the_second_is_refused_until_the_first_ends_even_by_a_kill(
    command: Callable[[Path, Path], None], said: str, model: Path, tmp_path: Path
):
    out = tmp_path / ("ratios.csv" if command is measure else "out")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, out], stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(WssegError, match=said) as refused:
            command(model, out)
        assert len(str(refused.value).splitlines()) == 1
        assert not out.exists()
        holder.kill()
    if command in (measure, marks):
        command(model, out)
        assert out.exists()
