"""No command makes a connection, a look-up, or a file that it was not asked for."""

import gzip
import re
import shlex
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import write_outlined
from tests.cli.watch import Watch, names

ROOT = Path(__file__).parents[2]
DEMO_SCANS = """
import sys
from pathlib import Path
from wsseg.cli import demo_data
from wsseg.imaging.privacy import keep_caches_private
keep_caches_private()
out = Path(sys.argv[1])
demo_data.write_scans(demo_data.load(out / "template"), out / "scans")
"""
# Command lines, one after another as their console scripts run them: to import PyTorch anew for
# each would take most of the time.
IN_ONE_PROCESS = """
import shlex
import sys
from importlib.metadata import entry_points
for line in sys.argv[1:]:
    sys.argv = shlex.split(line)
    (script,) = entry_points(group="console_scripts", name=sys.argv[0])
    try:
        script.load()()
    except SystemExit as ended:
        if ended.code:
            raise
"""


def _run_every_command(watch: Watch) -> None:
    """Each once, of the demo what is its own: what PyTorch computes, and then the hospital's."""
    out, pictures = watch.outputs, watch.folder / "pictures"
    pictures.mkdir()
    outlined, cases = write_outlined(pictures, 8), out / "cases" / "cases.csv"
    lines = (
        ("wsseg", "marks", outlined, "--out", out / "cases", "--percent", 8),
        ("wsseg", "cases", "check", cases, "--picture", out / "cases.png"),
        (
            "wsseg-train", cases, "--out", out / "run", "--network", "mobilenet_v2", "--size", 32,
            "--epochs", 1, "--batch", 4, "--accelerator", "cpu", "--precision", "fp32",
            "--devices", 2,
        ),
        (
            "wsseg-export", out / "run", "--out", out / "model", "--torch", "--precision", "fp32",
            "--precision", "int8", "--calibration", pictures, "--threshold", 0.1,
            "--triton", out / "repository",
        ),
        ("wsseg", "bench", out / "model", "--torch", "--rounds", 1, "--side", 64),
        ("wsseg", "doctor"),
    )  # fmt: skip
    watch.run("python", "-c", IN_ONE_PROCESS, *(shlex.join(map(str, line)) for line in lines))
    watch.run("python", "-c", DEMO_SCANS, out)
    for engine, scans in {
        "onnxruntime": out / "scans",
        "openvino": pictures / "image0.png",
    }.items():
        watch.run(
            "wsseg-infer", scans, "--model", out / "model", "--engine", engine, "--report",
            out / f"{engine}.csv", "--masks", out / "masks", "--overlays", out / "overlays",
        )  # fmt: skip
    # With itself: a report is a table of ratios too.
    report, agreement = out / "onnxruntime.csv", out / "agreement.csv"
    watch.run("wsseg", "agree", report, report, "--out", agreement, "--plots", out / "plots")


@pytest.mark.slow
def test_no_command_asks_the_network_leaves_a_file_or_tells_of_the_machine_and_its_user(tmp_path):
    watch = Watch(tmp_path / "watched")
    _run_every_command(watch)
    assert watch.tried == []
    assert watch.left() == []
    assert {
        "agreement.txt",
        "cases.png",
        "model.json",
        "model.onnx",
        "model.int8.onnx",
        "model.pt2",
        "config.pbtxt",
    } <= {path.name for path in watch.outputs.rglob("*")}
    assert _telling(watch) == []


def test_the_watch_sees_a_look_up_and_a_file(tmp_path):
    watch = Watch(tmp_path)
    watch.run("python", "-c", "open('here', 'w')")
    assert [path.name for path in watch.left()] == ["here"]
    assert len(watch.tried) == 1
    assert "here" in watch.tried[0]
    ask = "import socket; socket.getaddrinfo('nowhere.invalid', 80)"
    watch.run("python", "-c", ask, code=1)
    assert any("/etc/hosts" in what for what in watch.tried)


@pytest.mark.slow
def test_the_watch_sees_what_libraries_do_where_the_user_lets_them(tmp_path):
    watch = Watch(tmp_path)
    program = "import wsseg.serve.engines.openvino as engine; engine.no_openvino()"
    watch.run("python", "-c", program)
    assert watch.left() == []
    if watch.alone:  # nothing can leave
        watch.run("python", "-c", program, WSSEG_TELEMETRY="1")
        assert watch.left()


def _contents(path: Path) -> Iterator[bytes]:
    """What a file holds, unpacked too where it is an archive."""
    yield path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    elif path.suffix == ".gz":
        yield gzip.decompress(path.read_bytes())


def _telling(watch: Watch) -> list[str]:
    """Outputs that hold folders of this machine, its name, or its user's."""
    words = [*names(), str(watch.folder), str(ROOT), sys.prefix, "site-packages"]
    told = re.compile("|".join(map(re.escape, words)).encode())
    found = []
    for path in sorted(watch.outputs.rglob("*")):
        name = str(path.relative_to(watch.outputs))
        contents = [name.encode(), *(_contents(path) if path.is_file() else ())]
        found += [f"{name}: {word.group()!r}" for b in contents if (word := told.search(b))]
    return found
