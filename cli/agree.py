"""`wsseg agree`: how far measured ratios agree with recorded ones."""

from pathlib import Path
from typing import Annotated

import typer

import wsseg
from wsseg.cli.console import IgnoreOption, JsonLogOption, SheetOption, guarded, start_logging


def agree(
    ratios: Annotated[
        Path,
        typer.Argument(help="Report of wsseg-infer: ratios.csv, ratios.series.csv, or .jsonl ..."),
    ],
    recorded: Annotated[
        Path, typer.Argument(help="Table of recorded ratios, with a column source (CSV, XLSX).")
    ],
    out: Annotated[
        Path, typer.Option(help="Table of figures to write: .csv, .jsonl or .parquet.")
    ] = Path("agreement.csv"),
    plots: Annotated[
        Path | None,
        typer.Option(help="Folder for plots: Bland-Altman, scatter and QQ, PNG and SVG."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of RECORDED that names images, compared with the same column of RATIOS "
            "or else with its sources; COLUMN=OTHER compares it with OTHER. "
            "[default: UIDs, source]",
        ),
    ] = None,
    recorded_column: Annotated[
        list[str] | None,
        typer.Option(
            "--recorded-column",
            metavar="COLUMN",
            help="Column of recorded ratios. Repeat for several readings. [default: ratio, ...]",
        ),
    ] = None,
    percent: Annotated[
        bool, typer.Option("--percent", help="The columns of --recorded-column are in percent.")
    ] = False,
    measured_column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of measured ratios, such as mean_ratio. [default: ratio, volume_ratio]",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Also compare within the groups of this column of either table, such as site. "
            "Repeat for several.",
        ),
    ] = None,
    patient: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of RECORDED that names patients, of whom several images are not "
            "independent. [default: patient, patient_id or group, if it is there]",
        ),
    ] = None,
    repeats: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of RECORDED that names what was scanned repeatedly without a change: "
            "gives repeatability coefficients.",
        ),
    ] = None,
    loq_error: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=1.0,
            help="Share of the recorded ratio by which one at the limit of quantitation may err.",
        ),
    ] = 0.3,
    sheet: SheetOption = None,
    ignore_columns: IgnoreOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are already there.")
    ] = False,
    json_log: JsonLogOption = False,
) -> None:
    """Compare measured ratios with recorded ones.

    Writes OUT with bias, limits of agreement, ICC and other figures, tables of the pairs and of
    the rows without a partner beside it, and a text with figures and method that a paper can quote.
    """
    start_logging(as_json=json_log)
    with guarded():
        from wsseg.serve.agreement.text import closing_words

        found = wsseg.agree(
            ratios,
            recorded,
            out=out,
            plots=plots,
            overwrite=overwrite,
            key=key,
            recorded_column=tuple(recorded_column or ()),
            percent=percent,
            measured_column=measured_column,
            by=tuple(by or ()),
            patient=patient,
            repeats=repeats,
            loq_error=loq_error,
            sheet=sheet,
            ignore_columns=tuple(ignore_columns or ()),
        )
        for group in found.groups:
            typer.echo(closing_words(group))
        left = ", ".join(f"{count} {reason}" for reason, count in found.counts.items())
        typer.echo(f"rows without a partner: {left or 'none'}; wrote {out}")
