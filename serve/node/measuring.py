"""A complete series is measured, as `wsseg-infer` measures a folder, and its results are placed."""

import csv
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from wsseg.imaging.errors import WssegError, lines_of
from wsseg.imaging.limits import release_memory
from wsseg.imaging.publishing import make_folder
from wsseg.serve.engines.base import Engine, EngineGoneError
from wsseg.serve.infer import infer
from wsseg.serve.node.durable import move_durably, sync_tree, write_durably
from wsseg.serve.node.metrics import Metrics
from wsseg.serve.node.options import NodeOptions
from wsseg.serve.node.spool import (
    FULL_DISK,
    INSTANCES,
    RESULTS,
    SERIES,
    UNMEASURED,
    Spool,
    instances,
    now_text,
    read_json,
)
from wsseg.serve.options import InferOptions
from wsseg.serve.outputs import NO_SPACE, NOT_WRITTEN
from wsseg.serve.pipeline import OnProgress
from wsseg.serve.report import report_paths

OUTPUT, OUT = "output", "out"
ATTEMPTS = "attempts.json"
REPORT = "ratios.csv"
MOST_FAILURES = 3
"""A series that failed so often is given up."""
MOST_DEATHS = 10
"""So is one while which the process itself ended so often: it may have been the cause."""
LONGEST_PAUSE = 3600.0

logger = logging.getLogger(__name__)


