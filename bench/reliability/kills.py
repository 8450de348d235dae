"""SIGKILL at random moments, and --resume until the run is done."""

import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.reliability.command import PATIENCE, lost, resident, start
from bench.reliability.result import Result
from bench.reliability.scans import write_model, write_volumes
from wsseg.serve.journal import journal_path

KILLS, SCANS, SEED = 50, 40, 13
_SHORTEST = 0.05
_ORPHAN_SECONDS = 10.0
_LOCK = ".lock-"
"""How the names of locks begin, which a kill may leave: they lock nothing any more."""


@dataclass
class Killed:
    """What came of kills. runs: those that were begun anew. lost: rows. unlike: files."""

    kills: int = 0
    runs: int = 0
    lost: int = 0
    unlike: list[str] = field(default_factory=list)


def kill_and_resume(
    arguments: Sequence[object], whole: Path, folder: Path, *, kills: int, draw: random.Random
) -> Killed:
    """Run wsseg-infer again and again, and kill it so often; each time its run goes on.

    arguments: without outputs. whole: folder into which an undisturbed run has written; its files
    are what all runs must end with. folder: where runs write, one after the other. A run is killed
    at a moment drawn between its start and the time that the undisturbed one would take. The last
    one ends by itself, and with it goes what kills left.
    """
    killed = Killed()
    seconds = whole_seconds(arguments, whole)
    ended = False
    while killed.kills < kills or not ended:
        out = folder / str(killed.runs)
        killed.runs += 1
        while True:
            process = start("--resume", *outputs(out), *arguments)
            if killed.kills < kills:
                _kill(process.pid, draw.uniform(_SHORTEST, seconds))
            log = process.communicate(timeout=PATIENCE)[1]
            ended = process.returncode != -signal.SIGKILL
            if ended:
                check_ended(process.returncode, log)
                break
            killed.kills += 1
            check_gone(process.pid)
            if (out / "ratios.csv").exists() and not journal_path(out / "ratios.csv").exists():
                break  # it had done all but to end
        killed.lost += lost(whole / "ratios.csv", out / "ratios.csv")
        expected, found = contents(whole), contents(out)
        names = expected.keys() | found.keys()
        killed.unlike += [name for name in names if expected.get(name) != found.get(name)]
    return killed


def whole_seconds(arguments: Sequence[object], whole: Path) -> float:
    """Run without a disturbance into an empty folder; how long it took."""
    begun = time.monotonic()
    process = start(*outputs(whole), *arguments)
    log = process.communicate(timeout=PATIENCE)[1]
    check_ended(process.returncode, log)
    return time.monotonic() - begun


def check_gone(session: int) -> None:
    """Raise AssertionError where processes of a run that was killed live on."""
    deadline = time.monotonic() + _ORPHAN_SECONDS
    while left := resident(session):
        if time.monotonic() > deadline:
            raise AssertionError(f"{len(left)} processes live on")
        time.sleep(0.01)


def check_ended(code: int, log: str) -> None:
    """Raise AssertionError for a run that did not measure everything."""
    if code:
        raise AssertionError(f"exit code {code}: {log}")


def outputs(folder: Path) -> tuple[object, ...]:
    """The options that name a report and label maps in a folder."""
    return "--report", folder / "ratios.csv", "--masks", folder / "masks"


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files below a folder, without locks."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {
        name: path.read_bytes() for name, path in names.items() if not path.name.startswith(_LOCK)
    }


def _kill(pid: int, after: float) -> None:
    """Kill a process, but none that it started, unless it ends before that."""
    deadline = time.monotonic() + after
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)


def kills(folder: Path, *, count: int = KILLS) -> Iterator[Result]:
    """A result of so many kills of runs on 40 volumes."""
    model, scans = write_model(folder / "model"), write_volumes(folder / "scans", SCANS)
    arguments = ("--model", model, scans)
    draw = random.Random(SEED)
    killed = kill_and_resume(arguments, folder / "whole", folder / "out", kills=count, draw=draw)
    yield Result(
        f"SIGKILL at random moments of {killed.runs} runs, each resumed to its end; "
        f"{len(killed.unlike)} files unlike",
        killed.kills,
        killed.lost,
        "0 at the end",
    )
