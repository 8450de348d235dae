"""Run a command and write how long it took and the memory it had: python launch.py OUT COMMAND...

A process of its own, and a small one, because Linux counts the memory of whoever starts a command
towards the command's own peak. Of a command that starts helpers, the largest process counts.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

# Linux counts kibibytes, macOS bytes.
BYTES = 1 if sys.platform == "darwin" else 1 << 10
MB = 1e6


def main(out: Path, command: list[str]) -> int:
    """Run the command; returns its exit code."""
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    out.write_text(json.dumps({"seconds": seconds, "peak_mb": usage.ru_maxrss * BYTES / MB}))
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
