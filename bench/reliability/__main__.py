"""`python -m bench.reliability [NAME ...]`: inject faults, and print one table of what they cost.

The sub-benches of the node, of Orthanc, of a cluster, of the journal and of a watch folder print
tables of their own: see `python -m bench.reliability.node`, `.orthanc`, `.cluster`, `.journal` and
`.follow`.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.reliability.disk import full_disk
from bench.reliability.engines import engines
from bench.reliability.hostile import hostile
from bench.reliability.kills import kills
from bench.reliability.result import Result, lines
from bench.reliability.soak import soak
from bench.timing import where

FAULTS: dict[str, Callable[[Path], Iterator[Result]]] = {
    "kills": kills,
    "disk": full_disk,
    "files": hostile,
    "engines": engines,
    "soak": soak,
}


def main() -> None:
    """Inject all faults, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FAULTS))
    names = parser.parse_args().names or list(FAULTS)
    if unknown := set(names) - FAULTS.keys():
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    results = []
    for name in names:
        folder = Path(tempfile.mkdtemp(prefix="reliability-"))
        try:
            results += list(FAULTS[name](folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    print(where())
    print("\n".join(lines(results)))


if __name__ == "__main__":
    main()
