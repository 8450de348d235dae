"""Runs commands in an empty home without a network, and tells what they tried beside their job.

strace sees every process and library of a command, whatever it is written in.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

BIN = Path(sys.executable).parent
HOST, USER = "ward-seven-host", "doctor-nobody"
WATCHED = (
    "connect,sendto,sendmsg,sendmmsg,?open,openat,openat2,?creat,?mkdir,mkdirat,?mknod,mknodat,"
    "?rename,?renameat,renameat2,?link,linkat,?symlink,symlinkat,truncate"
)
LOOKUPS = {"/etc/hosts", "/etc/resolv.conf"}
"""Files that are read to look up a machine's name, also where a service of the system does it."""
LOOPBACK = re.compile(r"^(127\.|::1$|::ffff:127\.)")
# In a network of its own with nothing but a loopback device, under a name that nothing else has.
LAUNCHER = f"""
import fcntl, os, socket, struct, sys
socket.sethostname({HOST!r})
with socket.socket() as probe:
    fcntl.ioctl(probe, 0x8914, struct.pack("16sh14s", b"lo", 0x41, b""))
os.execvp(sys.argv[1], sys.argv[1:])
"""


@functools.cache
def _alone() -> list[str]:
    """The start of a command line for a network and a name of its own; none where forbidden."""
    start = ["unshare", "--map-root-user", "--net", "--uts", sys.executable, "-c", LAUNCHER]
    allowed = subprocess.run([*start, "true"], capture_output=True, check=False).returncode == 0
    return start if allowed else []


def names() -> list[str]:
    """Of the machine and the user, as commands see them; not one that files hold by chance."""
    return [USER, HOST] if _alone() else [USER]


@dataclass
class Watch:
    """An empty home, working and temporary folder; `outputs` is where files may be made."""

    folder: Path
    tried: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for path in (self.outputs, self.home, self.temporary, self.current, self.traces):
            path.mkdir(parents=True)

    @property
    def alone(self) -> bool:
        """Whether commands have a network of their own, that leads nowhere."""
        return bool(_alone())

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def temporary(self) -> Path:
        return self.folder / "temporary"

    @property
    def current(self) -> Path:
        return self.folder / "current"

    @property
    def traces(self) -> Path:
        return self.folder / "traces"

    def run(self, *command: object, code: int = 0, **environment: str) -> str:
        """Run one of the environment's commands to its exit code; add what it tried to `tried`."""
        name, *arguments = map(str, command)
        if shutil.which("strace") is None:
            raise AssertionError("strace is missing: apt-get install strace")
        traces = self.traces / str(len(list(self.traces.iterdir())))
        traces.mkdir()
        trace = ["strace", "-ff", "-qq", "-y", "-s", "4096", "--seccomp-bpf", "-e", WATCHED]
        done = subprocess.run(
            [*_alone(), *trace, "-o", traces / "trace", BIN / name, *arguments],
            env=self._environment() | environment,
            cwd=self.current,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != code:
            raise AssertionError(done.stdout)
        seen = [what for file in sorted(traces.iterdir()) for what in self._wrong(file)]
        self.tried += [f"{name} {arguments[:1]}: {what}" for what in dict.fromkeys(seen)]
        return done.stdout

    def left(self) -> list[Path]:
        """What lies where nothing was asked for."""
        return [
            path
            for place in (self.home, self.temporary, self.current)
            for path in sorted(place.rglob("*"))
        ]

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "USER": USER,
            "LOGNAME": USER,
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",  # the interpreter's own files, beside the code
            **({"PYTHONPATH": path} if (path := os.environ.get("PYTHONPATH")) else {}),
        }

    def _wrong(self, trace: Path) -> Iterator[str]:
        for line in trace.read_text(encoding="utf-8", errors="replace").splitlines():
            address = re.search(r'inet_(?:addr|pton)\((?:AF_INET6?, )?"([^"]+)"', line)
            if address and not LOOPBACK.match(address[1]):
                yield line
            if line.startswith("open") and (path := re.search(r'"([^"]*)"', line)):
                if path[1] in LOOKUPS:
                    yield line
                if not re.search(r"O_(CREAT|WRONLY|RDWR)", line):
                    continue
            elif not re.match(r"(creat|mkdir|mknod|rename|link|symlink|truncate)", line):
                continue
            yield from (line for path in _paths(line) if not self._may_write(path))

    def _may_write(self, path: Path) -> bool:
        return any(
            path.is_relative_to(place)
            for place in (self.outputs, self.temporary, Path("/dev"), Path("/proc"))
        )


def _paths(line: str) -> list[Path]:
    """The paths that a system call names, each below the folder that it is relative to."""
    named = re.findall(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"', line)
    paths = [Path(os.path.normpath(Path(folder or "/") / path)) for folder, path in named]
    # What a symbolic link points to is not made.
    return paths[1:] if line.startswith("symlink") else paths
