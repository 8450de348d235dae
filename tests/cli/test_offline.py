"""No command makes a connection, a look-up, or a file that it was not asked for."""

import gzip
import re
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


def _run_every_command(watch: Watch) -> None:
    """As a user would, each once; of the demo what is its own."""
    out, pictures = watch.outputs, watch.folder / "pictures"
    pictures.mkdir()
    outlined = write_outlined(pictures, 8)
    watch.run("wsseg", "marks", outlined, "--out", out / "cases", "--percent", 8)
    cases, image = out / "cases" / "cases.csv", pictures / "image0.png"
    watch.run("wsseg", "cases", "check", cases, "--picture", out / "cases.png")
    watch.run(
        "wsseg-train", cases, "--out", out / "run", "--network", "mobilenet_v2", "--size", 32,
        "--epochs", 1, "--batch", 4, "--accelerator", "cpu", "--precision", "fp32",
        "--devices", 2,
    )  # fmt: skip
    watch.run(
        "wsseg-export", out / "run", "--out", out / "model", "--torch", "--precision", "fp32",
        "--precision", "int8", "--calibration", pictures, "--threshold", 0.1,
        "--triton", out / "repository",
    )  # fmt: skip
    watch.run("python", "-c", DEMO_SCANS, out)
    for engine, scans in {"onnxruntime": out / "scans", "openvino": image}.items():
        watch.run(
            "wsseg-infer", scans, "--model", out / "model", "--engine", engine, "--report",
            out / f"{engine}.csv", "--masks", out / "masks", "--overlays", out / "overlays",
        )  # fmt: skip
    watch.run("wsseg", "bench", out / "model", "--torch", "--rounds", 1, "--side", 64)
    watch.run("wsseg", "doctor")


@pytest.mark.slow
def test_no_command_asks_the_network_leaves_a_file_or_tells_of_the_machine_and_its_user(tmp_path):
    watch = Watch(tmp_path / "watched")
    _run_every_command(watch)
    assert watch.tried == []
    assert watch.left() == []
    assert {"model.json", "model.onnx", "model.int8.onnx", "model.pt2", "config.pbtxt"} <= {
        path.name for path in watch.outputs.rglob("*")
    }
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
