#!/usr/bin/env bash
# Linux (6.18, glibc) with Python 3.10 or later: the peak memory that getrusage and wait4 give for a
# child (ru_maxrss) includes the peak of the parent, if subprocess started the child by vfork, as it
# does by default: the child lives in the parent's memory until exec, and the kernel keeps the
# larger peak. /bin/true "uses" 500 MB, also after the parent has freed them. The child's VmHWM in
# /proc/self/status is its own; so is ru_maxrss with a small program in between (sh -c "...; true").
# Matters to who measures the memory of programs from a large process (a benchmark, a test runner, a
# notebook): a figure below the parent's peak cannot be seen. 28 November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 - <<'PYTHON'
import os
import platform
import subprocess
import sys

script = """
import resource
peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, int(peak) // 1024)
"""
with open("child.py", "w") as file:
    file.write(script)
child = [sys.executable, "child.py"]
behind_shell = ["sh", "-c", f"'{sys.executable}' child.py; true"]


def measured(when):
    own, status = map(int, subprocess.run(child, capture_output=True, text=True).stdout.split())
    behind = int(subprocess.run(behind_shell, capture_output=True, text=True).stdout.split()[0])
    process = subprocess.Popen(["true"])  # kept, or subprocess may wait for it first
    true = os.wait4(process.pid, 0)[2].ru_maxrss // 1024
    print(f"{when}: ru_maxrss of a small child {own} MB, its VmHWM {status} MB,", end=" ")
    print(f"ru_maxrss behind a shell {behind} MB, of `true` by wait4 {true} MB")
    return own, status, behind, true


print(platform.system(), platform.release(), "Python", platform.python_version())
assert max(measured("parent small")) < 100
data = bytearray(500_000_000)
for start in range(0, len(data), 4096):
    data[start] = 1
for when in ("parent of 500 MB", "these freed"):
    own, status, behind, true = measured(when)
    assert min(own, true) > 450 and max(status, behind) < 100
    data = None
PYTHON
