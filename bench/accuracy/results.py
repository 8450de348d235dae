"""accuracy.csv: a row for every finished run, and one file a run with its single images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from bench.accuracy.jobs import Job
from bench.csv_file import alone, read_csv, write_csv

TABLE = "accuracy.csv"
IMAGES = "accuracy"
COLUMNS = (
    "dataset", "arm", "marks", "percent", "network", "size", "fold", "seed", "images", "iou_mean",
    "iou_pooled", "dice_mean", "ratio_mae", "epochs", "minutes", "commit", "machine",
    "weights",
)  # fmt: skip
KEY = tuple(field.name for field in fields(Job))


@dataclass(frozen=True)
class ImageScore:
    """One class of one held-out image. image, group: numbers, not names.

    ratio: true area over the image's; predicted: the same of the prediction. iou: 1 where both are
    empty.
    """

    image: int
    group: int
    class_number: int
    ratio: float
    predicted: float
    iou: float


def read_rows(out: Path) -> list[dict[str, str]]:
    """The rows of accuracy.csv; none where there is no such file yet."""
    return read_csv(out / TABLE)


def key_of(row: Mapping[str, str]) -> Job:
    """The run that a row is of."""
    return Job(row["dataset"], row["arm"], row["network"], *(int(row[name]) for name in KEY[3:]))


def add_row(out: Path, row: Mapping[str, object]) -> None:
    """Add a row to accuracy.csv at once; it replaces an earlier one of the same run.

    The file is whole at every moment, and several benchmarks may write to it.
    """
    new = {name: str(row[name]) for name in COLUMNS}
    with alone(out):
        rows = [old for old in read_rows(out) if key_of(old) != key_of(new)]
        write_csv(out / TABLE, COLUMNS, [*rows, new])


def write_images(out: Path, job: Job, scores: Sequence[ImageScore]) -> None:
    """Write the single images of a run, whole or not at all."""
    names = [field.name for field in fields(ImageScore)]
    rows = [{name: _short(getattr(score, name)) for name in names} for score in scores]
    write_csv(out / IMAGES / f"{job.name}.csv", names, rows)


def read_images(out: Path, job: Job) -> list[ImageScore]:
    """The single images of a run; none where they were not kept."""
    return [
        ImageScore(
            int(row["image"]),
            int(row["group"]),
            int(row["class_number"]),
            float(row["ratio"]),
            float(row["predicted"]),
            float(row["iou"]),
        )
        for row in read_csv(out / IMAGES / f"{job.name}.csv")
    ]


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6f}"
