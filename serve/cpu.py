"""What this machine's CPU computes integers and bfloat16 with."""

from functools import cache
from pathlib import Path

# As Linux names them, best first. They multiply 8-bit numbers and add in 32 bits; without one of
# them x86 adds pairs of products in 16 bits, which large values overfill: the same INT8 file then
# gives other numbers.
INTEGER = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp")
BFLOAT = ("amx_bf16", "avx512_bf16")
INFORMATION = Path("/proc/cpuinfo")
# On x86 and on Arm.
FLAGS = ("flags", "features")


@cache
def instructions() -> frozenset[str]:
    """Those of INTEGER and BFLOAT that are here; empty where the system does not tell."""
    try:
        lines = INFORMATION.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    cells = (line.partition(":") for line in lines)
    flags = next((value for name, _, value in cells if name.strip().lower() in FLAGS), "")
    return frozenset(flags.split()) & {*INTEGER, *BFLOAT}


def integer_kind() -> str | None:
    """The best of INTEGER that is here, such as "avx512_vnni"; None where there is none."""
    return next((kind for kind in INTEGER if kind in instructions()), None)
