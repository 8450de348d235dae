"""A model folder in Python: segment arrays and measure folders of scans, without torch."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsseg.imaging.definitions import PixelCounts, area_ratios, denominator_of
from wsseg.imaging.errors import Failure, WssegError, missing_packages
from wsseg.results import ScanResult, SliceResult
from wsseg.serve.batching import to_channels
from wsseg.serve.engines.base import Engine, EngineError, Prediction
from wsseg.serve.engines.child import Isolation
from wsseg.serve.follow import follow
from wsseg.serve.infer import Summary, infer, measure
from wsseg.serve.intervals import Bounds, Intervals, SoftAreas, intervals_of
from wsseg.serve.manifest import Manifest
from wsseg.serve.manifest import load_model as read_folder
from wsseg.serve.measure import MeasuredScan, series_ratio, slice_ratios
from wsseg.serve.options import InferOptions
from wsseg.settings import settings

if TYPE_CHECKING:
    from wsseg.serve.node.node import Ports

Paths = str | Path | Sequence[str | Path]
Slices = NDArray[np.float32]

log = logging.getLogger(__name__)

_OPENED_WITH = ("model", "device", "engine", "precision", "threads", "trust")
"""The options of wsseg-infer that `load_model` settles."""


def load_model(
    folder: str | Path,
    *,
    device: str = "auto",
    engine: str = "auto",
    precision: str = "auto",
    threads: int = 0,
    trust: Sequence[str | Path] = (),
) -> "Model":
    """Open a model folder that `export_model` or wsseg-export wrote.

    device: auto, cpu or cuda. engine, precision: auto takes the fastest that agreed with PyTorch;
    the names are those of wsseg-infer. threads: of the network on a CPU, 0 for all cores. trust:
    public Ed25519 keys in PEM, of which one must have signed the model; () opens any model. Raises
    WssegError for a folder that is no model or not signed so, and for an unknown name; whether the
    engine runs here shows when it is first needed.
    """
    given = {"device": device, "engine": engine, "precision": precision, "threads": threads}
    keys = [Path(key).absolute() for key in trust]
    options = settings(InferOptions, None, {"model": Path(folder), "trust": keys, **given})
    manifest, opened = read_folder(options.model, options.trust)
    # The engine is opened later, when the working directory may be another one.
    return Model(manifest, options.model_copy(update={"model": opened.absolute()}))


@dataclass(frozen=True)
class Model:
    """A model and the engine that computes it, which is opened by the first call that needs it.

    manifest: what `model.json` says. options: the folder and the engine that was asked for.
    """

    manifest: Manifest
    options: InferOptions = field(repr=False)
    _engines: dict[tuple[bool, Isolation], Engine] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the k classes, in the order of masks."""
        return self.manifest.classes

    @property
    def engine(self) -> str:
        """Runtime, device and precision that really compute, such as "onnxruntime-cpu fp32"."""
        opened = self.open()
        return f"{opened.name} {opened.precision}"

    def predict(self, pixels: ArrayLike, *, coverage: float | None = None) -> SliceResult:
        """Segment one slice (H, W), or RGB (H, W, 3), of any size.

        pixels: in the units of the training images: HU for CT, SUV for PET, 0..255 for 8-bit
        pictures, else values after rescale; rows and columns as a viewer shows them. RGB becomes
        its luminance for a grey network. coverage: of the intervals, between 0 and 1, by default
        0.9 if the model is calibrated. Raises WssegError for another shape, for values that are not
        finite, for a coverage that the model cannot give, and where the engine fails.
        """
        grid = _float32(pixels)
        if grid.ndim != 2 and not (grid.ndim == 3 and grid.shape[-1] == 3):
            raise WssegError(
                f"predict takes one slice (H, W) or (H, W, 3), found shape {grid.shape}: give a "
                "stack of slices to predict_batch"
            )
        return self._predicted(grid[None], self._intervals(coverage))[0]

    def predict_batch(
        self, slices: ArrayLike, *, batch: int = 8, coverage: float | None = None
    ) -> list[SliceResult]:
        """Segment a stack of slices: (n, H, W), (n, H, W, 3) or (n, c, H, W) with c of 1 or 3.

        Units, coverage and errors as in `predict`. batch: slices that the network sees at once, at
        least 1.
        """
        batch = settings(InferOptions, None, {"batch": batch}, begun=self.options).batch
        stack = _float32(slices)
        if stack.ndim == 4 and stack.shape[-1] != 3 and stack.shape[1] in (1, 3):
            stack = np.moveaxis(stack, 1, -1)
            stack = stack[..., 0] if stack.shape[-1] == 1 else stack
        if stack.ndim != 3 and not (stack.ndim == 4 and stack.shape[-1] == 3):
            raise WssegError(
                "predict_batch takes slices (n, H, W), (n, H, W, 3) or (n, c, H, W), found shape "
                f"{stack.shape}"
            )
        starts = range(0, len(stack), batch)
        intervals = self._intervals(coverage)
        return [one for at in starts for one in self._predicted(stack[at : at + batch], intervals)]

    def measure(
        self,
        paths: Paths,
        *,
        batch: int = 8,
        skip: bool = True,
        strict: bool = False,
        coverage: float | None = None,
        pixel_mm: tuple[float, float] | None = None,
    ) -> "Measurement":
        """Measure every scan under files, folders or archives, one after another as you iterate.

        batch: slices that the network sees at once. skip: leave out slices that cannot show tissue.
        strict: a scan unlike the training images is a failure; else it is measured and flagged.
        coverage: of the intervals, as in `predict`. pixel_mm: (row, column) size in mm of the
        pixels of pictures that do not know theirs.
        Raises WssegError for unusable options and, when the iteration begins, for paths that do not
        exist; a file that cannot be measured is no error, see `Measurement.failures`.
        """
        given: dict[str, Any] = {"batch": batch, "skip": skip, "strict": strict}
        given |= {"coverage": coverage, "pixel_mm": pixel_mm}
        chosen = settings(InferOptions, None, given, begun=self.options)
        return Measurement(_paths(paths), self, chosen)

    def measure_to(
        self,
        report: str | Path,
        paths: Paths,
        *,
        on_progress: Callable[[int, int, float], None] | None = None,
        on_round: Callable[[Summary], object] = lambda _: None,
        **given: Any,
    ) -> Summary:
        """Measure as `measure` does and write `report` and the tables beside it, as wsseg-infer.

        report: .csv, .jsonl or .parquet. on_progress: hears slices done, slices found so far, and
        slices a second. given: other options of wsseg-infer by their names, such as
        `masks="masks"`, `overlays="overlays"`, `known_ratios="ratios.csv"`,
        `reference="recorded.csv"`, `overwrite=True`. With `follow=True`, folders are measured again
        and again until an interrupt or an error; on_round hears of each time. Raises WssegError,
        before any scan is read, for inputs and options that cannot be used, those of `load_model`
        among them, and AllFailedError if the report cannot be written.
        """
        # The engine is this model's: the report would name another one that computed nothing.
        opened = [name for name in _OPENED_WITH if name in given]
        if opened:
            raise WssegError(
                f"measure_to does not take {', '.join(opened)}: open the model with load_model and "
                "these options"
            )
        chosen = settings(InferOptions, None, {"report": report, **given}, begun=self.options)

        def engine() -> Engine:
            return self._opened(chosen.isolation, probability=chosen.needs_probability)

        if chosen.follow:
            follow(_paths(paths), chosen, engine=engine, on_progress=on_progress, on_round=on_round)
        # The workers of a cluster open it themselves.
        here = None if chosen.cluster else engine
        return infer(_paths(paths), chosen, engine=here, on_progress=on_progress)

    def listen(
        self,
        spool: str | Path,
        *,
        stop: threading.Event,
        on_ready: Callable[["Ports"], object] | None = None,
        **given: Any,
    ) -> None:
        """Run a DICOM node, as `wsseg listen` does, until `stop` is set.

        spool: folder of all that it holds, and of the results. on_ready: called with its ports once
        it listens. given: options of wsseg listen by their names in `NodeOptions`, such as
        `aet="WSSEG"`, `port=11112`, `returns=("PACS@10.1.2.3:104",)`, and options of measuring:
        `batch`, `skip`, `strict`, `coverage`, `codes`, `seg_type`, `seg_sparse`, `isolate`,
        `engine_seconds`. Raises WssegError, before it listens, for options and ports that cannot be
        used.
        """
        with missing_packages():
            from wsseg.serve.node.node import Node
            from wsseg.serve.node.options import NodeOptions

        opened = [name for name in _OPENED_WITH if name in given]
        if opened:
            raise WssegError(
                f"listen does not take {', '.join(opened)}: open the model with load_model and "
                "these options"
            )
        own = {name: given.pop(name) for name in NodeOptions.model_fields if name in given}
        node = settings(NodeOptions, None, {"spool": spool, **own})
        chosen = settings(InferOptions, None, given, begun=self.options)
        engine = partial(self._opened, chosen.isolation)
        Node(node, chosen, engine).run(stop, on_ready or (lambda _: None))

    def open(self, *, probability: bool = False) -> Engine:
        """The engine, which is opened once. probability: it must give the probability of a pixel.

        Raises WssegError where nothing that was asked for runs on this machine.
        """
        return self._opened(Isolation(isolate=False), probability=probability)

    def _opened(self, isolation: Isolation, *, probability: bool = False) -> Engine:
        key = (probability, isolation)
        if key not in self._engines:
            wanted = replace(self.options.wanted_engine, probability=probability)
            self._engines[key] = isolation.open(self.options.model, self.manifest, wanted)
        return self._engines[key]

    def _intervals(self, coverage: float | None) -> Intervals | None:
        chosen = settings(InferOptions, None, {"coverage": coverage}, begun=self.options)
        return intervals_of(self.manifest, chosen.coverage)

    def _predicted(self, stack: Slices, intervals: Intervals | None) -> list[SliceResult]:
        """The results of n >= 1 slices (n, H, W) or (n, H, W, 3)."""
        if not stack.size:
            raise WssegError(f"the slices have no pixels, found shape {stack.shape[1:]}")
        if not np.isfinite(stack).all():
            raise WssegError("the pixels hold NaN or infinity: replace them by a number")
        channels = np.stack([to_channels(pixels, self.manifest.channels) for pixels in stack])
        try:
            prediction = self.open()(channels)
        except EngineError as error:
            raise WssegError(f"the engine {self.engine} could not compute: {error}") from error
        if not np.isfinite(prediction.soft_areas).all():
            raise WssegError("the network's answer is not a number: check the pixels' units")
        counts = PixelCounts.of_masks(prediction.masks)
        ratios = self._ratios(counts)
        bounds = self._bounds(prediction, counts, intervals)
        return [
            SliceResult(
                classes=self.classes,
                areas=dict(zip(self.classes, prediction.pixel_areas[at].tolist(), strict=True)),
                ratios=dict(zip((r.name for r in self.manifest.ratios), row, strict=True)),
                pixels=stack[at],
                masks=prediction.masks[at] > 0,
                window=self.manifest.window,
                intervals={
                    name: (float(each.low[at]), float(each.high[at]))
                    for name, each in bounds.items()
                },
                confidence={name: float(each.confidence[at]) for name, each in bounds.items()},
            )
            for at, row in enumerate(ratios.tolist())
        ]

    def _bounds(
        self, prediction: Prediction, counts: PixelCounts, intervals: Intervals | None
    ) -> dict[str, Bounds]:
        """The intervals of the ratios that are calibrated, by the ratio's name."""
        if intervals is None or prediction.area_variances is None:
            return {}
        soft = SoftAreas(prediction.soft_areas, prediction.area_variances)
        bounds = {
            ratio.name: intervals.bounds(ratio, counts, soft) for ratio in self.manifest.ratios
        }
        return {name: each for name, each in bounds.items() if each is not None}

    def _ratios(self, counts: PixelCounts) -> NDArray[np.float64]:
        """The ratios (n, r) that the model defines."""
        definitions = self.manifest.ratios
        return area_ratios(
            counts,
            [denominator_of(ratio, self.classes) for ratio in definitions],
            [self.classes.index(ratio.numerator) for ratio in definitions],
        )


