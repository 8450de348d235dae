"""DICOM objects of a measured scan, which refer to the series that it came from."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsseg.imaging.dicom.codes import NOTHING_STATED, UNSTATED_CATEGORY, ClassCodes, type_of
from wsseg.imaging.dicom.derived import Maker, SourceHeaders, require_highdicom, source_headers
from wsseg.imaging.dicom.seg_source import seg_source
from wsseg.imaging.dicom.seg_writer import (
    Segment,
    SegmentationType,
    make_segmentation,
    segment_frames,
    write_dataset,
)
from wsseg.imaging.dicom.sr_findings import Segments
from wsseg.imaging.errors import NotPossibleError, WssegError, unquoted
from wsseg.imaging.label_maps import safe_name
from wsseg.imaging.scan import Scan, ScanRef
from wsseg.serve.measure import MeasuredScan
from wsseg.serve.outputs import Output

SEGMENTATIONS = "DICOM segmentations"
HEADERS = "headers of the source"
MOST_SLICES = 4096
"""Slices of the scans whose headers are kept between reading and writing: some 100 MB. The headers
of a larger scan are kept alone; those that were dropped are read again."""

logger = logging.getLogger(__name__)


class Sources:
    """Headers of the scans, read before a scan is computed and used when its outputs are written.

    So it is known before the network has seen a scan that it can have no DICOM results.
    segmentations: whether the run writes them. Threads may share an object of this class.
    """

    def __init__(self, *, segmentations: bool) -> None:
        self._segmentations = segmentations
        self._lock = threading.Lock()
        self._kept: OrderedDict[ScanRef, SourceHeaders] = OrderedDict()

    def prepare(self, scan: Scan) -> None:
        """Read and keep the headers of a scan; log the reason if it cannot have all results."""
        try:
            with unquoted("reading the headers of a scan"):
                headers = source_headers(scan)
                with self._lock:
                    self._kept[scan.ref] = headers
                    while len(self._kept) > 1 and self._slices() > MOST_SLICES:
                        self._kept.popitem(last=False)
                if self._segmentations:
                    seg_source(scan, headers)
        except NotPossibleError as error:
            logger.info(
                "a scan cannot have all DICOM results: %s",
                error,
                extra={"event": "not_possible", "reason": error.reason},
            )
        except (WssegError, OSError):
            return  # told when the outputs of the scan are written; it must not cost its rows

    def _slices(self) -> int:
        return sum(len(kept.of_slice) for kept in self._kept.values())

    def headers(self, scan: Scan, made: dict[str, Any]) -> SourceHeaders:
        """The headers of a scan, for all of its outputs: `made` keeps them for the later ones.

        Raises NotPossibleError and ReadError, see `source_headers`.
        """
        if HEADERS not in made:
            with self._lock:
                kept = self._kept.pop(scan.ref, None)
            made[HEADERS] = kept or source_headers(scan)
        found: SourceHeaders = made[HEADERS]
        return found


@dataclass(frozen=True)
class DicomContext:
    """What all DICOM objects of a run have in common.

    codes: what each class is, by class name. sources: headers of the scans.
    """

    maker: Maker
    classes: tuple[str, ...]
    codes: Mapping[str, ClassCodes]
    sources: Sources

    @property
    def segments(self) -> list[Segment]:
        """The classes as segments: number k is class k - 1."""
        stated = [self.codes.get(name, NOTHING_STATED) for name in self.classes]
        return [
            Segment(
                name,
                category=codes.category or UNSTATED_CATEGORY,
                type=type_of(name, self.codes),
                anatomy=codes.anatomy,
            )
            for name, codes in zip(self.classes, stated, strict=True)
        ]


def segmentations(
    folder: Path, context: DicomContext, *, kind: SegmentationType = "binary", sparse: bool = False
) -> Output:
    """DICOM SEG files, one for each scan, see `make_segmentation`.

    Raises WssegError without highdicom.
    """
    require_highdicom("--seg")

    def write(measured: MeasuredScan, folder: Path, made: dict[str, Any]) -> Segments:
        scan = measured.scan
        with unquoted("making it"):
            source = seg_source(scan, context.sources.headers(scan, made))
            dataset = make_segmentation(
                scan,
                measured.masks,
                context.segments,
                source,
                context.maker,
                kind=kind,
                sparse=sparse,
            )
            write_dataset(dataset, folder / f"{safe_name(scan)}.seg.dcm")
        if kind == "labelmap" and (shared := measured.shared_pixels()):
            logger.info(
                "classes overlap on %d pixels of a scan: its label map keeps the later class",
                shared,
                extra={"event": "classes_overlap", "pixels": shared},
            )
        return Segments(dataset, segment_frames(dataset, source))

    return Output(SEGMENTATIONS, folder, write, needs_masks=True, prepare=context.sources.prepare)
