"""--follow: folders are measured as their scans become complete, to the tables of one run."""

import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.serve.conftest import ThresholdEngine, label_maps, picture, write_pictures, write_volume
from wsseg.imaging import WssegError
from wsseg.serve import follow as module
from wsseg.serve import journal
from wsseg.serve.follow import follow
from wsseg.serve.infer import Summary, infer
from wsseg.serve.journal import journal_path
from wsseg.serve.options import InferOptions

COMMAND = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from wsseg.cli.main import infer_main; infer_main()"
)
SETTLE = 0.2

Step = Callable[[], object]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the clock and the reports of the system more often than a user needs."""
    monkeypatch.setattr(module, "_TICK_MS", 50)
    monkeypatch.setattr(module, "_STEP_MS", 10)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    write_pictures(folder, 3)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def rounds(
    model: Path, inputs: Path, out: Path, *steps: Step, **options
) -> tuple[list[Summary], ThresholdEngine]:
    """Follow a folder; after each round comes a step, and after the last step an interrupt."""
    engine, summaries, left = ThresholdEngine(), list[Summary](), list(steps)

    def ended(summary: Summary) -> None:
        summaries.append(summary)
        left.pop(0)()
        if not left:
            raise KeyboardInterrupt

    chosen = InferOptions(
        model=model, report=out / "ratios.csv", follow=True, **({"settle": SETTLE} | options)
    )
    with pytest.raises(KeyboardInterrupt):
        follow([inputs], chosen, engine=lambda: engine, on_round=ended)
    return summaries, engine


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("ratios*.csv"))}


def of_one_run(model: Path, inputs: Path, folder: Path) -> dict[str, bytes]:
    options = InferOptions(model=model, report=folder / "ratios.csv", overwrite=True)
    infer([inputs], options, engine=ThresholdEngine)
    return tables(folder)


@pytest.mark.slow
def test_each_round_gives_the_tables_of_one_run_and_measures_only_what_changed(
    model, inputs, out, tmp_path
):
    def as_one_run() -> None:
        assert tables(out) == of_one_run(model, inputs, tmp_path / "whole")

    def add() -> None:
        as_one_run()
        write_volume(inputs / "volume.nii.gz", np.stack([picture(5), picture(6)]))
        (inputs / "later").mkdir()
        (inputs / "later" / "broken.nii.gz").write_bytes(b"\x1f\x8b half")

    def change() -> None:
        as_one_run()
        shutil.copy(inputs / "001.png", inputs / "000.png")
        (inputs / "002.png").unlink()

    summaries, engine = rounds(model, inputs, out, add, change, as_one_run)
    assert [(each.scans, each.resumed) for each in summaries] == [(3, 0), (4, 3), (3, 2)]
    assert sum(shape[0] for shape in engine.shapes) == 3 + 2 + 1
    assert journal_path(out / "ratios.csv").exists()


@pytest.mark.slow
def test_a_later_run_goes_on_and_discards_nothing(model, inputs, out):
    rounds(model, inputs, out, lambda: None)
    before = tables(out)
    (summary,), engine = rounds(model, inputs, out, lambda: None)
    assert (summary.scans, summary.resumed, engine.shapes) == (3, 3, [])
    assert tables(out) == before
    journal_path(out / "ratios.csv").unlink()
    with pytest.raises(WssegError, match="is there already"):
        rounds_of_error(model, inputs, out)
    rounds(model, inputs, out, lambda: None, overwrite=True)


def rounds_of_error(model: Path, inputs: Path, out: Path, **options) -> None:
    chosen = InferOptions(model=model, report=out / "ratios.csv", **({"follow": True} | options))
    follow([inputs], chosen, engine=ThresholdEngine)


@pytest.mark.slow
def test_label_maps_are_compared_once_and_a_damaged_one_is_made_again(
    model, inputs, out, monkeypatch
):
    compared: list[str] = []
    file_state = journal.file_state

    def counted(path: Path) -> journal.FileState:
        compared.append(path.name)
        return file_state(path)

    monkeypatch.setattr(journal, "file_state", counted)

    def damage() -> None:
        label_maps(out / "masks")[0].write_bytes(b"damaged")
        touch()

    def touch() -> None:
        (inputs / "notes.txt").write_text(f"{time.monotonic()}")

    summaries, _ = rounds(
        model, inputs, out, touch, touch, damage, lambda: None, masks=out / "masks"
    )
    assert [each.resumed for each in summaries] == [0, 3, 3, 2]
    assert sorted(compared) == ["000.png", "001.png", "002.png"]  # sizes tell the damaged one
    assert label_maps(out / "masks")[0].read_bytes() != b"damaged"


def test_an_empty_folder_has_tables_without_rows(model, tmp_path, out):
    (tmp_path / "empty").mkdir()
    (summary,), _ = rounds(model, tmp_path / "empty", out, lambda: None)
    assert (summary.scans, summary.exit_code) == (0, 3)
    assert tables(out)["ratios.csv"].startswith(b"source,")


def test_a_second_run_on_the_report_is_refused_until_the_first_ends(model, inputs, out):
    options = InferOptions(model=model, report=out / "ratios.csv", overwrite=True)

    def start_another() -> None:
        with pytest.raises(WssegError, match="another run is writing"):
            infer([inputs], options, engine=ThresholdEngine)
        with pytest.raises(WssegError, match="another run is writing"):
            rounds_of_error(model, inputs, out)

    rounds(model, inputs, out, start_another)
    infer([inputs], options, engine=ThresholdEngine)


def test_looking_in_vain_logs_nothing(model, inputs, out, monkeypatch, log):
    looks: list[int] = []
    look = module._look

    def counted(*watched):
        looks.append(len(log.records))
        if len(looks) == 8:
            raise KeyboardInterrupt
        return look(*watched)

    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(module, "_look", counted)
    log.set_level(logging.INFO, "wsseg")
    chosen = InferOptions(model=model, report=out / "ratios.csv", follow=True, settle=0.0)
    with pytest.raises(KeyboardInterrupt):
        follow([inputs], chosen, engine=ThresholdEngine)
    assert looks[-1] == looks[2]


@pytest.mark.parametrize(("shared", "poll"), [(True, False), (False, True)])
def test_a_share_or_poll_needs_no_reports_of_the_system(
    model, inputs, out, monkeypatch, shared, poll
):
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    monkeypatch.setattr(module, "is_share", lambda _: shared)
    more = lambda: shutil.copy(inputs / "000.png", inputs / "more.png")  # noqa: E731
    summaries, _ = rounds(model, inputs, out, more, lambda: None, poll=poll)
    assert [each.scans for each in summaries] == [3, 4]


def test_without_the_package_the_extra_is_named(model, inputs, out, monkeypatch):
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(WssegError, match=r"pip install 'wsseg\[follow\]'"):
        rounds_of_error(model, inputs, out)


def test_where_the_system_watches_no_more_folders_they_are_listed(
    model, inputs, out, monkeypatch, log
):
    import watchfiles

    def refused(*_, **__):
        raise OSError("OS file watch limit reached.")
        yield

    monkeypatch.setattr(watchfiles, "watch", refused)
    rounds(model, inputs, out, lambda: shutil.copy(inputs / "000.png", inputs / "x.png"), print)
    assert log.text.count("watch limit reached") == 1


@pytest.mark.slow
def test_a_folder_that_is_away_for_a_while_costs_no_row(model, inputs, out, monkeypatch, log):
    away = inputs.with_name("away")

    def unmount() -> None:
        inputs.rename(away)

    def mount(_: float) -> None:
        if away.exists() and "is not there" in log.text:
            away.rename(inputs)
            shutil.copy(inputs / "000.png", inputs / "more.png")
        sleep(0.05)

    sleep = time.sleep
    monkeypatch.setattr("wsseg.serve.follow.time.sleep", mount)
    summaries, _ = rounds(model, inputs, out, unmount, lambda: None)
    assert [each.scans for each in summaries] == [3, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"known_ratios": Path("known.csv")}, "--known-ratios cannot be given with --follow"),
        ({"reference": Path("recorded.csv")}, "--reference cannot be given with --follow"),
        ({"previous": (Path("old.csv"),)}, "--previous cannot be given with --follow"),
        ({"identify": Path("keys.csv")}, "--identify cannot be given with --follow"),
        ({"shard": "1/2"}, "--shard cannot be given with --follow"),
        ({"masks": Path("inputs/masks")}, "lies inside the input folder"),
        ({"report": Path("inputs/ratios.csv")}, "lies inside the folder"),
        ({"follow": False, "poll": True}, "belong to --follow"),
        ({"follow": False, "settle": 3.0}, "belong to --follow"),
    ],
)
def test_what_has_no_meaning_is_refused_before_any_scan(
    model, inputs, out, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    chosen = {"model": model, "report": out / "ratios.csv", "follow": True} | options
    with pytest.raises(WssegError, match=message):
        follow([Path("inputs")], InferOptions.model_validate(chosen), engine=ThresholdEngine)


@pytest.mark.parametrize(("name", "state"), [("000.png", "is a file"), ("none", "does not exist")])
def test_only_folders_are_followed(model, inputs, out, name, state):
    with pytest.raises(WssegError, match=f"{name} {state}"):
        rounds_of_error(model, inputs / name, out)


def test_no_descriptor_and_no_thread_is_left_by_a_round(model, inputs, out):
    held: list[int] = []

    def count() -> None:
        held.append(sum(len([*Path("/proc/self", kind).iterdir()]) for kind in ("fd", "task")))
        (inputs / "notes.txt").write_text(f"{len(held)}")

    rounds(model, inputs, out, *[count] * 5, settle=0.0)
    assert len(set(held[1:])) == 1


@pytest.mark.slow
def test_a_command_that_is_stopped_leaves_tables_and_goes_on_later(model, inputs, out):
    arguments = ["--model", model, "--report", out / "ratios.csv", "--masks", out / "masks"]
    arguments += ["--device", "cpu", "--json-log", "--follow", "--settle", SETTLE, inputs]
    command = [sys.executable, "-c", COMMAND, *map(str, arguments)]

    def stop_at(scans: int, number: int) -> tuple[str, list[tuple[object, object]]]:
        logged, ended = "", []
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                logged += line
                entry = json.loads(line)
                if entry.get("event") == "run_ended":
                    ended.append((entry["scans"], entry["resumed"]))
                    if entry["scans"] == scans:
                        process.send_signal(number)
                    else:
                        shutil.copy(inputs / "000.png", inputs / "more.png")
        assert process.returncode == 130
        return logged, ended

    logged, ended = stop_at(4, signal.SIGTERM)
    assert "the same command goes on" in logged
    assert ended == [(3, 0), (4, 3)]
    before = tables(out)
    assert stop_at(4, signal.SIGINT)[1] == [(4, 4)]
    assert tables(out) == before
