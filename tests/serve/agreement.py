"""What the tests of agreement share."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsseg.serve.agreement.estimates import Estimate
from wsseg.serve.report import Provenance, SliceOrigin, SliceRatio, SliceRow, open_report


def known(found: Estimate) -> tuple[float, float, float]:
    """The value and the ends of its interval, all of which exist."""
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    return found.value, found.low, found.high


def measured_rows(
    ratios: Mapping[str, Sequence[float | None]], **origin: Sequence[Any]
) -> Iterator[SliceRow]:
    """Rows of ratios.csv, image by image: ratios by name, and columns of their origin."""
    provenance = Provenance("lesions", "ab" * 32, "onnxruntime-cpu", "fp32", "0.1.0")
    for at in range(len(next(iter(ratios.values())))):
        given = {name: values[at] for name, values in origin.items()}
        cells: dict[str, Any] = dict.fromkeys(
            ("modality", "study_uid", "series_uid", "instance_uid", "plane"), ""
        )
        cells |= {"source": f"p{at:02}.png", "frame": None, "slice": 0} | given
        for name, values in ratios.items():
            measured = SliceRatio(
                name, name, "image", 5, 100, None, None, values[at], None, None, None, "", "ok"
            )
            yield SliceRow(SliceOrigin(**cells), measured, provenance)


def write_report(
    path: Path, ratios: Mapping[str, Sequence[float | None]], **origin: Sequence[Any]
) -> Path:
    """A report of slices, as a run writes it."""
    with open_report(path) as report:
        report.slices(measured_rows(ratios, **origin))
    return path