class Measurer:
    """Measures series of the spool one after another, with an engine that is opened once."""

    def __init__(
        self,
        options: NodeOptions,
        measuring: InferOptions,
        spool: Spool,
        metrics: Metrics,
        engine: Callable[[], Engine],
    ) -> None:
        self.options = options
        self.measuring = measuring
        self.spool = spool
        self.metrics = metrics
        self.engine = engine
        self._not_before: dict[str, float] = {}
        self._begun: dict[str, int] = {}

    def next(self) -> str | None:
        """The series to measure now: the one that was tried least, of these the oldest."""
        now = time.monotonic()
        due = [key for key in self.spool.keys("ready") if now >= self._not_before.get(key, -1.0)]
        return min(due, key=lambda key: self._begun.get(key, 0), default=None)

    def recover(self) -> None:
        """After a start: put off what was tried before, and give up what often ended the process.

        A series while which the process ended may be the cause of it: the others come first.
        """
        for key in self.spool.keys("ready"):
            begun, failed = _attempts(self.spool.folder("ready", key))
            self._begun[key] = begun
            if begun - failed >= MOST_DEATHS:
                self.give_up(key, f"the process ended {begun - failed} times while it was measured")

    def forget(self, key: str) -> None:
        """A series is measured, given up, or new again."""
        self._not_before.pop(key, None)
        self._begun.pop(key, None)

    def measure(self, key: str, alive: OnProgress) -> None:
        """Measure a series that is ready, and pass it on. alive: called as slices are done.

        Raises EngineGoneError if the engine cannot be started again: the series waits as before.
        """
        folder = self.spool.folder("ready", key)
        begun, failed = _attempts(folder)
        started = time.monotonic()
        try:
            self._begun[key] = begun + 1
            _note(folder, begun + 1, failed)
            self._measured(folder, alive)
        except EngineGoneError:  # no series is at fault, and none can follow
            with suppress(OSError):
                _note(folder, begun, failed)
            raise
        except (WssegError, OSError) as error:
            reason = str(error) if isinstance(error, WssegError) else f"{error.strerror}"
            self._failed(key, reason)
            return
        except Exception as error:  # a bug costs this series, and not the node
            logger.debug("a series failed:\n%s", lines_of(error), extra={"event": "series_bug"})
            self._failed(key, f"stopped with {type(error).__name__}")
            return
        finally:
            release_memory()
        self.metrics.seconds.observe(time.monotonic() - started)
        self.metrics.series.labels("measured").inc()
        self.forget(key)
        self.spool.move(key, "ready", "measured")

    def _measured(self, folder: Path, alive: OnProgress) -> None:
        output = folder / OUTPUT
        if output.exists():
            shutil.rmtree(output)
        output.mkdir()
        options = self.measuring.model_copy(
            update={"report": output / REPORT, "seg": output / "seg", "sr": output / "sr"}
        )
        summary = infer([folder / INSTANCES], options, engine=self.engine, on_progress=alive)
        failures = _failures(summary.tables[2])
        if not summary.scans:
            raise WssegError(failures[0]["message"] if failures else "no image was found")
        if any(each["reason"] in (NOT_WRITTEN, NO_SPACE) for each in failures):
            raise WssegError("a result could not be written: the disk may be full")
        sync_tree(output)
        facts = {
            "measured": now_text(),
            "scans": summary.scans,
            "slices": summary.slices,
            "failed": summary.failed,
            "instances": [each.name for each in instances(folder)],
        }
        write_durably(folder / SERIES, json.dumps(facts, indent=2).encode() + b"\n")

    def _failed(self, key: str, reason: str) -> None:
        folder = self.spool.folder("ready", key)
        begun, failed = _attempts(folder)
        # On a full disk every series would fail, and none would be the cause.
        counts = self.spool.lacks() != FULL_DISK
        given_up = counts and failed + 1 >= MOST_FAILURES
        logger.warning(
            "a series failed: %s; %s",
            reason,
            "it is given up, see the dead letters" if given_up else "it is tried again later",
            extra={"event": "series_failed", "series": key, "given_up": given_up},
        )
        if given_up:
            self.give_up(key, reason)
            return
        self._not_before[key] = time.monotonic() + min(
            self.options.retry * 2**failed, LONGEST_PAUSE
        )
        with suppress(OSError):
            _note(folder, begun if counts else begun - 1, failed + 1 if counts else failed)

    def give_up(self, key: str, reason: str) -> None:
        """Move a series that cannot be measured to the dead letters."""
        self.metrics.series.labels("failed").inc()
        self.forget(key)
        self.spool.bury(self.spool.folder("ready", key), f"{UNMEASURED}-{key}", reason)

    def publish(self, key: str) -> None:
        """Place the tables of a measured series, and line its objects up to be returned.

        May be done again after any interruption, with the same end.
        """
        folder = self.spool.folder("measured", key)
        output = folder / OUTPUT
        objects = [*sorted((output / "seg").glob("*.dcm")), *sorted((output / "sr").glob("*.dcm"))]
        self._publish_tables(key, folder)
        for destination in self.options.returns:
            out = folder / OUT / destination.folder
            out.mkdir(parents=True, exist_ok=True)
            for file in objects:
                # A segmentation goes before the report that refers to it.
                _linked(file, out / f"{file.parent.name}-{file.name}")
        if self.options.returns:
            sync_tree(folder / OUT)
        self.spool.move(key, "measured", "returning")

    def _publish_tables(self, key: str, folder: Path) -> None:
        facts = read_json(folder / SERIES)
        measured = datetime.fromisoformat(str(facts.get("measured", now_text()))).astimezone(UTC)
        target = self.spool.root / RESULTS / f"{measured:%Y-%m-%d}" / key
        scratch = self.spool.scratch()
        scratch.mkdir()
        for table in (*report_paths(folder / OUTPUT / REPORT), folder / SERIES):
            _linked(table, scratch / table.name)
        if not self.options.returns:  # nobody else has them
            for name in ("seg", "sr"):
                shutil.copytree(folder / OUTPUT / name, scratch / name, copy_function=_linked)
        sync_tree(scratch)
        for earlier in self.spool.results(key):
            if earlier != target:
                self.spool.discard(earlier)
        if target.exists():
            self.spool.discard(target)
        make_folder(target.parent)
        move_durably(scratch, target)


def _attempts(folder: Path) -> tuple[int, int]:
    """How often a series was begun, and how often it failed while the process went on."""
    found = read_json(folder / ATTEMPTS)
    begun, failed = found.get("begun"), found.get("failed")
    return (begun, failed) if isinstance(begun, int) and isinstance(failed, int) else (0, 0)


def _failures(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _note(folder: Path, begun: int, failed: int) -> None:
    content = json.dumps({"begun": begun, "failed": failed})
    write_durably(folder / ATTEMPTS, content.encode())


def _linked(source: Path | str, target: Path | str) -> None:
    """One file under a second name; a copy where the disk has no links."""
    if Path(target).exists():
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
