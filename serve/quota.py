"""How much of the machine Linux's control groups leave to this process, as containers have it."""

from collections.abc import Iterator
from pathlib import Path

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
