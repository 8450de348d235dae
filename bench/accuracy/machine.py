"""Where and from which code a figure comes."""

import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def commit() -> str:
    """Short hash of the commit; "-dirty" after it where tracked files differ from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def machine() -> str:
    """Name of the GPU if there is one, else threads used and model of the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} of {os.cpu_count()} x {_processor()}"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
