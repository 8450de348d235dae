"""All rows that one measured scan has in the tables, also as lists that give them back equal."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsseg.imaging.errors import Failure
from wsseg.imaging.scan import ScanRef, SliceId
from wsseg.serve.inspection import UNLIKE_FLAGS
from wsseg.serve.intervals import Intervals
from wsseg.serve.manifest import Manifest
from wsseg.serve.measure import MeasuredScan, recovered_rows, series_rows, slice_rows
from wsseg.serve.report import (
    Provenance,
    RecoveredRatio,
    RecoveredRow,
    SeriesOrigin,
    SeriesRatio,
    SeriesRow,
    SliceOrigin,
    SliceRatio,
    SliceRow,
)


@dataclass(frozen=True)
class ScanRows:
    """The rows of a scan, and what the counts of a run and its key table need of it.

    lines: of the table of known ratios, whose masks were recovered. unlike: the scan is unlike the
    training images. skipped: rows of the failures table.
    """

    ref: ScanRef
    slices: Sequence[SliceRow]
    series: Sequence[SeriesRow]
    recovered: Sequence[RecoveredRow] = ()
    lines: tuple[int, ...] = ()
    unlike: bool = False
    skipped: tuple[Failure, ...] = ()
    key: str = ""

    @property
    def origin(self) -> SeriesOrigin:
        """The identity of the scan in the tables."""
        return self.series[0].origin

    @property
    def ids(self) -> tuple[SliceId, ...]:
        """The slices of the scan; each has a row for each ratio."""
        origins = (row.origin for row in self.slices[:: len(self.series)])
        return tuple(SliceId(each.source, each.instance_uid, each.frame) for each in origins)

    @classmethod
    def of(
        cls,
        measured: MeasuredScan,
        manifest: Manifest,
        provenance: Provenance,
        *,
        intervals: Intervals | None,
        skipped: tuple[Failure, ...] = (),
    ) -> "ScanRows":
        """The rows of a scan that was just measured."""
        recovered = measured.recovered
        found = [mask for masks in recovered.masks.values() for mask in masks] if recovered else []
        return cls(
            measured.scan.ref,
            slice_rows(measured, manifest, provenance, intervals),
            series_rows(measured, manifest, provenance),
            recovered_rows(measured, manifest, provenance),
            tuple(mask.known.line for mask in found),
            is_unlike(measured),
            skipped,
        )

    def values(self) -> dict[str, Any]:
        """The rows as lists for JSON, which gives floats back equal.

        The provenance, which all scans of a run share, is left out, and so is `ref`.
        """
        return {
            "slices": [
                [_values(rows[0].origin), [_values(row.measured) for row in rows]]
                for rows in _groups(self.slices, len(self.series))
            ],
            "series": [[_values(row.origin), _values(row.measured)] for row in self.series],
            "recovered": [[_values(row.origin), _values(row.recovered)] for row in self.recovered],
            "lines": self.lines,
            "unlike": self.unlike,
            "skipped": [_values(failure) for failure in self.skipped],
        }

    @classmethod
    def from_values(
        cls, found: Mapping[str, Any], ref: ScanRef, provenance: Provenance
    ) -> "ScanRows":
        """The rows that `values` gave. Raises ValueError, KeyError or TypeError for others."""
        return cls(
            ref,
            [
                SliceRow(SliceOrigin(*origin), SliceRatio(*ratio), provenance)
                for origin, ratios in found["slices"]
                for ratio in ratios
            ],
            [
                SeriesRow(SeriesOrigin(*origin), SeriesRatio(*ratio), provenance)
                for origin, ratio in found["series"]
            ],
            [
                RecoveredRow(SliceOrigin(*origin), RecoveredRatio(*ratio), provenance)
                for origin, ratio in found["recovered"]
            ],
            tuple(found["lines"]),
            found["unlike"],
            tuple(Failure(*failure) for failure in found["skipped"]),
        )


def is_unlike(measured: MeasuredScan) -> bool:
    """Whether a scan was measured although it is unlike the training images."""
    return bool(measured.outside or UNLIKE_FLAGS & set(measured.scan.flags))


def _groups(rows: Sequence[SliceRow], size: int) -> Iterator[Sequence[SliceRow]]:
    """The rows of each slice, one for each ratio."""
    return (rows[at : at + size] for at in range(0, len(rows), size))


def _values(record: Any) -> list[Any]:
    """The fields of a dataclass, in their order; `dataclasses.astuple` copies each of them."""
    return list(vars(record).values())
