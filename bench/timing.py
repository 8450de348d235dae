"""Two ways of doing one thing, in turn, so that a drifting machine cannot favour one."""

import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def ratio(ours: Callable[[], object], peer: Callable[[], object], runs: int = 5) -> str:
    """Median of ours/peer over `runs` pairs after one warm-up each, with the extremes."""
    ours()
    peer()
    pairs = [_seconds(ours) / _seconds(peer) for _ in range(runs)]
    return f"{statistics.median(pairs):.2f} (min {min(pairs):.2f}, max {max(pairs):.2f})"


def where() -> str:
    """Machine kind and commit, for the line above a table of figures."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return f"{_processor()}; commit {commit or 'unknown'}; Python {platform.python_version()}"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
