"""What follows a report: its key table, and the comparison with earlier reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from wsseg.imaging.errors import SomeFailedError, WssegError
from wsseg.serve.change import (
    Changes,
    change_path,
    check_free,
    read_repeatability,
    write_changes,
)
from wsseg.serve.identity import Identifier, load_salt
from wsseg.serve.key_table import read_keys
from wsseg.serve.report import report_paths, table_writer


class FollowUpOptions(Protocol):
    """The options of a run that ask for it.

    identify: key table to write. salt: file with the secret of the keys, and of sources where
    `source` is "hash"; made if it is missing. real_identifiers: write PatientID and the path too.
    previous: reports of earlier runs, with which the ratios of each patient are compared. keys: key
    tables of these and of this run. repeatability: see `read_repeatability`; None leaves the
    verdict to the intervals.
    """

    report: Path
    source: Literal["path", "hash"]
    identify: Path | None
    salt: Path | None
    real_identifiers: bool
    previous: tuple[Path, ...]
    keys: tuple[Path, ...]
    repeatability: str | None
    overwrite: bool


@dataclass(frozen=True)
class FollowUp:
    """What is to be done when the report is written; checked before a scan is read."""

    identify: Path | None
    identifier: Identifier | None
    previous: Sequence[Path]
    keys: Sequence[Path]
    repeatability: Mapping[str, float] | float | None

    @classmethod
    def of(cls, options: FollowUpOptions) -> "FollowUp":
        """Check what the options ask for. Raises WssegError for what cannot be done."""
        identifier = None
        if options.identify:
            table_writer(options.identify)
            if options.salt is None:
                raise WssegError(
                    "--identify needs --salt FILE, the secret under which patients get their keys: "
                    "name a file that only this site can read; it is made if it is missing"
                )
            if options.identify.exists() and not options.overwrite:
                raise WssegError(
                    f"{options.identify} is there already: give --overwrite to replace it, or name "
                    "another key table"
                )
            identifier = Identifier(load_salt(options.salt), options.real_identifiers)
        elif options.real_identifiers or (options.salt and options.source == "path"):
            raise WssegError(
                "--salt and --real-identifiers belong to --identify, or --salt to --source hash: "
                "give it too"
            )
        if options.previous:
            if not options.identify and not options.keys:
                raise WssegError(
                    "--previous compares patients, whom reports do not name: give --identify, or "
                    "--keys with the key tables of all reports"
                )
            for report in options.previous:
                series = report_paths(report)[1]
                if not series.exists():
                    raise WssegError(
                        f"--previous {report}: {series} does not exist; name the table of slices "
                        "of an earlier report, beside which the table of series lies"
                    )
            read_keys(options.keys)
            check_free(change_path(options.report), overwrite=options.overwrite, option="--report")
        elif options.keys or options.repeatability:
            raise WssegError("--keys and --repeatability belong to --previous: give it too")
        coefficient = options.repeatability
        return cls(
            options.identify,
            identifier,
            options.previous,
            options.keys,
            None if coefficient is None else read_repeatability(coefficient),
        )

    def finish(self, report: Path) -> Changes | None:
        """Write the key table, and compare the report with earlier ones.

        Raises SomeFailedError if that fails: the report stays.
        """
        try:
            if self.identifier and self.identify:
                self.identifier.write(self.identify)
            if not self.previous:
                return None
            own = [self.identify] if self.identify else []
            return write_changes(
                [report, *self.previous],
                [*own, *self.keys],
                change_path(report),
                self.repeatability,
                overwrite=True,  # of an earlier run, if at all: it was asked before this one
            )
        except (OSError, WssegError) as error:
            why = str(error) if isinstance(error, WssegError) else error.strerror
            raise SomeFailedError(f"{report} is written, but not what follows it: {why}") from error