@dataclass
class Measurement:
    """The scans under some paths; iterating measures them, in the order in which they are found.

    Only what is read ahead is in memory besides the results that you keep. failures: the files that
    have given no result so far, each with its reason; `status` is "skipped" for one that is no
    image, such as a report. Iterating again measures again.
    """

    paths: list[Path]
    model: Model = field(repr=False)
    options: InferOptions = field(repr=False)
    failures: list[Failure] = field(default_factory=list, init=False)

    def __iter__(self) -> Iterator[ScanResult]:
        """Measure the scans one after another."""
        self.failures.clear()
        manifest, engine = self.model.manifest, self.model.open()
        intervals = intervals_of(manifest, self.options.coverage)
        with closing(measure(self.paths, self.options, manifest, engine)) as outcomes:
            for outcome in outcomes:
                self.failures += outcome.failures
                if outcome.measured:
                    yield _scan_result(outcome.measured, manifest, outcome.failures, intervals)
        failed = sum(failure.status == "failed" for failure in self.failures)
        if failed:
            log.warning("%d files gave no result: `failures` of the measurement says why", failed)


def _scan_result(
    found: MeasuredScan,
    manifest: Manifest,
    failures: tuple[Failure, ...],
    intervals: Intervals | None,
) -> ScanResult:
    if found.labels is None:
        raise AssertionError("label maps were asked for")
    series = tuple(series_ratio(found, manifest, ratio) for ratio in manifest.ratios)
    by_ratio = [slice_ratios(found, manifest, ratio, intervals) for ratio in manifest.ratios]
    nan = float("nan")
    return ScanResult(
        source=found.scan.ref.files[0].source,
        classes=manifest.classes,
        ratios={
            row.ratio_name: nan if row.volume_ratio is None else row.volume_ratio for row in series
        },
        areas=found.areas.pixel,
        labels=found.labels,
        series=series,
        slices=tuple(chain.from_iterable(zip(*by_ratio, strict=True))),
        scan=found.scan,
        window=manifest.window,
        failures=failures,
    )


def _float32(pixels: ArrayLike) -> Slices:
    try:
        values = np.asarray(pixels)
        if np.iscomplexobj(values):
            raise WssegError("the pixels are complex numbers: give their magnitude, np.abs(pixels)")
        return values.astype(np.float32, copy=False)
    except (TypeError, ValueError) as error:
        raise WssegError(f"the pixels are not an array of numbers: {error}") from error


def _paths(paths: Paths) -> list[Path]:
    return [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
