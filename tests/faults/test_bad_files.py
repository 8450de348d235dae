"""One bad file among sound series costs its own result, and theirs not a byte."""

from pathlib import Path

import pytest

from bench.reliability.bad_files import KINDS
from bench.reliability.command import Done, infer, rows
from bench.reliability.scans import write_series
from tests.serve.conftest import failures, label_maps, run

pytestmark = pytest.mark.slow
MIB = 1 << 20
LIMITS = {"max_scan_mb": 1, "max_inflated_mb": 1, "read_seconds": 2.0}
"""So low that a bomb that nothing else would notice is one."""
SMALL_BOMB, BOMB = 4 * MIB, 64 * MIB
MOST_MEGABYTES = 100


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_series(tmp_path_factory.mktemp("sound") / "sound", 4, slices=2)


@pytest.fixture(scope="module")
def undisturbed(model: Path, sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the sound series alone."""
    out = tmp_path_factory.mktemp("undisturbed")
    summary = run(model, out / "ratios.csv", sound, masks=out / "masks", **LIMITS)
    assert summary.exit_code == 0
    return out


def maps(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in label_maps(folder / "masks")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_file_is_one_failure_and_the_rows_of_others_stay_the_same(
    model: Path, sound: Path, undisturbed: Path, tmp_path: Path, kind: str
):
    bad = KINDS[kind]
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for folder in sound.iterdir():
        (inputs / folder.name).symlink_to(folder)
    (inputs / "bad").mkdir()
    bad.write(inputs / "bad" / "bad", SMALL_BOMB)
    out = tmp_path / "out"
    summary = run(model, out / "ratios.csv", inputs, masks=out / "masks", **LIMITS)
    assert rows(out / "ratios.csv") == rows(undisturbed / "ratios.csv")
    assert maps(out) == maps(undisturbed)
    (failure,) = failures(out / "ratios.csv")
    assert failure["reason"] in bad.reasons
    assert failure["source"].startswith("bad/bad")
    assert (failure["status"], summary.exit_code) == (
        ("skipped", 0) if bad.skipped else ("failed", 8)
    )


def measured(model: Path, inputs: Path, out: Path) -> Done:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in LIMITS.items()]
    return infer("--model", model, "--report", out / "ratios.csv", *options, inputs)


def test_bad_files_of_all_kinds_at_once_take_little_memory(
    model: Path, sound: Path, tmp_path: Path
):
    usual = measured(model, sound, tmp_path / "usual")
    for index, bad in enumerate(KINDS.values()):
        folder = tmp_path / "inputs" / f"bad-{index:02d}"
        folder.mkdir(parents=True)
        bad.write(folder / "bad", BOMB)
    (tmp_path / "inputs" / "sound").symlink_to(sound)
    done = measured(model, tmp_path / "inputs", tmp_path / "out")
    assert (usual.code, done.code) == (0, 8), done.log
    assert len(failures(tmp_path / "out" / "ratios.csv")) == len(KINDS)
    assert done.megabytes - usual.megabytes < MOST_MEGABYTES
