"""CUDA's own libraries, found among the packages that bring them."""

import contextlib
import ctypes
import io
import logging
import math
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

# How much of the machine Linux's control groups leave to this process, as containers have it.

GROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def quota() -> float | None:
    """Cores' worth of computing that this process may do; None where nothing limits it.

    The least of what its own group and those above it allow, in either version of control groups.
    """
    allowed = (_allowed(group) for group in _groups())
    return min((cores for cores in allowed if cores is not None), default=None)


def _groups() -> Iterator[Path]:
    """Folders of this process's group and of those above it.

    Inside a container the path that is told may be the host's: its own group is then the topmost.
    """
    try:
        lines = OWN.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # another system
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top = GROUPS
        elif "cpu" in controllers.split(","):  # version 1 has a tree for each controller
            top = GROUPS / "cpu"
        else:
            continue
        own = top / path.strip("/")
        yield from (group for group in (own, *own.parents) if group.is_relative_to(top))


def _allowed(group: Path) -> float | None:
    version_1 = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    for names in (("cpu.max",), version_1):
        try:
            texts = [(group / name).read_text(encoding="ascii") for name in names]
            most, period = map(int, " ".join(texts).split())  # microseconds in each period
        except (OSError, ValueError):  # not this version, or "max"
            continue
        return most / period if most > 0 and period > 0 else None
    return None


# What this machine's CPU computes integers and bfloat16 with, and on how many cores.

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


# What NVIDIA's driver tells, asked without a CUDA toolkit or torch.

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
# CUdevice_attribute: COMPUTE_CAPABILITY_MAJOR and _MINOR.
CAPABILITY = (75, 76)


def no_driver() -> str | None:
    """Why no NVIDIA GPU can be used here, found without loading a model; None where one answers."""
    try:
        driver = _driver()
    except OSError:
        return f"no NVIDIA driver was found ({LIBRARY} does not load)"
    return None if _devices(driver) else "the NVIDIA driver finds no GPU"


def this_architecture() -> str | None:
    """Architecture of the first GPU, such as "sm_89"; None without one."""
    try:
        driver = _driver()
    except OSError:
        return None
    device, numbers = ctypes.c_int(), [ctypes.c_int(), ctypes.c_int()]
    if not _devices(driver) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    for number, attribute in zip(numbers, CAPABILITY, strict=True):
        if driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device):
            return None
    return "sm_" + "".join(str(number.value) for number in numbers)


def _devices(driver: Any) -> int:
    """How many GPUs answer; 0, too, where the driver does not start."""
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def _driver() -> Any:
    return ctypes.CDLL(LIBRARY)


logger = logging.getLogger(__name__)


def preload_libraries() -> None:
    """Load what ONNX Runtime needs on a GPU; what could not be loaded shows in the trial run."""
    import onnxruntime

    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # it prints what it could not load
        getattr(onnxruntime, "preload_dlls", lambda: None)()
    logger.debug("preloading CUDA libraries said: %s", said.getvalue().strip() or "nothing")
