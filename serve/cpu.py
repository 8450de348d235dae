"""What this machine's CPU computes integers and bfloat16 with, and on how many cores."""

import math
import os
from functools import cache
from pathlib import Path

from wsseg.serve.quota import quota

# As Linux names them, best first. They multiply 8-bit numbers and add in 32 bits; without one of
# them x86 adds pairs of products in 16 bits, which large values overfill: the same INT8 file then
# gives other numbers.
INTEGER = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp")
BFLOAT = ("amx_bf16", "avx512_bf16")
INFORMATION = Path("/proc/cpuinfo")
# On x86 and on Arm.
FLAGS = ("flags", "features")
UNKNOWN = "unknown instructions"
"""Stands in a manifest for those of a CPU whose system does not tell."""


def instructions() -> frozenset[str]:
    """Those of INTEGER and BFLOAT that are here; empty where the system does not tell."""
    return (flags() or frozenset()) & {*INTEGER, *BFLOAT}


@cache
def flags() -> frozenset[str] | None:
    """All that the system tells of the CPU's abilities; None where it does not, as off Linux."""
    try:
        lines = INFORMATION.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    cells = (line.partition(":") for line in lines)
    found = (value for name, _, value in cells if name.strip().lower() in FLAGS)
    return next((frozenset(value.split()) for value in found), None)


def integer_kind() -> str | None:
    """The best of INTEGER known to be here, such as "avx512_vnni"; None where there is none."""
    return next((kind for kind in INTEGER if kind in instructions()), None)


def judged_with() -> str | None:
    """What INT8 figures that are measured here hold for, see `EngineFile.instructions`.

    UNKNOWN where the system does not tell: None would say that they hold for every CPU.
    """
    return UNKNOWN if flags() is None else integer_kind()


def usable_cores() -> int:
    """Cores that this process may use, by its affinity and by its container's quota.

    A quota of part of a core counts as a whole one.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    allowed = quota()
    return cores if allowed is None else max(1, min(cores, math.ceil(allowed)))


def threads_in(threads: int) -> int:
    """Threads for a runtime that starts as many as the machine has cores if it is told 0.

    threads: as asked for; 0 becomes the cores that this process may use where they are not all:
    more threads than cores would wait for each other most of the time.
    """
    usable = usable_cores()
    return threads or (usable if usable < (os.cpu_count() or 1) else 0)
