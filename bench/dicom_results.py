"""What DICOM results cost beyond inference, beside highdicom called plainly.

    python -m bench.dicom_results [--slices 100] [--side 512] [--runs 5]

A made-up series with two classes, and an engine that thresholds its values. Ours: a run of
wsseg-infer with --seg and --sr, less one without them. Plain: the headers read by pydicom, then
highdicom's own Segmentation and ComprehensiveSR of the same frames, groups and numbers, as its
documentation shows, and the files. All take turns, each in a process of its own; figures are
processor time of all threads, and medians. Then programs that are not ours read our report.
"""

import argparse
import gc
import logging
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
from highdicom import sr
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from bench.timing import where
from wsseg.cli.demo_data import write_series
from wsseg.imaging.definitions import RatioDefinition, Window
from wsseg.serve.engines.base import Prediction
from wsseg.serve.engines.benchmark import interleaved, paired_ratio
from wsseg.serve.infer import infer
from wsseg.serve.manifest import FILE_NAME, EngineFile, Manifest, Training
from wsseg.serve.options import InferOptions

CLASSES = ("organ", "lesion")
GREY = (120, 200)
AFFINE = np.diag([0.7, 0.7, 2.0, 1.0])
PIXEL_MM2 = 0.49
TIMED = 3
MAKER = {
    "manufacturer": "wsseg",
    "manufacturer_model_name": "plain",
    "software_versions": "1",
    "device_serial_number": "1",
}


class Threshold:
    """An engine whose classes are grey values, so that a run is little but reading and writing."""

    name, precision, file, gives_probability = "threshold", "fp32", "model.onnx", False

    def __call__(self, pixels: NDArray[np.float32], /) -> Prediction:
        """The pixels of each grey value."""
        masks = np.concatenate([pixels == grey for grey in GREY], 1).astype(np.uint8)
        areas = np.count_nonzero(masks, (2, 3))
        return Prediction(masks, areas, areas.astype(np.float32))

    def with_probability(
        self, pixels: NDArray[np.float32], /
    ) -> tuple[Prediction, NDArray[np.float32]]:
        """Nothing is recovered here."""
        raise NotImplementedError


def write_scan(folder: Path, slices: int, side: int) -> None:
    """Slices of two discs that grow."""
    row, column = np.mgrid[:side, :side] / side
    distance = [(row - 0.5) ** 2 + (column - at) ** 2 for at in (0.35, 0.75)]
    stack = np.zeros((slices, side, side), np.uint8)
    for index in range(slices):
        for grey, squared, most in zip(GREY, distance, (0.25, 0.15), strict=True):
            stack[index][squared < (most * (index + 1) / slices) ** 2] = grey
        stack[index, 0, 0] = index % 100  # no two slices are equal
    write_series(stack, AFFINE, folder)
    for file in folder.iterdir():  # highdicom needs these, wsseg does not
        dataset = pydicom.dcmread(file)
        dataset.StudyDate, dataset.StudyTime = "20200101", "120000"
        dataset.save_as(file)


def write_model(folder: Path) -> None:
    """A model folder without an engine: the threshold is given to the run."""
    folder.mkdir()
    manifest = Manifest(
        name="threshold",
        classes=CLASSES,
        ratios=tuple(RatioDefinition(name=name, numerator=name) for name in CLASSES),
        channels=1,
        window=Window(),
        network_size=64,
        thresholds=(0.5, 0.5),
        training=Training(
            preset="none",
            network="none",
            weights="none",
            cases=0,
            cases_sha256="",
            epochs=0,
            seed=0,
        ),
        engines=(
            EngineFile(file="model.onnx", runtime="onnxruntime", precision="fp32", sha256="0" * 64),
        ),
        wsseg_version="0",
        created="2026-01-01T00:00:00+00:00",
    )
    (folder / FILE_NAME).write_text(manifest.model_dump_json(), encoding="utf-8")


def run(folder: Path, seg: Path | None = None, report: Path | None = None) -> None:
    """A whole run of wsseg-infer but its command line."""
    options = InferOptions(
        model=folder / "model",
        report=folder / "ratios.csv",
        overwrite=True,
        skip=False,
        seg=seg,
        sr=report,
    )
    infer([folder / "scan"], options, engine=Threshold)


