"""One process at a time on one output, whatever became of the one before."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from wsseg.imaging import WssegError, lock_output

HOLDER = """
import sys
from pathlib import Path
from wsseg.imaging.files import lock_output
with lock_output(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the output until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "out")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_an_output_that_another_process_holds_is_refused_until_it_lets_go(holder, tmp_path):
    with pytest.raises(WssegError, match="busy"), lock_output(tmp_path / "out", "busy"):
        pass
    with lock_output(tmp_path / "another", "busy"):
        pass
    holder.communicate()
    with lock_output(tmp_path / "out", "busy"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_killed_process_holds_nothing(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lock_output(tmp_path / "out", "busy"):
        pass
    assert not list(tmp_path.iterdir())


def test_of_many_at_once_never_two_hold_it(tmp_path):
    inside, most, start = [], [], Barrier(8)

    def attempt(_number):
        start.wait()
        for _ in range(200):
            try:
                with lock_output(tmp_path / "out", "busy"):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
            except WssegError:
                pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(attempt, range(8)))
    assert most
    assert max(most) == 1


def test_a_place_where_nothing_may_be_written_is_left_to_the_work_itself(tmp_path):
    (tmp_path / "file").write_text("")
    with lock_output(tmp_path / "file" / "out", "busy"):
        pass


def test_a_folder_is_one_under_two_names(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with (
        lock_output(tmp_path / "out", "busy"),
        pytest.raises(WssegError, match="busy"),
        lock_output(tmp_path / "link", "busy"),
    ):
        pass
