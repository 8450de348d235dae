"""What a model measures and may be used for, from `model.json` alone: for people and programs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from wsseg.imaging.definitions import (
    FOREGROUND,
    IMAGE,
    Extent,
    Frozen,
    RatioDefinition,
    Seen,
    Window,
)
from wsseg.imaging.dicom.codes import ClassCodes, Code, type_of
from wsseg.serve.engines.select import ADAPTERS
from wsseg.serve.manifest import EngineFile, Manifest, Profile, Training, load_model

INTENDED_USE = "Research. wsseg and its models are not a medical device."
NOT_INTENDED = "Diagnosis, treatment and any other decision about a patient."
RATIO_UNIT = "1"
"""The unit of a ratio by UCUM: the unity. A ratio over another class may exceed 1."""


class ClassInfo(Frozen):
    """A class of the masks. label: its value in label maps. threshold: of its probability.

    type: the code by which DICOM results name it, of wsseg's own where none was stated.
    """

    name: str
    label: int
    threshold: float
    type: Code
    codes: ClassCodes | None


class RatioInfo(Frozen):
    """A ratio. largest: 1 if it cannot exceed it, else None. calibration_groups: groups of cases
    that its interval is computed from; None for a ratio without an interval. largest_coverage:
    that so many groups allow.
    """

    name: str
    numerator: str
    denominator: str
    unit: str = RATIO_UNIT
    largest: Literal[1] | None
    calibration_groups: int | None
    largest_coverage: float | None


class EngineInfo(Frozen):
    """An engine file. compared: whether it was compared with PyTorch when it was exported.

    file_bytes: None if the file is missing. gpu: CUDA architecture it was built for; None for any
    device. sizes: (batch, height, width) that it accepts; None for any. here: the reason why its
    runtime does not work on this machine, by device; None where it does.
    """

    file: str
    file_bytes: int | None
    sha256: str
    runtime: str
    precision: str
    compared: bool
    mask_agreement: float | None
    ratio_difference: float | None
    relative_time: float | None
    gpu: str | None
    instructions: str | None
    sizes: Profile | None
    here: dict[str, str | None]


class Limits(Frozen):
    """What the model was made for. channels: of a slice. network_size: the square in pixels that
    slices are resized to. pixel_mm, side_px: of the training images. sentences: for people.
    """

    channels: int
    network_size: int
    pixel_mm: Extent | None
    side_px: Extent | None
    modalities: tuple[str, ...]
    planes: tuple[str, ...]
    intensity_units: tuple[str, ...]
    sentences: tuple[str, ...]


class ModelInfo(Frozen):
    """All of `wsseg info MODEL`. Areas are in pixels, and in mm2 where a scan states its pixels."""

    kind: Literal["model"] = "model"
    schema_version: Literal[1] = 1
    name: str
    wsseg_version: str
    created: str
    intended_use: str = INTENDED_USE
    not_intended: str = NOT_INTENDED
    classes: tuple[ClassInfo, ...]
    ratios: tuple[RatioInfo, ...]
    area_units: tuple[str, ...] = ("px", "mm2")
    window: Window
    engines: tuple[EngineInfo, ...]
    limits: Limits
    training: Training


def model_info(path: Path, trusted: Sequence[Path] = ()) -> ModelInfo:
    """Describe a model folder without opening its engines.

    Raises WssegError for a folder that holds no model, or none that a trusted key signed, as
    `load_model` does.
    """
    manifest, folder = load_model(path, trusted)
    return ModelInfo(
        name=manifest.name,
        wsseg_version=manifest.wsseg_version,
        created=manifest.created,
        classes=tuple(
            ClassInfo(
                name=name,
                label=index,
                threshold=threshold,
                type=type_of(name, manifest.codes),
                codes=manifest.codes.get(name),
            )
            for index, (name, threshold) in enumerate(
                zip(manifest.classes, manifest.thresholds, strict=True), 1
            )
        ),
        ratios=tuple(_ratio(manifest, ratio) for ratio in manifest.ratios),
        window=manifest.window,
        engines=tuple(_engine(folder, entry) for entry in manifest.engines),
        limits=limits_of(manifest),
        training=manifest.training,
    )


def limits_of(manifest: Manifest) -> Limits:
    """The limits that a manifest tells of: training images, calibration, comparison."""
    seen = manifest.training.seen or Seen()
    return Limits(
        channels=manifest.channels,
        network_size=manifest.network_size,
        pixel_mm=seen.pixel_mm,
        side_px=seen.side_px,
        modalities=_stated(seen.modalities),
        planes=_stated(seen.planes),
        intensity_units=_stated(seen.units),
        sentences=tuple(filter(None, _sentences(manifest, seen))),
    )


def _stated(counts: dict[str, int]) -> tuple[str, ...]:
    return tuple(sorted(name for name in counts if name))


def _sentences(manifest: Manifest, seen: Seen) -> tuple[str, ...]:
    training = manifest.training
    calibrated = (
        {each.ratio for each in manifest.calibration.ratios} if manifest.calibration else ()
    )
    without = [ratio.name for ratio in manifest.ratios if ratio.name not in calibrated]
    compared = [entry.parity for entry in manifest.engines if entry.parity]
    return (
        f"It was trained on {training.cases} cases and knows nothing of other kinds of images.",
        f"Slices are resized to {manifest.network_size} x {manifest.network_size} pixels: what is "
        "smaller than a pixel of that square is not seen.",
        "" if seen.modalities else "The modalities of its training images are not recorded.",
        f"It has no intervals for {', '.join(without)}." if without else "",
        (training.dependence.warning if training.dependence else "")
        or ("" if training.dependence else "Whether its masks depend on the image was not tested."),
        "Its masks of the slices on which engines were compared are empty: the agreement of its "
        "engines is not proved."
        if any(parity.masks_empty for parity in compared)
        else "",
    )


def _ratio(manifest: Manifest, ratio: RatioDefinition) -> RatioInfo:
    calibrated = manifest.calibration.ratios if manifest.calibration else ()
    groups = next((each.groups for each in calibrated if each.ratio == ratio.name), None)
    return RatioInfo(
        name=ratio.name,
        numerator=ratio.numerator,
        denominator=ratio.denominator,
        largest=1 if ratio.denominator in (IMAGE, FOREGROUND) else None,
        calibration_groups=groups,
        largest_coverage=None if groups is None else groups / (groups + 1),
    )


def _engine(folder: Path, entry: EngineFile) -> EngineInfo:
    file, parity = folder / Path(entry.file).name, entry.parity
    return EngineInfo(
        file=entry.file,
        file_bytes=file.stat().st_size if file.is_file() else None,
        sha256=entry.sha256,
        runtime=entry.runtime,
        precision=entry.precision,
        compared=parity is not None,
        mask_agreement=parity.mask_agreement if parity else None,
        ratio_difference=parity.ratio_difference if parity else None,
        relative_time=entry.relative_time,
        gpu=entry.gpu,
        instructions=entry.instructions,
        sizes=entry.profile,
        here={
            adapter.label: adapter.absent()
            for adapter in ADAPTERS
            if adapter.runtime == entry.runtime
        },
    )


def engines_here() -> dict[str, str | None]:
    """Every engine of this machine, with the reason why it does not work; None where it does."""
    return {adapter.label: adapter.absent() for adapter in ADAPTERS}
