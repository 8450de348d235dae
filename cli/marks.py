"""`wsseg marks`: weak marks simulated from full masks."""

from pathlib import Path
from typing import Annotated

import typer

from wsseg.cli.console import IgnoreOption, JsonLogOption, SheetOption, guarded, start_logging


def marks(
    cases: Annotated[
        Path, typer.Argument(help="Table with the columns image and mask (CSV, XLSX).")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write: cases.csv and marks/.")],
    config: Annotated[
        Path | None,
        typer.Option(help="TOML settings of wsseg-train, of which [labels] counts here."),
    ] = None,
    kind: Annotated[
        str,
        typer.Option(
            help="Painted: erode (the innermost pixels), disc, random-disc, point, random-point, "
            "scribble (with a stroke of background). Written into the table: box, extremes, "
            "moments (centroid and spread)."
        ),
    ] = "erode",
    percent: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=100,
            help="How many percent of each region to mark, for a scribble of its medial line. "
            "[default: 8, scribble 50]",
        ),
    ] = None,
    per_component: Annotated[
        bool, typer.Option("--per-component", help="Mark every connected part of a region.")
    ] = False,
    share: Annotated[
        float, typer.Option(min=0, max=100, help="Percent of the cases to mark, whole groups.")
    ] = 100.0,
    ratio_noise: Annotated[
        float, typer.Option(min=0, max=100, help="Let ratios err by up to this many percent.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is left to chance.")] = 0,
    drop_masks: Annotated[
        bool,
        typer.Option(
            "--drop-masks",
            help="Leave the masks of training cases out of the new table; those of val and test "
            "stay, to judge by.",
        ),
    ] = False,
    sheet: SheetOption = None,
    ignore_columns: IgnoreOption = None,
    json_log: JsonLogOption = False,
) -> None:
    """Simulate weak marks from masks, to try the method where full outlines exist.

    A disc or an eroded region has exactly PERCENT % of the region's pixels. Ratios are measured
    from the masks where the table has no ratio column. Run it on its own output, masks kept, to
    add a second kind: boxes, extremes and moments stand beside painted marks; of these a case has
    one kind, which the newer replaces in the SHARE. Cases outside it keep what they had.
    """
    start_logging(as_json=json_log)
    with guarded():
        from wsseg.imaging.tables import TableOptions
        from wsseg.settings import one_of, settings
        from wsseg.train.cases import SPLITS
        from wsseg.train.config import TrainConfig
        from wsseg.train.simulate import KINDS, MarkOptions, simulate_marks

        chosen = one_of("--kind", kind, KINDS)
        given = settings(
            TrainConfig, config, {"sheet": sheet, "ignore_columns": ignore_columns or None}
        )
        options = MarkOptions(chosen, per_component, share, ratio_noise, seed)
        written = simulate_marks(
            cases,
            out,
            percent=percent,
            options=options,
            keep_masks=[s for s in SPLITS.values() if not drop_masks or s != "train"],
            reading=TableOptions(given.sheet, given.ignore_columns),
            labels=given.labels,
        )
        typer.echo(f"wrote {written}")
