"""An entrant that has a process of its own through all rounds, so that its memory is its own."""

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.accuracy.machine import ROOT
from bench.speed.contest import EntrantError, Turn


class Helper:
    """A process that was told once what to do and does it whenever it has its turn.

    told: a task of `worker.TASKS` with its arguments. The first, unmeasured turn is over when the
    helper is there; EntrantError where it fails. Idle helpers wait for input and use no core.
    """

    def __init__(self, **told: str | int | bool) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.speed.worker", json.dumps(told)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self._answer()
        except EntrantError:
            self.close()
            raise

    def __call__(self) -> Turn:
        """One measured turn."""
        stdin = self._process.stdin
        if stdin is None:
            raise AssertionError("the helper listens")
        try:
            stdin.write("\n")
            stdin.flush()
        except BrokenPipeError as error:  # killed between turns, for its memory for instance
            raise EntrantError(f"the helper ended with code {self._process.wait()}") from error
        return Turn(**self._answer())

    def __enter__(self) -> "Helper":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        stdout = self._process.stdout
        line = stdout.readline() if stdout else ""
        if not line:
            raise EntrantError(f"the helper ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EntrantError(answer["error"])
        return answer


def existing(path: Path) -> str:
    """A path as a helper is told it."""
    return str(path.resolve())
