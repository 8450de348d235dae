"""A turn of an entrant that is a command: started, run to its end, measured from outside."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.accuracy.machine import ROOT
from bench.speed.contest import EntrantError, Turn

LAUNCH = Path(__file__).with_name("launch.py")
# As a hospital's pipeline calls it; not the script beside Python, which another clone may own.
INFER = (sys.executable, "-c", "from wsseg.cli.main import infer_main; infer_main()")
LAST_LINES = 5


@dataclass(frozen=True)
class Command:
    """A command line that works on `count` things. changes: of its environment.

    tells: the last line that it prints is JSON as `peers.measured.say` writes it.
    """

    line: Sequence[str]
    count: int
    changes: Mapping[str, str] = field(default_factory=dict)
    tells: bool = False

    def __call__(self) -> Turn:
        """Run it once; EntrantError with its last lines where it fails."""
        with tempfile.TemporaryDirectory() as scratch:
            measured = Path(scratch, "measured.json")
            done = subprocess.run(
                [sys.executable, "-I", str(LAUNCH), str(measured), *self.line],
                env={**os.environ, **self.changes},
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                last = "\n".join((done.stdout + done.stderr).splitlines()[-LAST_LINES:])
                raise EntrantError(f"{self.line[0]} ended with code {done.returncode}: {last}")
            figures = json.loads(measured.read_text())
        if not self.tells:
            return Turn(self.count, figures["seconds"], figures["peak_mb"])
        told = json.loads(done.stdout.splitlines()[-1])
        if told["slices"] != self.count:
            raise EntrantError(f"{self.line[0]} did {told['slices']} of {self.count} slices")
        return Turn(self.count, figures["seconds"], figures["peak_mb"], told["seconds_network"])


def infer_command(inputs: Path, model: Path, report: Path, *, count: int) -> Command:
    """`wsseg-infer` with its defaults on a folder of `count` slices."""
    line = (*INFER, str(inputs), "--model", str(model), "--report", str(report), "--overwrite")
    return Command(line, count)
