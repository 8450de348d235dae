"""The machine: cores, CPU instructions, control groups, NVIDIA's driver and libraries."""

import contextlib
import ctypes
import io
import logging
import math
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")
# As Linux names them, best first. They multiply 8-bit numbers and add in 32 bits; without one of
# them x86 adds pairs of products in 16 bits, which large values overflow: the same INT8 file then
# gives other numbers.
INTEGER = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp")
BFLOAT = ("amx_bf16", "avx512_bf16")
INFORMATION = Path("/proc/cpuinfo")
FLAGS = ("flags", "features")  # on x86 and on Arm
UNKNOWN = "unknown instructions"
"""Stands in a manifest for the instructions of a CPU whose system does not state them."""
LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
# CUdevice_attribute: COMPUTE_CAPABILITY_MAJOR and _MINOR.
CAPABILITY = (75, 76)

logger = logging.getLogger(__name__)


def cgroup_cpus() -> float | None:
    """The limit of Linux's control groups, in CPU cores; None without a limit.

    The least of what the process's own group and those above it allow, in either version of control
    groups. Inside a container the stated path may be the host's: its own group is then the topmost.
    """
    try:
        lines = OWN_GROUP.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # another system
        return None
    limits = []
    names: tuple[str, ...]
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top, names = GROUPS, ("cpu.max",)
        elif "cpu" in controllers.split(","):  # version 1 has a tree for each controller
            top, names = GROUPS / "cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        else:
            continue
        own = top / path.strip("/")
        for group in (own, *own.parents):
            if not group.is_relative_to(top):
                break
            try:
                texts = [(group / name).read_text(encoding="ascii") for name in names]
                most, period = map(int, " ".join(texts).split())  # microseconds in each period
            except (OSError, ValueError):  # no such group, or "max"
                continue
            if most > 0 and period > 0:
                limits.append(most / period)
    return min(limits, default=None)


def usable_cores() -> int:
    """Cores that this process may use, by its affinity and by its container's limit.

    A limit of part of a core counts as a whole one.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # only on Linux
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    allowed = cgroup_cpus()
    return cores if allowed is None else max(1, min(cores, math.ceil(allowed)))


def threads_in(threads: int) -> int:
    """Threads for a runtime that starts one for each core of the machine if it is given 0.

    threads: the requested number; 0 becomes the cores that this process may use if these are not
    all: with more threads than cores, threads would wait for each other most of the time.
    """
    usable = usable_cores()
    return threads or (usable if usable < (os.cpu_count() or 1) else 0)


@cache
def flags() -> frozenset[str] | None:
    """All features of the CPU that the system states; None if it states none, as off Linux."""
    try:
        lines = INFORMATION.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    cells = (line.partition(":") for line in lines)
    values = (value for name, _, value in cells if name.strip().lower() in FLAGS)
    return next((frozenset(value.split()) for value in values), None)


def instructions() -> frozenset[str]:
    """Those of INTEGER and BFLOAT that the CPU has; empty if the system does not state them."""
    return (flags() or frozenset()) & {*INTEGER, *BFLOAT}


def integer_kind() -> str | None:
    """The best of INTEGER that the CPU is known to have, such as "avx512_vnni"; None without."""
    return next((kind for kind in INTEGER if kind in instructions()), None)


def judged_with() -> str | None:
    """The instructions that INT8 figures measured here hold for, see `EngineFile.instructions`.

    UNKNOWN if the system does not state them: None would mean that they hold for every CPU.
    """
    return UNKNOWN if flags() is None else integer_kind()


def no_driver() -> str | None:
    """The reason why no NVIDIA GPU can be used here, found without a model; None if one can."""
    driver = _driver()
    if driver is None:
        return f"no NVIDIA driver was found ({LIBRARY} does not load)"
    return None if _devices(driver) else "the NVIDIA driver finds no GPU"


def this_architecture() -> str | None:
    """The architecture of the first GPU, such as "sm_89"; None without a GPU."""
    driver = _driver()
    device, digits = ctypes.c_int(), [ctypes.c_int(), ctypes.c_int()]
    if not driver or not _devices(driver) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    for digit, attribute in zip(digits, CAPABILITY, strict=True):
        if driver.cuDeviceGetAttribute(ctypes.byref(digit), attribute, device):
            return None
    return "sm_" + "".join(str(digit.value) for digit in digits)


def _driver() -> Any:
    """NVIDIA's driver, which needs neither a CUDA toolkit nor torch; None without it."""
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError:
        return None


def _devices(driver: Any) -> int:
    """The number of GPUs; also 0 if the driver does not start."""
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def preload_libraries() -> None:
    """Load the libraries that ONNX Runtime needs on a GPU; a missing one shows in the trial run."""
    import onnxruntime

    output = io.StringIO()
    with contextlib.redirect_stdout(output):  # it prints what it could not load
        getattr(onnxruntime, "preload_dlls", lambda: None)()
    logger.debug("preloading CUDA libraries: %s", output.getvalue().strip() or "no message")
