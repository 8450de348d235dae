"""Cross-validation: as many runs as folds, and the predictions of each case by the run that did
not learn from it."""

import csv
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import atomic, lock_output
from wsseg.train.cases.table import fold_of
from wsseg.train.config import TrainConfig
from wsseg.train.launch import has_assigned_rank, refuse_tasks
from wsseg.train.progress import StepReport
from wsseg.train.run_folder import CONFIG, RECORD, STATE, RunRecord, check_start, keep_config
from wsseg.train.trainer import cases_for, train
from wsseg.train.validation import PREDICTIONS, SPLITS

log = logging.getLogger(__name__)

Line = dict[str, str]


def train_folds(
    cases: Path,
    out: Path,
    config: TrainConfig,
    *,
    resume: bool = False,
    on_step: Callable[[StepReport], None] | None = None,
) -> tuple[RunRecord, ...]:
    """Train `config.folds` times, each time without one fold of the cases; returns the records.

    `out` becomes a folder with a run in each of fold-1, fold-2 ..., and splits.csv and
    predictions.csv of all cases, each judged by the run that did not learn from it. Groups never
    cross folds; cases of split test belong to none, and every fold judges them. resume: finished
    folds are left alone, an unfinished one goes on. Raises WssegError for what the user can fix.
    """
    refuse_tasks()
    if has_assigned_rank():
        raise WssegError(
            "folds are trained one after another, not under torchrun: start wsseg-train once, with "
            "--devices for several processes"
        )
    busy = f"another training is at work in {out}: wait for it, or give another --out"
    with lock_output(out, busy):
        if (out / RECORD).exists() or (out / STATE).exists():
            raise WssegError(f"{out} holds a run of its own: give another --out for the folds")
        table = cases_for(cases, config)
        runs = []
        folds, unlabelled = config.folds or 1, config.distill is not None
        # All folds are checked before the first is trained.
        for fold in range(1, folds + 1):
            settings = config.model_copy(update={"fold": fold})
            fold_of(
                table, fold, folds, seed=config.seed, ratios=config.ratios, unlabelled=unlabelled
            )
            folder = out / f"fold-{fold}"
            if folder.exists():
                check_start(folder, settings, resume=resume)
            runs.append((folder, settings))
        keep_config(config, out)
        records = []
        for fold, (folder, settings) in enumerate(runs, 1):
            log.info("fold %d of %d", fold, len(runs))
            going_on = resume and (folder / CONFIG).exists()
            records.append(train(cases, folder, settings, resume=going_on, on_step=on_step))

        # The tables of all folds as one, each case by the fold that evaluates it.
        header, splits = _read(runs[0][0] / SPLITS)
        judged = [{**line, "split": "test" if not line["fold"] else "val"} for line in splits]
        _write(out / SPLITS, header, judged)
        lines: list[Line] = []
        for folder, _ in runs:
            header, predictions = _read(folder / PREDICTIONS)
            lines += [line for line in predictions if line["split"] == "val"]
        lines.sort(key=lambda line: int(line["row"]))
        _write(out / PREDICTIONS, header, lines)
        for sentence in summary(lines):
            log.info("%s", sentence)
    return tuple(records)


def summary(lines: Sequence[Line]) -> list[str]:
    """How out-of-fold predictions agree with what is known, a sentence a class."""
    sentences = []
    for name in dict.fromkeys(line["class_name"] for line in lines):
        own = [line for line in lines if line["class_name"] == name]
        errors = [
            float(line["predicted_ratio"] or 0) - float(line["known_ratio"] or line["mask_ratio"])
            for line in own
            if line["known_ratio"] or line["mask_ratio"]
        ]
        overlaps = [float(line["iou"]) for line in own if line["iou"]]
        parts = []
        if errors:
            parts.append(
                f"ratio off by {np.mean(np.abs(errors)):.4f} on average, bias "
                f"{np.mean(errors):+.4f}, over {len(errors)} cases"
            )
        if overlaps:
            parts.append(f"IoU {np.mean(overlaps):.4f} over {len(overlaps)}")
        sentences.append(f"out of fold, {name}: {'; '.join(parts) or 'nothing to judge by'}")
    return sentences


def _read(path: Path) -> tuple[list[str], list[Line]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return list(reader.fieldnames or ()), list(reader)


def _write(path: Path, header: Sequence[str], lines: Sequence[Line]) -> None:
    with atomic(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
