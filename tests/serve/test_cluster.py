"""Scans that are measured by the workers of a Ray cluster, as one run."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

import wsseg
from tests.imaging.conftest import _write_dicom
from tests.serve.conftest import (
    BROKEN_VALUE,
    ThresholdEngine,
    failures,
    picture,
    rows,
    write_pictures,
    write_volume,
)
from wsseg.imaging import FileRef, ScanRef, WssegError
from wsseg.serve.cluster_worker import Work, Worker
from wsseg.serve.engines.base import Prediction
from wsseg.serve.infer import Summary, infer
from wsseg.serve.journal import journal_path
from wsseg.serve.options import InferOptions
from wsseg.serve.ray_connection import LOCAL, Slots, slots_of

CPUS = 2
DEADLY_VALUE = 1234.0
SOCKET_LISTENS = "0A"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A Ray cluster of one machine with two CPUs."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets have short paths
    before = dict(os.environ)
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_TMPDIR": folder,
    }
    from ray.cluster_utils import Cluster

    node = {"num_cpus": CPUS, "include_dashboard": False, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    yield cluster.address
    cluster.shutdown()
    os.environ.clear()
    os.environ.update(before)
    shutil.rmtree(folder, ignore_errors=True)


class DeadlyEngine(ThresholdEngine):
    """Ends its process at a slice whose first pixel is DEADLY_VALUE, or once, if it has a file."""

    def __init__(self, once: Path | None = None) -> None:
        super().__init__()
        self.once = once

    def __call__(self, pixels: NDArray[np.float32], /) -> Prediction:
        if self.once and not self.once.exists():
            self.once.touch()
            os._exit(1)
        if (pixels[:, 0, 0, 0] == DEADLY_VALUE).any():
            os._exit(1)
        return super().__call__(pixels)


def deadly_engine() -> DeadlyEngine:
    return DeadlyEngine()


class Opening:
    """Opens an engine that ends the first process that uses it."""

    def __init__(self, once: Path) -> None:
        self.once = once

    def __call__(self) -> DeadlyEngine:
        return DeadlyEngine(self.once)


def measured(model: Path, folder: Path, inputs: Path, engine: Any, **options: Any) -> Summary:
    more: dict[str, Any] = {"report": folder / "ratios.csv", "masks": folder / "masks"}
    more |= {"cluster_cpus": 1} | options
    if not more.get("cluster"):
        del more["cluster_cpus"]
    return infer([inputs], InferOptions(model=model, **more), engine=engine)


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_each_worker_has_a_gpu_where_there_are_any_and_the_cpus_that_were_asked_for():
    def node(cpus: float, gpus: float = 0, *, alive: bool = True) -> dict[str, Any]:
        return {"Alive": alive, "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})}}

    nodes = [node(16), node(10), node(3), node(64, alive=False)]
    assert slots_of(nodes, cpus=0, device="auto") == Slots(6, 4, 0)
    assert slots_of(nodes, cpus=3, device="auto") == Slots(9, 3, 0)
    assert slots_of([node(2)], cpus=0, device="auto") == Slots(1, 2, 0)
    mixed = [*nodes, node(32, 4), node(4, 2)]
    assert slots_of(mixed, cpus=0, device="auto") == Slots(5, 4, 1)
    assert slots_of(mixed, cpus=0, device="cpu") == Slots(15, 4, 0)
    with pytest.raises(WssegError, match="has 32 CPUs for a worker, at most 16 CPUs"):
        slots_of(nodes, cpus=32, device="auto")
    with pytest.raises(WssegError, match="has a GPU"):
        slots_of(nodes, cpus=1, device="cuda")


def test_a_worker_says_which_files_it_does_not_see(model: Path, tmp_path: Path):
    worker = Worker()
    worker.open(InferOptions(model=model, report=tmp_path / "ratios.csv"), ThresholdEngine)
    places = (tmp_path, tmp_path / "elsewhere")
    assert worker.begin(Work({}, tmp_path, None, places)) == [tmp_path / "elsewhere"]
    unseen = tmp_path / "not-here"
    assert worker.begin(Work({}, unseen, None, ())) == []
    path = write_pictures(tmp_path / "seen", 1) / "000.png"
    refs = [
        ScanRef("picture", (FileRef(unseen / "a.png", "a.zip/a.png"),)),
        ScanRef("picture", (FileRef(path, "000.png"),)),
    ]
    unpacked, plain = worker.measure(refs).outcomes
    assert [(one.source, one.reason) for one in unpacked.failures] == [
        ("a.zip/a.png", "not_shared")
    ]
    assert plain.recorded
    assert plain.recorded.slices[0].origin.source == "000.png"


def test_options_of_a_cluster_belong_together(model: Path, tmp_path: Path):
    inputs = write_pictures(tmp_path / "inputs", 1)
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"cluster_cpus": 2}, "--cluster-cpus belongs to --cluster"),
        ({"cluster": "ray://host:10001"}, "cluster auto"),
        ({"cluster": "127.0.0.1:1"}, "cannot be reached"),
    )
    for options, said in cases:
        settings = InferOptions(model=model, report=tmp_path / "ratios.csv", **options)
        with pytest.raises(WssegError, match=said):
            infer([inputs], settings)
    assert not list(tmp_path.glob("ratios*"))


@pytest.mark.slow
def test_the_files_of_a_cluster_are_those_of_an_ordinary_run(
    address: str, model: Path, tmp_path: Path
):
    inputs = write_pictures(tmp_path / "inputs", 20)
    broken = np.stack([picture(15), picture(16)]).astype(np.float32)
    broken[0, 0, 0] = BROKEN_VALUE
    write_volume(inputs / "003-broken.nii.gz", broken)
    times = np.stack([picture(seed).T for seed in range(4)], -1)[:, :, None]
    nib.save(nib.Nifti1Image(times, np.eye(4)), inputs / "004-times.nii")
    nib.save(nib.Nifti1Image(times, np.eye(4)), inputs / "cut.nii")
    (inputs / "cut.nii").write_bytes((inputs / "cut.nii").read_bytes()[:-10])
    (inputs / "notes.txt").write_text("no image")
    shutil.make_archive(str(inputs / "packed"), "zip", write_pictures(tmp_path / "packed", 2))
    for index in range(2):
        pixels = picture(index).astype(np.int16)
        place = [0.0, 0.0, 2.0 * index]
        _write_dicom(inputs / f"{index}.dcm", pixels, ImagePositionPatient=place)
    known = tmp_path / "known.csv"
    lines = ["source,slice,ratio,ratio_name", *(f"{n:03d}.png,,0.{n}1,bright" for n in range(9))]
    lines += ["gone.png,,0.1,bright", "003-broken.nii.gz,7,0.1,bright"]
    known.write_text("\n".join(lines))
    options: dict[str, Any] = {
        "known_ratios": known,
        "identify": tmp_path / "keys.csv",
        "salt": tmp_path / "salt",
    }
    summaries = []
    for name, cluster in (("ordinary", None), ("cluster", address)):
        more: dict[str, Any] = {
            "report": tmp_path / name / "ratios.csv",
            "cluster": cluster,
            "overwrite": True,
        }
        summary = measured(model, tmp_path / name, inputs, ThresholdEngine, **options, **more)
        summaries.append((summary.scans, summary.slices, summary.failed, summary.recovered))
        (tmp_path / "keys.csv").rename(tmp_path / name / "keys.csv")
    assert summaries[0] == summaries[1] == (27, 28, 4, 9)
    assert files(tmp_path / "cluster") == files(tmp_path / "ordinary")


@pytest.mark.slow
def test_a_worker_that_ends_costs_nothing_and_a_scan_that_ends_it_always_costs_itself(
    address: str, model: Path, tmp_path: Path
):
    inputs = write_pictures(tmp_path / "inputs", 20)
    measured(model, tmp_path / "ordinary", inputs, ThresholdEngine)
    once = Opening(tmp_path / "once")
    measured(model, tmp_path / "once-killed", inputs, once, cluster=address)
    assert once.once.exists()
    assert files(tmp_path / "once-killed") == files(tmp_path / "ordinary")
    deadly = picture(3).astype(np.float32)
    deadly[0, 0] = DEADLY_VALUE
    write_volume(inputs / "010-deadly.nii", deadly[None])
    summary = measured(model, tmp_path / "cluster", inputs, deadly_engine, cluster=address)
    assert (summary.scans, summary.failed, summary.exit_code) == (20, 1, 8)
    report = tmp_path / "cluster" / "ratios.csv"
    assert report.read_bytes() == (tmp_path / "ordinary" / "ratios.csv").read_bytes()
    [failure] = failures(report)
    assert (failure["source"], failure["reason"]) == ("010-deadly.nii", "worker_lost")


@pytest.mark.slow
def test_a_run_on_a_cluster_goes_on_after_an_interrupt(address: str, model: Path, tmp_path: Path):
    inputs = write_pictures(tmp_path / "inputs", 40)
    options: dict[str, Any] = {"batch": 1, "threads": 1}
    measured(model, tmp_path / "whole", inputs, ThresholdEngine, **options)
    report = tmp_path / "out" / "ratios.csv"
    settings = InferOptions(
        model=model, report=report, masks=tmp_path / "out" / "masks", cluster=address,
        cluster_cpus=1, **options,
    )  # fmt: skip

    def stop(done: int, *_: float) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        infer([inputs], settings, engine=ThresholdEngine, on_progress=stop)
    done = len(journal_path(report).read_bytes().splitlines()) - 1
    assert done > 0
    again = settings.model_copy(update={"resume": True})
    assert infer([inputs], again, engine=ThresholdEngine).resumed == done
    assert rows(report) == rows(tmp_path / "whole" / "ratios.csv")


@pytest.mark.slow
def test_a_worker_of_another_version_is_refused(
    address: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    inputs = write_pictures(tmp_path / "inputs", 1)
    monkeypatch.setattr(wsseg, "__version__", "0.0.9")
    with pytest.raises(
        WssegError, match=r"wsseg is 0\.0\.9 here and .* one version on all machines"
    ):
        measured(model, tmp_path / "out", inputs, ThresholdEngine, cluster=address)
    with pytest.raises(WssegError, match="--cluster-cpus a smaller number"):
        measured(model, tmp_path / "out", inputs, None, cluster=address, cluster_cpus=3)
    with pytest.raises(WssegError, match=r"a worker of the cluster cannot open the model.*int8"):
        measured(model, tmp_path / "out", inputs, None, cluster=address, precision="int8")
    assert not (tmp_path / "out").exists()


def descendants(process: int) -> set[int]:
    """A process and all that it has started, as far as they still run."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
        except OSError:
            continue
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listening(processes: set[int]) -> set[str]:
    """The addresses, in hexadecimal, at which these processes listen."""
    inodes = set()
    for process in processes:
        for link in Path(f"/proc/{process}/fd").glob("*"):
            try:
                inodes.add(str(link.readlink()))
            except OSError:
                continue
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path("/proc/net", name).read_text().splitlines()[1:]
    ]
    return {
        cells[1].partition(":")[0]
        for cells in lines
        if cells[3] == SOCKET_LISTENS and f"socket:[{cells[9]}]" in inodes
    }


