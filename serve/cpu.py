"""What this machine's CPU computes integers and bfloat16 with."""

from functools import cache
from pathlib import Path

# As Linux names them. Without one of the first three, products of 8-bit numbers are summed in 16
# bits and may saturate: the same INT8 file then gives other numbers.
INTEGER = ("amx_int8", "avx512_vnni", "avx_vnni")
BFLOAT = ("amx_bf16", "avx512_bf16")
INFORMATION = Path("/proc/cpuinfo")


@cache
def instructions() -> frozenset[str]:
    """Those of INTEGER and BFLOAT that are here; empty where the system does not tell."""
    try:
        lines = INFORMATION.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return frozenset(flags) & {*INTEGER, *BFLOAT}