@dataclass(frozen=True)
class Plain:
    """The same results by highdicom as its documentation shows; what inference gives is given.

    masks: (slice, row, column, class). areas: (slice, class) in mm2.
    """

    files: list[Path]
    out: Path
    masks: NDArray[np.uint8]
    areas: NDArray[np.float64]

    def segmentation(self) -> tuple[list[pydicom.FileDataset], Any]:
        """Read the headers and write the SEG; returns both."""
        headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in self.files]
        algorithm = highdicom.AlgorithmIdentificationSequence(
            name="plain", version="1", family=codes.DCM.ArtificialIntelligence
        )
        segments = [
            highdicom.seg.SegmentDescription(
                segment_number=number,
                segment_label=name,
                segmented_property_category=codes.SCT.Tissue,
                segmented_property_type=codes.SCT.Tissue,
                algorithm_type="AUTOMATIC",
                algorithm_identification=algorithm,
            )
            for number, name in enumerate(CLASSES, 1)
        ]
        made = highdicom.seg.Segmentation(
            source_images=headers,
            pixel_array=self.masks,
            segmentation_type="BINARY",
            segment_descriptions=segments,
            series_instance_uid=generate_uid(),
            series_number=100,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            omit_empty_frames=False,
            **MAKER,
        )
        made.save_as(self.out / "plain.seg.dcm")
        return headers, made

    def report(self, headers: list[pydicom.FileDataset], segmentation: Any) -> None:
        """Write the SR: a group for each class, and for each of its slices."""
        observer = sr.ObserverContext(
            codes.DCM.Device, sr.DeviceObserverIdentifyingAttributes(uid=generate_uid(), name="x")
        )
        whole = [self._whole(headers, segmentation, number) for number in (1, 2)]
        slices = [
            self._slice(headers, segmentation, number, index)
            for number in (1, 2)
            for index in range(len(headers))
        ]
        content = sr.MeasurementReport(
            observation_context=sr.ObservationContext(observer_device_context=observer),
            procedure_reported=sr.CodedConcept("363679005", "SCT", "Imaging procedure"),
            imaging_measurements=[*whole, *slices],
        )
        document = sr.ComprehensiveSR(
            evidence=[*headers, segmentation],
            content=content,
            series_instance_uid=generate_uid(),
            series_number=101,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            is_complete=True,
            **MAKER,
        )
        document.save_as(self.out / "plain.sr.dcm")

    def __call__(self) -> None:
        """Both."""
        self.report(*self.segmentation())

    def _whole(self, headers: list[pydicom.FileDataset], segmentation: Any, number: int) -> Any:
        volume = float(self.areas[:, number - 1].sum() * AFFINE[2, 2])
        share = float(self.areas[:, number - 1].mean() / (self.masks[0, ..., 0].size * PIXEL_MM2))
        return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(generate_uid(), CLASSES[number - 1]),
            referenced_segment=sr.ReferencedSegment(
                sop_class_uid=segmentation.SOPClassUID,
                sop_instance_uid=segmentation.SOPInstanceUID,
                segment_number=number,
                source_series=sr.SourceSeriesForSegmentation(headers[0].SeriesInstanceUID),
            ),
            finding_type=codes.SCT.Tissue,
            algorithm_id=sr.AlgorithmIdentification("x", "1", ["sha256"]),
            measurements=[
                sr.Measurement(codes.SCT.Volume, volume, codes.UCUM.CubicMillimeter),
                self._ratio(share, number),
                self._ratio(share, number),
                sr.Measurement(sr.CodedConcept("N", "99X", "Slices"), 1, codes.UCUM.NoUnits),
                sr.Measurement(sr.CodedConcept("M", "99X", "Slices"), 1, codes.UCUM.NoUnits),
            ],
        )

    def _slice(
        self, headers: list[pydicom.FileDataset], segmentation: Any, number: int, index: int
    ) -> Any:
        area = float(self.areas[index, number - 1])
        header = headers[index]
        return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(generate_uid(), f"{number}, slice {index}"),
            referenced_segment=sr.ReferencedSegmentationFrame(
                sop_class_uid=segmentation.SOPClassUID,
                sop_instance_uid=segmentation.SOPInstanceUID,
                frame_number=(number - 1) * len(headers) + index + 1,
                segment_number=number,
                source_image=sr.SourceImageForSegmentation(
                    header.SOPClassUID, header.SOPInstanceUID
                ),
            ),
            finding_type=codes.SCT.Tissue,
            measurements=[
                sr.Measurement(codes.SCT.Area, area, codes.UCUM.SquareMillimeter),
                self._ratio(area / (self.masks[0, ..., 0].size * PIXEL_MM2), number),
            ],
        )

    @staticmethod
    def _ratio(value: float, number: int) -> Any:
        """A ratio with its two modifiers."""
        name = sr.CodedConcept(f"AR-{number}", "99X", f"Area ratio {CLASSES[number - 1]} / image")
        made = sr.Measurement(name, value, codes.UCUM.NoUnits)
        made[0].ContentSequence = sr.ContentSequence(
            [
                sr.CodeContentItem(
                    name=sr.CodedConcept(word, "99X", word),
                    value=codes.SCT.Tissue,
                    relationship_type="HAS CONCEPT MOD",
                )
                for word in ("NUMERATOR", "DENOMINATOR")
            ]
        )
        return made