@pytest.mark.slow
def test_a_cluster_on_this_machine_is_private_and_ends_with_the_run(model: Path, tmp_path: Path):
    inputs = write_pictures(tmp_path / "inputs", 400)
    home = tmp_path / "home"
    temporary = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    home.mkdir()
    command = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from wsseg.cli.main import infer_main; infer_main()"
    )
    given = [inputs, "--model", model, "--report", tmp_path / "ratios.csv", "--cluster", LOCAL]
    run = subprocess.Popen(
        [sys.executable, "-c", command, *map(str, given), "--batch", "1", "--device", "cpu"],
        env={**os.environ, "HOME": str(home), "TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        text=True,
    )
    journal = journal_path(tmp_path / "ratios.csv")
    while run.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 1):
        time.sleep(0.05)
    processes = descendants(run.pid)
    addresses = listening(processes)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130, said
    assert "--resume" in said
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}
    assert addresses
    assert journal.exists()
    assert list(home.iterdir()) == []
    assert list(temporary.iterdir()) == []
    for _ in range(100):
        if not any(Path(f"/proc/{process}").exists() for process in processes):
            break
        time.sleep(0.1)
    assert [p for p in processes if Path(f"/proc/{p}/cmdline").exists()] == []
    temporary.rmdir()


@pytest.mark.slow
def test_a_polite_kill_after_the_cluster_is_closed_reaches_its_handler():
    script = (
        "import os, signal; from wsseg.serve.ray_connection import connected; "
        "from wsseg.imaging.scratch import scratch_folder; "
        "signal.signal(signal.SIGTERM, lambda *_: print('handled', flush=True))\n"
        "with scratch_folder() as scratch, connected('local', scratch): pass\n"
        "os.kill(os.getpid(), signal.SIGTERM)"
    )
    ended = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stdout) == (0, b"handled\n")
