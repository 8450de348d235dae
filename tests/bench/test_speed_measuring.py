"""What is measured from outside, what a helper does, and the slices and series it is done on."""

import sys

import numpy as np
import pytest
from PIL import Image

from bench.speed import __main__ as command
from bench.speed.command import Command
from bench.speed.contest import EntrantError, Turn
from bench.speed.helper import Helper
from bench.speed.peers.environments import names, python
from bench.speed.results import Place, read_rows
from bench.speed.scenario import Candidate, Scenario, fixed
from bench.speed.setting import SCALES, Setting
from bench.speed.slices import SIDE, first_series, series_folder, slices_file
from wsseg.imaging import ScanRef, find

MADE = 150_000_000


@pytest.fixture
def setting(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 255, (40, 50), np.uint8)
        Image.fromarray(noise).save(pictures / f"{number}.png")
    return Setting(SCALES["quick"], pictures, tmp_path / "work", tmp_path / "peers", "cpu")


@pytest.mark.slow
def test_a_command_is_measured_with_its_own_memory_and_not_its_callers():
    held = np.ones(3 * MADE, np.uint8)
    line = (sys.executable, "-c", f"import time; x = b'1' * {MADE}; time.sleep(0.2)")
    turn = Command(line, 4)()
    assert turn.count == 4
    assert turn.seconds >= 0.2
    assert turn.peak_mb is not None
    assert MADE / 1e6 <= turn.peak_mb < held.nbytes / 1e6


def test_a_command_that_fails_tells_its_last_lines():
    with pytest.raises(EntrantError, match=r"code 3: .*no such thing"):
        Command((sys.executable, "-c", "print('no such thing'); raise SystemExit(3)"), 1)()


def test_a_peer_tells_its_networks_time_and_must_have_done_all_slices():
    say = "print('noise'); print('{\"slices\": 2, \"seconds_network\": 0.5}')"
    assert Command((sys.executable, "-c", say), 2, tells=True)().inside == 0.5
    with pytest.raises(EntrantError, match="2 of 3 slices"):
        Command((sys.executable, "-c", say), 3, tells=True)()


def test_series_are_made_of_the_real_slices_and_no_two_are_alike(setting):
    assert np.load(slices_file(setting)).shape == (3, SIDE, SIDE)
    folder = series_folder(setting, "whole", series=3, slices=2)
    found = list(find([folder], scratch=setting.work))
    assert [len(scan.files) for scan in found if isinstance(scan, ScanRef)] == [2, 2, 2]
    contents = {path.read_bytes() for path in folder.rglob("*.dcm")}
    assert len(contents) == 6
    part = first_series(folder, 2)
    assert len(list(find([part], scratch=setting.work))) == 2


def test_a_helper_has_its_turns_in_a_process_of_its_own(setting):
    folder = series_folder(setting, "whole", series=2, slices=2)
    with Helper(task="find", folder=str(folder)) as ours:
        first, second = ours(), ours()
    assert (first.count, second.count) == (4, 4)
    assert second.peak_mb is None or second.peak_mb > 10


def test_a_helper_killed_between_its_turns_is_one_that_cannot_take_part(setting):
    folder = series_folder(setting, "whole", series=1, slices=2)
    with Helper(task="find", folder=str(folder)) as ours:
        ours._process.kill()
        ours._process.wait()
        with pytest.raises(EntrantError, match="ended with code -9"):
            ours()


def test_a_helper_that_cannot_work_says_why(tmp_path):
    gone = tmp_path / "gone"
    with pytest.raises(EntrantError, match="gone does not exist"):
        Helper(task="engine", model=str(gone), entry=0, slices="none.npy", batch=1)


def test_a_run_keeps_each_place_and_a_rerun_goes_on(tmp_path, monkeypatch):
    turns = []

    def turn():
        turns.append(1)
        if len(turns) == 2:
            raise EntrantError("broken")
        return Turn(1, 1)

    def candidates(setting, place):
        return [Candidate("made", "", place.size, 1, fixed(turn))]

    places = [Place("made", size, 1) for size in (64, 128)]
    made = Scenario("made", "", "", "", lambda _: places, candidates, lambda _: 1)
    monkeypatch.setattr(command, "SCENARIOS", {"made": made})
    asked = ["--scenarios", "made", "--out", str(tmp_path / "out"), "--work", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        command.main(asked)
    assert ended.value.code == 8
    assert [row.size for row in read_rows(tmp_path / "out")] == [64]
    command.main(asked)
    assert [row.size for row in read_rows(tmp_path / "out")] == [64, 128]
    assert len(turns) == 3
    command.main([*asked, "--redo"])
    assert len(turns) == 5


def test_an_unknown_scenario_names_those_there_are(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main(["--scenarios", "engine", "--work", str(tmp_path)])
    assert "engines" in capsys.readouterr().err


def test_a_peer_without_a_finished_environment_has_no_python(tmp_path):
    assert names() == ["monai", "nnunet", "torchvision"]
    assert python(tmp_path, "monai") is None
