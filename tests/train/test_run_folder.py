"""When a run may start or go on in a folder, and what is said when it may not."""

import pytest

from wsseg.imaging import WssegError
from wsseg.train.config import TrainConfig
from wsseg.train.run_folder import check_start, keep_config, save_state, settings_of, started, sweep


def test_a_run_starts_in_a_new_folder_or_one_without_a_run(tmp_path):
    (tmp_path / "notes.txt").write_text("kept")
    check_start(tmp_path, TrainConfig(), resume=False)
    check_start(tmp_path / "new", TrainConfig(), resume=True)


@pytest.mark.parametrize("name", ["run.json", "last.pt"])
def test_a_folder_that_holds_a_run_is_refused_without_resume(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(WssegError, match=r"already holds a run.*another --out, or --resume"):
        check_start(tmp_path, TrainConfig(), resume=False)


def test_settings_of_a_run_that_finished_no_epoch_give_way_to_others(tmp_path):
    keep_config(TrainConfig(seed=1), tmp_path)
    check_start(tmp_path, TrainConfig(seed=2), resume=False)
    keep_config(TrainConfig(seed=2), tmp_path)
    assert settings_of(tmp_path) == TrainConfig(seed=2)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(WssegError, match="is a file"):
        check_start(tmp_path / "run", TrainConfig(), resume=False)


def test_resuming_with_other_settings_names_them_with_both_values(tmp_path):
    keep_config(TrainConfig(learning_rate=0.01), tmp_path)
    now = TrainConfig(learning_rate=0.02, seed=4)
    with pytest.raises(WssegError, match=r"learning_rate was 0.01, now 0.02; seed was 0, now 4"):
        check_start(tmp_path, now, resume=True)


def test_a_run_may_go_on_with_other_devices(tmp_path):
    keep_config(TrainConfig(devices=1, workers=0), tmp_path)
    check_start(tmp_path, TrainConfig(devices=2, workers=4, accelerator="cpu"), resume=True)


def test_settings_that_cannot_be_read_are_an_error(tmp_path):
    (tmp_path / "config.json").write_text('{"learning_rat": 1}')
    with pytest.raises(WssegError, match="not the settings of a run"):
        check_start(tmp_path, TrainConfig(), resume=True)


def test_a_table_that_changed_since_is_refused(tmp_path):
    save_state({"given": {"cases_sha256": "a" * 64}}, tmp_path / "last.pt")
    cases = tmp_path / "cases.csv"
    with pytest.raises(WssegError, match=r"cases.csv has changed.*aaaaaaaaaaaa, now bbbbbbbbbbbb"):
        started(tmp_path, cases, "b" * 64)
    state = started(tmp_path, cases, "a" * 64)
    assert state is not None
    assert started(tmp_path / "new", cases, "b" * 64) is None


def test_what_a_killed_run_was_writing_is_swept_away(tmp_path):
    (tmp_path / ".tmp-abc").mkdir()
    (tmp_path / ".tmp-abc" / "last.pt").write_text("half")
    (tmp_path / "last.pt").write_text("whole")
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
