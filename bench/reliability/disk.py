"""A disk that is full: a file system in memory of each of several sizes, which is then enlarged."""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.reliability.command import infer, lost
from bench.reliability.kills import contents, outputs
from bench.reliability.result import Result
from bench.reliability.scans import write_model, write_volumes

SCANS = 12
KILOBYTES = (16, 64, 128, 256, 512, 768, 1024, 1536)
ENOUGH = "64m"


def full_disk(folder: Path) -> Iterator[Result]:
    """One result over all sizes. Needs the right to mount in a namespace of its own."""
    model, scans = write_model(folder / "model"), write_volumes(folder / "scans", SCANS)
    whole, disk = folder / "whole", folder / "disk"
    disk.mkdir()
    done = infer(*outputs(whole), "--model", model, scans)
    if done.code:
        raise AssertionError(done.log)
    command = [sys.executable, "-m", "bench.reliability.disk", *map(str, (model, scans, whole))]
    alone = ["unshare", "--map-root-user", "--mount", *command, str(disk)]
    told = subprocess.run(alone, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = json.loads(told.splitlines()[-1])
    yield Result(
        f"disk full at {len(KILOBYTES)} sizes, then enlarged; {found['unlike']} files unlike",
        len(KILOBYTES),
        found["lost"],
        "/".join(map(str, found["codes"])),
    )


def main() -> None:
    """What `full_disk` runs where it may mount."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "scans", "whole", "disk"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    codes, missing, unlike = set(), 0, 0
    for size in KILOBYTES:
        _mount("-t", "tmpfs", "-o", f"size={size}k", "none", str(given.disk))
        arguments = (*outputs(given.disk), "--model", given.model, given.scans)
        first = infer("--resume", *arguments)
        codes.add(first.code)
        _mount("-o", f"remount,size={ENOUGH}", str(given.disk))
        report = given.disk / "ratios.csv"
        if first.code:
            # Where only label maps found no room, the tables are whole and say so.
            again = "--overwrite" if report.exists() else "--resume"
            second = infer(again, *arguments)
            if second.code:
                raise AssertionError(second.log)
        missing += lost(given.whole / report.name, report)
        expected, found = contents(given.whole), contents(given.disk)
        unlike += sum(expected.get(name) != found.get(name) for name in expected | found)
        subprocess.run(["umount", str(given.disk)], check=True)
    print(json.dumps({"codes": sorted(codes), "lost": missing, "unlike": unlike}))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    main()
