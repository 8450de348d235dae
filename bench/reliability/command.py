"""wsseg-infer in a process of its own, with the time and the memory that it took."""

import csv
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TABLES = ("ratios.csv", "ratios.series.csv")
PATIENCE = 600.0
_SAMPLE_SECONDS = 0.01
# Fields of /proc/PID/stat, counted from the state.
_SESSION, _RESIDENT = 3, 21
_PAGE = os.sysconf("SC_PAGE_SIZE")
# Whoever starts it in the background lets it ignore SIGINT.
_COMMAND = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from wsseg.cli.main import infer_main; infer_main()"
)

Row = tuple[str, ...]


@dataclass(frozen=True)
class Done:
    """How a command ended. megabytes: at most, of the process and all that it started."""

    code: int
    seconds: float
    megabytes: float
    log: str


def infer(*arguments: object, environment: Mapping[str, str] | None = None) -> Done:
    """Run wsseg-infer to its end, on a CPU and with a log of JSON lines."""
    begun = time.monotonic()
    process = start(*arguments, environment=environment)
    peak = 0
    told: list[str] = []
    # A pipe that nobody reads would stop the command.
    reader = threading.Thread(target=lambda: told.append(process.communicate()[1]))
    reader.start()
    while process.poll() is None:
        peak = max(peak, sum(resident(process.pid).values()))
        if time.monotonic() - begun > PATIENCE:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(_SAMPLE_SECONDS)
    seconds = time.monotonic() - begun
    reader.join()
    return Done(process.returncode, seconds, peak / 1e6, told[0])


def start(
    *arguments: object, environment: Mapping[str, str] | None = None, before: Sequence[str] = ()
) -> "subprocess.Popen[str]":
    """Start wsseg-infer in a session of its own. before: a command that starts it."""
    command = [*before, sys.executable, "-c", _COMMAND, "--device", "cpu", "--json-log"]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment or {}),
    )


def rows(report: Path) -> Counter[Row]:
    """The rows of both tables of a report; none where it is missing."""
    found: Counter[Row] = Counter()
    for name in TABLES:
        path = report.with_name(name)
        if path.exists():
            with path.open(newline="", encoding="utf-8") as stream:
                found.update((name, *row) for row in csv.reader(stream))
    return found


def lost(before: Path, after: Path) -> int:
    """Rows of one report that the other lacks, has twice or has otherwise."""
    expected, found = rows(before), rows(after)
    return (expected - found).total() + sum(
        count - expected[row] for row, count in found.items() if row in expected and count > 1
    )


def resident(session: int) -> dict[int, int]:
    """Bytes in memory of each process of a session, by its id; shared pages count for each."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(stat[_SESSION]) == session and stat[0] != "Z":
                found[int(folder.name)] = int(stat[_RESIDENT]) * _PAGE
        except (OSError, ValueError, IndexError):  # it has ended
            continue
    return found
