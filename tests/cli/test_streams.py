"""What becomes of a command whose terminal is gone, whose log a machine reads, or whose inputs have
names that a terminal would obey."""

import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from tests.serve.conftest import write_model, write_pictures
from wsseg.cli.console import console, start_logging
from wsseg.cli.main import infer_main
from wsseg.cli.streams import printable, safe_streams

INFER = "from wsseg.cli.main import infer_main; infer_main()"
RED = "\x1b[31mred\x1b[0m"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and two scans."""
    folder = tmp_path_factory.mktemp("work")
    write_model(folder / "model")
    write_pictures(folder / "scans", 2)
    return folder


def infer(work: Path, report: Path, *more: str, start: str = "") -> list[str]:
    """The command line of wsseg-infer. start: code that runs in its process before it."""
    arguments = [str(work / "scans"), "--model", str(work / "model"), "--report", str(report)]
    return [sys.executable, "-c", start + INFER, *arguments, *more]


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["2>/dev/full", "<&- >&- 2>&-", "2>&1 | head -c 0"])
def test_a_terminal_that_is_gone_or_full_costs_no_report(
    work: Path, tmp_path: Path, redirection: str
):
    report = tmp_path / "ratios.csv"
    shell = f'set -o pipefail; "$@" {redirection}'
    subprocess.run(["bash", "-c", shell, "bash", *infer(work, report)], check=True)
    assert len(report.read_text().splitlines()) == 7  # of two scans, three ratios each


def test_a_long_message_in_a_file_is_one_line_with_its_time(capsys: pytest.CaptureFixture[str]):
    start_logging()
    logging.getLogger("wsseg").warning("a name \x1b[31m of %s", "many letters " * 20)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ WARNING a name \\x1b\[31m of many", line)


@pytest.mark.slow
def test_what_a_command_is_run_for_must_be_printed(tmp_path: Path):
    full = f"{sys.executable} -c 'from wsseg.cli.main import main; main()' info --json >/dev/full"
    done = subprocess.run(["bash", "-c", full], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert done.stderr == ("error: standard output could not be written: No space left on device\n")


@pytest.mark.slow
def test_a_terminal_that_hangs_up_leaves_a_run_that_can_go_on(work: Path, tmp_path: Path):
    report = tmp_path / "ratios.csv"
    parent, child = pty.openpty()
    start = "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.setsid();"
    running = subprocess.Popen(infer(work, report, start=start), stdout=child, stderr=child)
    os.close(child)
    os.close(parent)  # from here on, writing to the terminal is an error of input and output
    assert running.wait() == 0
    assert len(report.read_text().splitlines()) == 7  # of two scans, three ratios each


@pytest.mark.slow
def test_a_terminal_shows_a_name_and_does_not_obey_it(work: Path, tmp_path: Path):
    parent, child = pty.openpty()
    command = infer(work, tmp_path / "ratios.csv", f"{RED}\u202e.png")
    running = subprocess.Popen(command, stdout=child, stderr=child)
    os.close(child)
    with os.fdopen(parent, "rb", buffering=0) as terminal:
        chunks = []
        with suppress(OSError):  # the end of a terminal that nobody has open
            while chunk := terminal.read(1 << 16):
                chunks.append(chunk)
    told = b"".join(chunks).decode()
    assert running.wait() == 2
    assert r"\x1b[31mred\x1b[0m\u202e.png does not exist" in told
    assert RED not in told


@pytest.mark.usefixtures("_own_log")
def test_logs_and_tables_of_text_from_files_have_no_escape_sequences(
    capsys: pytest.CaptureFixture[str],
):
    start_logging()
    logging.getLogger("wsseg").warning("class %s", RED)
    table = Table("class")
    table.add_row(RED)
    console().print(table)
    told = capsys.readouterr()
    for text in (told.out, told.err):
        assert r"\x1b[31mred" in text
        assert RED not in text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("Müller 漢字 é\n\tnext", "Müller 漢字 é\n\tnext"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("over\rwritten", r"over\rwritten"),
        ("\x9b31m", r"\x9b31m"),
        ("gnp.\u202eexe", r"gnp.\u202eexe"),
        ("two\u2028lines", r"two\u2028lines"),
        ("old\udcff name", r"old\udcff name"),
    ],
)
def test_text_is_shown_and_not_obeyed(raw: str, shown: str):
    assert printable(raw) == shown


@pytest.fixture
def _own_log() -> Iterator[None]:
    """A command keeps its log to itself; in this process other tests listen to that log."""
    yield
    log = logging.getLogger("wsseg")
    log.handlers.clear()
    log.setLevel(logging.NOTSET)
    log.propagate = True


def told_by(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[int, list[dict[str, Any]]]:
    """The exit code of wsseg-infer in this process, and the objects of its log."""
    monkeypatch.setattr(sys, "argv", ["wsseg-infer", *command[3:]])
    with pytest.raises(SystemExit) as end:
        infer_main()
    told = capfd.readouterr()
    assert told.out == ""
    return int(end.value.code or 0), objects(told.err)


@pytest.mark.usefixtures("_own_log")
@pytest.mark.parametrize(
    ("more", "code"),
    [
        ((), 0),
        (("--nonsense",), 2),
        (("--batch", "0"), 2),
        (("missing \u2028\x1b[31m.png",), 2),
        (("--engine", "torch"), 2),
    ],
)
def test_a_log_for_machines_is_json_on_every_exit_and_ends_with_its_code(
    work: Path,
    tmp_path: Path,
    more: tuple[str, ...],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    command = infer(work, tmp_path / "ratios.csv", "--json-log", *more)
    ended, lines = told_by(command, monkeypatch, capfd)
    assert (ended, lines[-1]["event"], lines[-1]["exit_code"]) == (code, "exit", code)


def _crash(*_: object, **__: object) -> None:
    raise LookupError("a bug")


def _stop(*_: object, **__: object) -> None:
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("_own_log")
@pytest.mark.parametrize(
    ("happens", "code", "event"), [(_crash, 1, None), (_stop, 130, "interrupted")]
)
def test_a_crash_and_a_polite_kill_are_json_too(
    work: Path,
    tmp_path: Path,
    happens: Callable[..., None],
    code: int,
    event: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.setattr("wsseg.model.infer", happens)
    command = infer(work, tmp_path / "ratios.csv", "--json-log")
    ended, (*_, said, last) = told_by(command, monkeypatch, capfd)
    assert (ended, last["exit_code"], said.get("event")) == (code, code, event)
    assert ("traceback" in said) == (code == 1)


def test_what_libraries_write_past_python_is_json(capfd: pytest.CaptureFixture[str]):
    with safe_streams(as_json=True) as ended:
        os.write(2, b"\x1b[0;93mwarning \xff of a library\x1b[m\n")
        sys.stderr.write("half a ")
        sys.stderr.write("line\n")
        ended(8)
    told = sorted(objects(capfd.readouterr().err), key=lambda line: "event" in line)
    assert {line["message"] for line in told[:2]} == {r"warning \xff of a library", "half a line"}
    assert told[2]["exit_code"] == 8