def processor_seconds(action: Callable[[], object]) -> float:
    """Processor time of all threads of this process: the median of TIMED calls after one more."""
    action()
    spent = []
    for _ in range(TIMED):
        gc.collect()
        start = time.process_time()
        action()
        spent.append(time.process_time() - start)
    return statistics.median(spent)


def plain_of(folder: Path) -> Plain:
    """What `Plain` is given: the masks of the threshold and their areas."""
    files = sorted((folder / "scan").iterdir())
    stack = np.stack([pydicom.dcmread(file).pixel_array for file in files])
    masks = np.stack([stack == grey for grey in GREY], -1).astype(np.uint8)
    areas = np.count_nonzero(masks, (1, 2)) * PIXEL_MM2
    return Plain(files, folder, masks, areas)


def actions(folder: Path) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    plain = plain_of(folder)
    seg, report = folder / "seg", folder / "sr"
    return {
        "alone": lambda: run(folder),
        "seg": lambda: run(folder, seg),
        "sr": lambda: run(folder, None, report),
        "both": lambda: run(folder, seg, report),
        "plain seg": plain.segmentation,
        "plain both": plain,
    }


def in_a_process(name: str, folder: Path) -> float:
    """Time an action in a process of its own: the memory that one frees would favour the next."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.dicom_results", "--only", name, "--folder", str(folder)],
        capture_output=True,
        check=True,
        text=True,
    )
    return float(done.stdout)


def time_all(folder: Path, runs: int) -> None:
    """Print processor times and their ratio."""
    names = ("alone", "seg", "sr", "both", "plain seg", "plain both")
    times = interleaved({name: partial(in_a_process, name, folder) for name in names}, runs)
    rounds = [dict(zip(times, values, strict=True)) for values in zip(*times.values(), strict=True)]
    print("| result | ours beyond the run without it, s | highdicom called plainly, s | ratio |")
    print("|---|---|---|---|")
    for label, own, other in (
        ("SEG", [t["seg"] - t["alone"] for t in rounds], times["plain seg"]),
        (
            "SR",
            [t["sr"] - t["alone"] for t in rounds],
            [t["plain both"] - t["plain seg"] for t in rounds],
        ),
        ("SEG and SR", [t["both"] - t["alone"] for t in rounds], times["plain both"]),
    ):
        pairs = [a / b for a, b in zip(own, other, strict=True)]
        print(
            f"| {label} | {statistics.median(own):.2f} | {statistics.median(other):.2f} "
            f"| {paired_ratio(own, other):.2f} ({min(pairs):.2f} to {max(pairs):.2f}) |"
        )
    print(f"\nThe run alone: {statistics.median(times['alone']):.2f} s.")


def read_by_others(folder: Path) -> None:
    """Print the size of the report, and the time that other programs take to read it."""
    (report,) = (folder / "sr").glob("*.dcm")
    print(f"\nSR: {report.stat().st_size / 1000:.0f} kB.\n")
    beside = str(Path(sys.executable).parent)
    for name, arguments in (
        ("dsrdump", [report]),
        ("tid1500reader", ["--inputDICOM", report, "--outputMetadata", folder / "sr.json"]),
        ("dciodvfy", [report]),
    ):
        program = shutil.which(name, path=beside) or shutil.which(name)
        if program is None:
            print(f"{name}: not installed")
            continue
        start = time.perf_counter()
        done = subprocess.run(
            [program, *map(str, arguments)], capture_output=True, check=False, text=True
        )
        seconds = time.perf_counter() - start
        errors = sum(line.startswith("Error") for line in done.stderr.splitlines())
        print(f"{name}: {seconds:.2f} s, {errors} errors")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    logging.getLogger("wsseg").setLevel(logging.ERROR)  # results of the last round are replaced
    if given.only:
        print(processor_seconds(actions(given.folder)[given.only]))
        return
    print(f"{where()}; highdicom {highdicom.__version__}")
    print(f"{given.slices} slices of {given.side} x {given.side}, {len(CLASSES)} classes\n")
    with tempfile.TemporaryDirectory(prefix="wsseg-bench-") as scratch:
        folder = Path(scratch)
        write_scan(folder / "scan", given.slices, given.side)
        write_model(folder / "model")
        time_all(folder, given.runs)
        read_by_others(folder)


if __name__ == "__main__":
    main()
