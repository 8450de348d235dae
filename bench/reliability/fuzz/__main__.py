"""`python -m bench.reliability.fuzz --minutes 30 --out DIR`: fuzz all targets, print a table."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bench.markdown import table
from bench.reliability.fuzz.seeds import write_seeds
from bench.reliability.fuzz.targets import TARGETS
from bench.timing import where

MOST_BYTES = 1 << 16
SECONDS_AN_INPUT = 20
RSS_MB = 2048
_RUNS = re.compile(r"^#(\d+)\s.*?cov: (\d+)", re.MULTILINE)
# Beyond the time that libFuzzer is given: it only looks at the clock between two inputs.
_PATIENCE = 60


@dataclass
class Fuzzed:
    """What came of a target. faults: how many inputs of each kind were kept, by kind."""

    target: str
    seeds: int
    runs: int = 0
    coverage: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def row(self) -> tuple[str, ...]:
        """Its row of the table."""
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items()))
        return (
            *(self.target, str(self.seeds), f"{self.runs:,}", f"{self.coverage:,}"),
            *(f"{self.seconds:.0f}", found or "0"),
        )


def main() -> None:
    """Fuzz, and exit with 1 if an input was found that a target does not stand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--minutes", type=float, default=30, help="over all targets together")
    parser.add_argument("--out", type=Path, required=True, help="folder for inputs that were kept")
    given = parser.parse_args()
    if unknown := set(given.targets) - TARGETS.keys():
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    names = given.targets or list(TARGETS)
    done = [fuzz(name, given.out, 60 * given.minutes / len(names)) for name in names]
    print(where())
    header = ("target", "seeds", "inputs", "edges covered", "seconds", "faults")
    print("\n".join(table(header, [each.row for each in done])))
    sys.exit(any(each.faults for each in done))


def fuzz(name: str, out: Path, seconds: float) -> Fuzzed:
    """Fuzz a target for so long; each input that it does not stand is kept below `out`."""
    corpus, kept = out / name / "corpus", out / name / "kept"
    kept.mkdir(parents=True, exist_ok=True)
    fuzzed = Fuzzed(name, write_seeds(name, corpus))
    begun = time.monotonic()
    while (left := int(seconds - (time.monotonic() - begun))) > 0:
        told = _run(name, corpus, kept, left)
        counts = [(int(runs), int(covered)) for runs, covered in _RUNS.findall(told)]
        fuzzed.runs += max((runs for runs, _ in counts), default=0)
        fuzzed.coverage = max([fuzzed.coverage, *(covered for _, covered in counts)])
        if not counts:
            print(told, file=sys.stderr)
            fuzzed.faults["start"] += 1
            break
    fuzzed.seconds = time.monotonic() - begun
    fuzzed.faults += Counter(path.name.partition("-")[0] for path in kept.iterdir())
    return fuzzed


def _run(name: str, corpus: Path, kept: Path, seconds: int) -> str:
    """One process, to its end or to its first fault; what libFuzzer printed."""
    scratch = corpus.with_name("scratch")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    command = [
        *(sys.executable, "-m", "bench.reliability.fuzz.child", name, str(corpus)),
        *(f"-max_total_time={seconds}", f"-rss_limit_mb={RSS_MB}", f"-max_len={MOST_BYTES}"),
        *(
            f"-timeout={SECONDS_AN_INPUT}",
            f"-report_slow_units={SECONDS_AN_INPUT}",
            f"-artifact_prefix={kept}/",
            "-use_value_profile=1",
        ),
    ]
    log = corpus.with_name("log")
    with log.open("ab") as stream:
        begin = stream.tell()
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"},
        )
        try:
            process.wait(seconds + _PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    with log.open("rb") as stream:
        stream.seek(begin)
        return stream.read().decode(errors="replace")


if __name__ == "__main__":
    main()
