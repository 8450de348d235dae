"""The inside of a `Helper`: python -m bench.speed.worker TASK

TASK is JSON: the name of a task and its arguments. Prints a line of JSON when it is ready, and one
for each line it reads, with what a turn did. Ends when its input does.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from bench.speed import tasks

KIB = 1024
MB = 1e6
STATUS = Path("/proc/self/status")

TASKS: dict[str, Callable[..., tasks.Action]] = {
    "engine": tasks.engine,
    "network": tasks.network,
    "training": tasks.training,
    "find": tasks.find_files,
    "headers": tasks.read_headers,
    "matrix": tasks.matrix_rate,
    "copy": tasks.copy_rate,
}


def peak_mb() -> float | None:
    """Peak memory of this process; None where the system does not tell.

    Not getrusage, which counts the memory of whoever started this process as well.
    """
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(found[0]) * KIB / MB if found else None


def main(told: dict[str, Any], channel: IO[str]) -> None:
    """Get ready, then take turns."""
    try:
        action = TASKS[told.pop("task")](**told)
        action()  # the first turn compiles, plans and makes room
    except Exception as error:  # whatever a runtime raises, it cannot take part
        _say(channel, {"error": f"{type(error).__name__}: {error}"})
        return
    _say(channel, {})
    for _ in sys.stdin:
        start = time.perf_counter()
        count = action()
        seconds = time.perf_counter() - start
        _say(channel, {"count": count, "seconds": seconds, "peak_mb": peak_mb()})


def _say(channel: IO[str], answer: dict[str, Any]) -> None:
    channel.write(json.dumps(answer) + "\n")
    channel.flush()


if __name__ == "__main__":
    # Libraries print too: only what is meant for the benchmark goes to the real output.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    main(json.loads(sys.argv[1]), answers)
