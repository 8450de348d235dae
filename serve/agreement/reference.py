"""The comparison of a run's report with recorded ratios, which never costs the run its report."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from wsseg.imaging.definitions import RatioDefinition
from wsseg.imaging.errors import WssegError, unquoted
from wsseg.serve.agreement.tables import AgreeOptions, read_measured, read_recorded
from wsseg.serve.report import table_writer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compared:
    """What came of a comparison. words: for a closing line. failed: whether there is no result."""

    words: str
    failed: bool = False


def agreement_of(report: Path) -> Path:
    """The table of agreement beside a report."""
    return report.with_name(f"{report.stem}.agreement{report.suffix}")


def agreement_paths(out: Path) -> tuple[Path, Path, Path, Path]:
    """The files of a comparison: figures, pairs, rows without a partner, and the text."""
    table_writer(out)
    pairs, unmatched = (
        out.with_name(f"{out.stem}.{name}{out.suffix}") for name in ("pairs", "unmatched")
    )
    return out, pairs, unmatched, out.with_suffix(".txt")


def plots_of(report: Path) -> Path:
    """The folder for plots beside a report."""
    return agreement_of(report).with_suffix("")


def check_reference(
    recorded: Path,
    report: Path,
    definitions: tuple[RatioDefinition, ...],
    options: AgreeOptions,
    *,
    inputs: Iterable[Path],
    overwrite: bool,
) -> None:
    """Raise WssegError, before anything is measured, for what makes a comparison impossible."""
    # Here and below, because scipy's statistics take half a second to load.
    from wsseg.serve.agreement.compare import check_outputs, check_packages

    check_packages()
    read_recorded(recorded, definitions, options)
    check_outputs(agreement_of(report), (recorded, *inputs), overwrite=overwrite, option="--report")


def compare_run(
    recorded: Path, report: Path, options: AgreeOptions, names: Mapping[str, str] | None = None
) -> Compared:
    """Compare a report that was written, and write the result beside it; never raises.

    names: what its sources stand for, where they are digests.
    """
    from wsseg.serve.agreement.compare import compared, write
    from wsseg.serve.agreement.text import closing_words

    try:
        with unquoted("it"):  # what libraries say may quote a cell of the recorded table
            measured = replace(read_measured(report, options), names=names or {})
            recorded_table = read_recorded(recorded, measured.definitions, options)
            found = compared(measured, recorded_table, options)
            write(found, agreement_of(report), plots=plots_of(report))
    except (WssegError, OSError) as error:
        log.warning("not compared with %s: %s", recorded.name, error)
        return Compared(f"not compared with {recorded.name}: {error}", failed=True)
    left = sum(row.table == "recorded" for row in found.unmatched)
    words = "; ".join(closing_words(group) for group in found.groups)
    partners = f"; {left} recorded rows have no partner" if left else ""
    return Compared(f"agreement with {recorded.name}: {words}{partners}")
