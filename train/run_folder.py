"""The folder of a run: what lies in it, and whether a run may start or go on there."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wsseg.imaging.atomic import atomic
from wsseg.imaging.errors import WssegError
from wsseg.train.checkpoint import read_record, read_state
from wsseg.train.config import TrainConfig, write_config
from wsseg.train.record import RECORD, RunRecord

CONFIG = "config.json"
STATE = "last.pt"
AVERAGED = "averaged.safetensors"
"""The weights as training averaged them, while a run ends with others."""
METRICS = "metrics.csv"
EVENTS = "tb"
CURVES = "curves.png"
EXAMPLES = "examples.png"

MAY_CHANGE = {"accelerator", "devices", "workers"}
"""Settings that say where a run is computed, not what: it may go on elsewhere."""

log = logging.getLogger(__name__)


def check_start(out: Path, config: TrainConfig, *, resume: bool) -> None:
    """Raise WssegError if a run with these settings may not start or go on in `out`."""
    if out.exists() and not out.is_dir():
        raise WssegError(f"--out {out} is a file; give the name of a folder")
    if config.folds is None and any(out.glob("fold-*")):
        raise WssegError(f"{out} holds the folds of a cross-validation: give another --out")
    # Settings alone are of a run that was stopped within its first epoch: nothing to lose.
    held = [name for name in (RECORD, STATE) if (out / name).exists()]
    if held and not resume:
        raise WssegError(
            f"{out} already holds a run ({held[0]}): give another --out, or --resume to go on "
            "with it"
        )
    before = settings_of(out)
    if before is not None and resume:
        _require_same(before, config, out)
    elif held:
        raise WssegError(f"{out} has no {CONFIG}, so it cannot be resumed: give another --out")
    elif resume:
        log.warning("%s holds no run to go on with: a new one begins", out)


def settings_of(out: Path) -> TrainConfig | None:
    """The settings of the run in a folder, None where it has begun none.

    Raises WssegError for settings of another version.
    """
    return _read_config(out / CONFIG) if (out / CONFIG).exists() else None


def complete(out: Path, cases: Path, cases_sha256: str) -> RunRecord | None:
    """The record of a run that is complete, None for one that is not.

    Raises WssegError if it was trained on another table than `cases`.
    """
    if not (out / RECORD).exists():
        return None
    record = read_record(out)
    require_same_cases(record.cases_sha256, cases, cases_sha256)
    log.info("%s is complete: epoch %d of %d was kept", out, record.chosen_epoch, record.epochs)
    return record


def started(out: Path, cases: Path, cases_sha256: str) -> dict[str, Any] | None:
    """The state after the last whole epoch of an unfinished run, None if there is none.

    Raises WssegError if it was trained on another table than `cases`.
    """
    if not (out / STATE).exists():
        log.info("no epoch of a run in %s is finished: starting at the first", out)
        return None
    state = read_state(out / STATE)
    require_same_cases(state["given"]["cases_sha256"], cases, cases_sha256)
    return state


def require_same_cases(before: str, cases: Path, now: str) -> None:
    """Raise WssegError if a run's table of cases is not, byte for byte, the one given now."""
    if before != now:
        raise WssegError(
            f"{cases.name} has changed since the run began (sha256 {before[:12]}, now "
            f"{now[:12]}): restore it, or train again with another --out"
        )


def sweep(out: Path) -> None:
    """Remove what a killed run was writing."""
    for scratch in out.glob(".tmp-*"):
        shutil.rmtree(scratch)
    if (out / RECORD).exists():
        (out / AVERAGED).unlink(missing_ok=True)


def keep_config(config: TrainConfig, out: Path) -> None:
    """Write the settings of a run that begins."""
    with atomic(out / CONFIG) as partial:
        write_config(config, partial)


def keep_record(record: RunRecord, out: Path) -> None:
    """Write run.json, whose presence says that the run is complete."""
    with atomic(out / RECORD) as partial:
        partial.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _read_config(path: Path) -> TrainConfig:
    try:
        return TrainConfig.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise WssegError(
            f"{path} is not the settings of a run of this version: give another --out"
        ) from error


def _require_same(before: TrainConfig, now: TrainConfig, out: Path) -> None:
    old, new = before.model_dump(mode="json"), now.model_dump(mode="json")
    changed = [
        f"{name} was {old[name]}, now {new[name]}"
        for name in old
        if name not in MAY_CHANGE and old[name] != new[name]
    ]
    if changed:
        raise WssegError(
            f"the run in {out} has other settings: {'; '.join(changed)}. Resume it without these "
            "settings, or train with another --out"
        )
