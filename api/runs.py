"""Training and export in Python: from a table of cases to a run folder, from a run to a model."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsseg.imaging.errors import WssegError, missing_packages
from wsseg.model import Model, load_model
from wsseg.settings import ratio_definitions, settings
from wsseg.train.config import TrainConfig
from wsseg.train.cross_validation import train_folds
from wsseg.train.losses import WeakMark
from wsseg.train.progress import EpochReport, StepReport
from wsseg.train.run_folder import RunRecord, settings_of
from wsseg.train.trainer import train

if TYPE_CHECKING:
    from wsseg.export.publish import ExportOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A finished training.

    folder: what was written, see docs/training.md. record: what its `run.json` says of the network,
    the probability thresholds and the chosen epoch among it.
    """

    folder: Path
    record: RunRecord = field(repr=False)

    @property
    def metrics(self) -> dict[str, float]:
        """Figures of the network on the validation cases, such as `iou`, 0 to 1."""
        return self.record.metrics


def fit(
    cases: str | Path,
    out: str | Path,
    *,
    config: str | Path | TrainConfig | None = None,
    resume: bool = False,
    on_step: Callable[[StepReport], None] | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
    **given: Any,
) -> Run:
    """Train a segmenter on the table `cases` and leave the run in the folder `out`.

    config: settings, or a TOML file of them. given: settings by their names in docs/training.md,
    such as `network="mobilenet_v2"`; they win over those of `config`. resume: go on after the last
    whole epoch of the run in `out`, with the settings that it began with. on_step, on_epoch: called
    after every optimiser step and every epoch. Raises WssegError for what the user can fix: all
    faults of the table at once, an unknown setting, a run that is there already.
    """
    out = Path(out)
    chosen = training_settings(config, given, begun=settings_of(out) if resume else None)
    if chosen.folds is not None:
        raise WssegError("several folds are trained by `cross_validate`: call that")
    record = train(Path(cases), out, chosen, resume=resume, on_step=on_step, on_epoch=on_epoch)
    log.info(
        "finished: epoch %d of %d chosen by %s; %s",
        record.chosen_epoch,
        record.epochs,
        record.chosen_by,
        ", ".join(f"{name} {value:.4f}" for name, value in record.metrics.items()),
    )
    return Run(out, record)


def cross_validate(
    cases: str | Path,
    out: str | Path,
    *,
    folds: int,
    config: str | Path | TrainConfig | None = None,
    resume: bool = False,
    on_step: Callable[[StepReport], None] | None = None,
    **given: Any,
) -> tuple[Run, ...]:
    """Train as `fit` does, `folds` times, each time without one fold of the groups of the cases.

    The runs lie in `out`/fold-1 and so on; `out`/predictions.csv has every case as predicted by
    the run that did not learn from it. Raises WssegError for what the user can fix.
    """
    out = Path(out)
    begun = settings_of(out) if resume else None
    chosen = training_settings(config, given | {"folds": folds}, begun=begun)
    records = train_folds(Path(cases), out, chosen, resume=resume, on_step=on_step)
    return tuple(Run(out / f"fold-{n}", record) for n, record in enumerate(records, start=1))


def export_model(run: Run | str | Path, out: str | Path, **given: Any) -> Model:
    """Publish a run as the model folder `out`, which appears whole or stays as it was.

    given: fields of `ExportOptions`, such as `precisions=("fp32", "int8")` with
    `calibration="cases.csv"`, described in docs/export.md. Every engine that can run on this
    machine is compared with PyTorch on slices of the run. Raises WssegError for what the user can
    fix; where an engine that was asked for could not be made or disagrees (EngineRejectedError,
    EngineBuildError, TensorRTMissingError), after the folder was published with the others.
    """
    with missing_packages():  # training does without onnx
        from wsseg.export.publish import export_run

    folder = run.folder if isinstance(run, Run) else Path(run)
    export_run(folder, Path(out), export_settings(given))
    return load_model(out)


def training_settings(
    config: str | Path | TrainConfig | None,
    given: dict[str, Any],
    *,
    begun: TrainConfig | None = None,
) -> TrainConfig:
    """The settings of a training, as `fit` takes them, checked as one.

    Ratios may be written as `NAME=CLASS/DENOMINATOR`; `mark_average` says what the term `weak_mark`
    averages over, the "image" or the "mark". begun: settings in place of the defaults.
    """
    file = None if config is None or isinstance(config, TrainConfig) else Path(config)
    base = config if isinstance(config, TrainConfig) else begun
    given = dict(given)
    average = given.pop("mark_average", None)
    if given.get("ratios"):
        given["ratios"] = ratio_definitions(given["ratios"])
    chosen = settings(TrainConfig, file, given, begun=base)
    if given.get("preset") and file is not None and settings(TrainConfig, file, {}).terms:
        raise WssegError(
            f"--preset {chosen.preset} and the [[terms]] of {file} are two recipes: leave one out"
        )
    return chosen if average is None else with_mark_average(chosen, average)


def with_mark_average(config: TrainConfig, average: str) -> TrainConfig:
    """Return the settings with L_ws averaged over the image or the mark."""
    if average not in ("image", "mark"):
        raise WssegError(f"--mark-average {average}: expected image or mark")
    if not any(isinstance(term, WeakMark) for term in config.loss_terms):
        raise WssegError(
            f"--mark-average is for the term weak_mark, which {config.recipe} has not: leave it "
            "out, or take --preset paper"
        )
    changed = tuple(
        term.model_copy(update={"average": average}) if isinstance(term, WeakMark) else term
        for term in config.loss_terms
    )
    return config.model_copy(update={"terms": changed})


def export_settings(given: dict[str, Any]) -> "ExportOptions":
    """The options of an export, as `export_model` takes them, checked as one."""
    from wsseg.export.publish import ExportOptions

    options = settings(ExportOptions, None, given)
    if options.gpu_arch and not options.trt:
        raise WssegError("--gpu-arch is for TensorRT engines: add --trt")
    if options.calibration and "int8" not in options.precisions:
        raise WssegError("--calibration is for int8 engines: add --precision int8")
    return options
