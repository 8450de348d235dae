"""Folders that are measured again and again, as series become complete."""

import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from wsseg.imaging.errors import WssegError, missing_packages
from wsseg.imaging.files import recover
from wsseg.imaging.scratch import is_share
from wsseg.imaging.watched import Watched
from wsseg.serve.engines.base import Engine
from wsseg.serve.infer import Kept, Summary, infer, lock_outputs
from wsseg.serve.journal import journal_path
from wsseg.serve.options import InferOptions, check_apart, check_together
from wsseg.serve.pipeline import OnProgress
from wsseg.serve.report import report_paths, require_free

BUSY_SECONDS = 60.0
"""While files keep coming, what is complete is measured at most so often."""
LOOK_SECONDS = 300.0
"""How often folders are listed if the system reports no change: a report may have been lost."""
LOOK_SHARE = 0.05
"""The part of the time that is spent on listing at most."""
_TICK_MS = 500
_STEP_MS = 200

logger = logging.getLogger(__name__)


def follow(
    inputs: Sequence[Path],
    options: InferOptions,
    *,
    engine: Callable[[], Engine],
    on_progress: OnProgress | None = None,
    on_round: Callable[[Summary], object] = lambda _: None,
) -> NoReturn:
    """Measure what is complete under the folders `inputs`, and again when that changes.

    Each round is a run of `infer` over all complete scans; the journal, which stays, has those that
    were measured before. The report is locked until the end, which is an exception:
    KeyboardInterrupt, or an error of a round. on_round: called after each round.

    Raises WssegError for inputs and options that cannot be used.
    """
    _check(inputs, options)
    engine()
    recover(options.report)
    watched = Watched(tuple(inputs), options.settle)
    kept = Kept(watched)
    with lock_outputs(options), closing(_changes(inputs, poll=options.poll)) as changes:
        if not journal_path(options.report).exists():
            require_free(options.report, recovered=False, overwrite=options.overwrite)
        chosen = options.model_copy(update={"resume": True, "overwrite": True})
        logger.info(
            "following %d folders; each scan is measured when its files have not changed for %g s",
            len(inputs),
            options.settle,
            extra={"event": "following"},
        )
        next(changes)  # what changes from here on is reported
        ended = time.monotonic()
        while True:
            began = time.monotonic()
            waits = _look(watched)
            looked = time.monotonic()
            if watched.has_news and (waits is None or looked - ended > BUSY_SECONDS):
                watched.take()
                on_round(infer(inputs, chosen, engine=engine, on_progress=on_progress, kept=kept))
                ended = time.monotonic()
            else:
                logger.debug("nothing to measure", extra={"event": "nothing_new"})
                _wait(
                    changes,
                    until=looked + (LOOK_SECONDS if waits is None else waits),
                    after_change=options.settle,
                    not_before=looked + (looked - began) / LOOK_SHARE,
                )


def _check(inputs: Sequence[Path], options: InferOptions) -> None:
    """Raise WssegError for what has no meaning for folders that are followed."""
    report_paths(options.report)
    check_together(options)
    check_apart(inputs, options)
    for name, why in (
        ("known_ratios", "its table names the scans of one run"),
        ("reference", "wsseg agree compares the report with recorded ratios at any time"),
        ("previous", "wsseg change compares the report with earlier ones at any time"),
        ("identify", "a key table is of one run"),
        ("shard", "a part of the inputs is fixed when a run begins"),
    ):
        if getattr(options, name):
            raise WssegError(
                f"--{name.replace('_', '-')} cannot be given with --follow: {why}; leave one out"
            )
    for path in inputs:
        if not path.is_dir():
            state = "is a file" if path.exists() else "does not exist"
            raise WssegError(f"--follow takes folders, and {path} {state}: name the folder above")
        if options.report.resolve().is_relative_to(path.resolve()):
            raise WssegError(
                f"the report {options.report} lies inside the folder {path}, where it would be "
                "taken for a new file: choose another --report"
            )


def _look(watched: Watched) -> float | None:
    """`Watched.look`, once all folders are there: a share may be away for a while."""
    told = False
    while missing := [folder for folder in watched.folders if not folder.is_dir()]:
        if not told:
            logger.warning(
                "%s is not there: nothing is measured until it is",
                missing[0],
                extra={"event": "folder_missing"},
            )
        told = True
        time.sleep(_TICK_MS / 1000)
    return watched.look()


def _wait(
    changes: Generator[bool, None, None], *, until: float, after_change: float, not_before: float
) -> None:
    """Wait until a time, or until so many seconds after the first change."""
    while True:
        changed = next(changes)
        now = time.monotonic()
        if changed:
            until = min(until, now + after_change)
        if now >= max(until, not_before):
            return


def _changes(folders: Sequence[Path], *, poll: bool) -> Generator[bool, None, None]:
    """Every second or so, whether something changed; where that is not known, it may have."""
    if not poll and not any(map(is_share, folders)):
        library = required_watchfiles()
        try:
            for changed in library.watch(
                *folders,
                watch_filter=None,
                step=_STEP_MS,
                rust_timeout=_TICK_MS,
                yield_on_timeout=True,
                force_polling=False,
                ignore_permission_denied=True,
            ):
                yield bool(changed)
        except OSError as error:
            logger.warning(
                "the system reports no changes of the folders (%s): they are listed again and "
                "again instead",
                error,
                extra={"event": "follow_polls"},
            )
    while True:
        time.sleep(_TICK_MS / 1000)
        yield True


def required_watchfiles() -> ModuleType:
    """The package watchfiles; WssegError if it is not installed."""
    with missing_packages():
        import watchfiles
    return watchfiles
