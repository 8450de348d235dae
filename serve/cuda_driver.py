"""What NVIDIA's driver tells, asked without a CUDA toolkit or torch."""

import ctypes
import sys
from typing import Any

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
