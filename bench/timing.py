"""Two ways of doing one thing, in turn, so that a drifting machine cannot favour one."""

import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

from wsseg.serve.engines.benchmark import interleaved, paired_ratio, seconds


def ratio(ours: Callable[[], object], peer: Callable[[], object], runs: int = 5) -> str:
    """Median of ours/peer over `runs` pairs after one warm-up each, with the extremes."""
    ours()
    peer()
    turns = {"ours": lambda: seconds(ours), "peer": lambda: seconds(peer)}
    times = interleaved(turns, runs)
    pairs = [own / other for own, other in zip(times["ours"], times["peer"], strict=True)]
    median = paired_ratio(times["ours"], times["peer"])
    return f"{median:.2f} (min {min(pairs):.2f}, max {max(pairs):.2f})"


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
