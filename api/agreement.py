"""Agreement of measured with recorded ratios, from Python."""

from pathlib import Path
from typing import Any

from wsseg.serve.agreement.compare import check_outputs, compare, write, write_plots
from wsseg.serve.agreement.result import Agreement as Agreement
from wsseg.serve.agreement.tables import AgreeOptions
from wsseg.settings import settings


def agree(
    ratios: str | Path,
    recorded: str | Path,
    *,
    out: str | Path | None = None,
    plots: str | Path | None = None,
    overwrite: bool = False,
    **given: Any,
) -> Agreement:
    """Compare the ratios of a report with those that were recorded, as `wsseg agree` does.

    ratios: `ratios.csv` or `ratios.series.csv` of wsseg-infer, or these as .jsonl or .parquet.
    recorded: a table of recorded ratios, CSV or Excel. out: the table to write, .csv, .jsonl or
    .parquet, with pairs, rows without a partner and the text beside it; None writes none of them.
    plots: folder for plots. overwrite: replace earlier files. given: options of the command by
    their names, such as `key="file"`, `by=["site"]`, `patient="patient"`. Raises WssegError for
    tables, columns and options that cannot be used, and AllFailedError if a file cannot be written.
    """
    options = settings(AgreeOptions, None, given)
    tables = Path(ratios), Path(recorded)
    if out is not None:
        check_outputs(Path(out), tables, overwrite=overwrite)
    found = compare(*tables, options)
    if out is not None:
        write(found, Path(out))
    if plots is not None:
        write_plots(found, Path(plots))
    return found
