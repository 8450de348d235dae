import csv
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from tests.cli.conftest import blob, call
from wsseg.cli.console import guarded
from wsseg.serve.report import Provenance

MADE_BY = Provenance("model", "0" * 64, "cpu", "fp32", "1.0")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_marks_train_and_export_leave_what_their_help_promises(job: Path):
    assert {
        "weights.safetensors", "run.json", "metrics.csv", "curves.png", "examples.png", "tb"
    } <= {path.name for path in (job / "run").iterdir()}  # fmt: skip
    assert {"model.json", "card.json", "model.onnx", "model.fp16.onnx"} <= {
        path.name for path in (job / "model").iterdir()
    }
    assert len(rows(job / "run" / "metrics.csv")) == 2


@pytest.mark.slow
def test_a_student_says_how_it_compares_and_its_model_names_its_teacher(job: Path, tmp_path: Path):
    said = call(
        "train", job / "cases" / "cases.csv", "--out", tmp_path / "run", "--distill", job / "run",
        "--network", "mobilenet_v2", "--size", 32, "--epochs", 1, "--batch", 4,
        "--accelerator", "cpu", "--precision", "fp32",
    )  # fmt: skip
    assert "compared with the teacher run on 2 cases" in " ".join(said.split())
    call("export", tmp_path / "run", "--out", tmp_path / "model", "--precision", "fp32")
    manifest = json.loads((tmp_path / "model" / "model.json").read_text(encoding="utf-8"))
    assert manifest["training"]["teacher"]["run"] == "run"


def test_infer_writes_a_row_for_every_picture_and_masks_on_its_grid(job: Path, tmp_path: Path):
    report = tmp_path / "ratios.csv"
    call(
        "infer", job / "image0.png", job / "image1.png", "--model", job / "model",
        "--report", report, "--masks", tmp_path / "masks", "--overlays", tmp_path / "overlays",
    )  # fmt: skip
    found = rows(report)
    assert [row["source"] for row in found] == ["image0.png", "image1.png"]
    assert all(0 <= float(row["ratio"]) <= 1 for row in found)
    assert len(list((tmp_path / "masks").glob("*.png"))) == 2
    assert len(list((tmp_path / "overlays").iterdir())) == 2


def test_a_broken_file_costs_only_its_own_result(job: Path, tmp_path: Path):
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in ("image0.png", "image1.png"):
        (scans / name).write_bytes((job / name).read_bytes())
    whole = tmp_path / "whole.csv"
    call("infer", scans, "--model", job / "model", "--report", whole)
    (scans / "image05.png").write_bytes((job / "image2.png").read_bytes()[:200])
    part = tmp_path / "part.csv"
    call("infer", scans, "--model", job / "model", "--report", part, code=8)
    assert part.read_bytes() == whole.read_bytes()
    failures = rows(tmp_path / "part.failures.csv")
    assert [(row["source"], row["status"]) for row in failures] == [("image05.png", "failed")]


def test_an_empty_folder_is_nothing_to_do(job: Path, tmp_path: Path):
    (tmp_path / "scans").mkdir()
    call(
        "infer", tmp_path / "scans", "--model", job / "model", "--report", tmp_path / "r.csv",
        code=3,
    )  # fmt: skip


def test_asking_for_a_gpu_that_is_not_there_is_an_error(job: Path, tmp_path: Path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    said = call(
        "infer", job / "image0.png", "--model", job / "model", "--report", tmp_path / "r.csv",
        "--device", "cuda", code=2,
    )  # fmt: skip
    assert "cuda" in said.lower()
    assert not (tmp_path / "r.csv").exists()


def test_a_run_that_exists_is_not_overwritten(job: Path):
    said = call("train", job / "cases" / "cases.csv", "--out", job / "run", code=2)
    assert "--resume" in said


def test_resuming_needs_no_flags_again_and_names_those_that_differ(job: Path):
    again = "train", job / "cases" / "cases.csv", "--out", job / "run", "--resume"
    call(*again)
    call(*again, "--network", "mobilenet_v2", "--epochs", 2)
    said = call(*again, "--size", 64, "--epochs", 3, code=2)
    assert "size was 32, now 64; epochs was 2, now 3" in " ".join(said.split())


def test_every_fault_of_a_table_is_told_at_once(tmp_path: Path):
    picture, _ = blob(0)
    from PIL import Image

    Image.fromarray(picture).save(tmp_path / "a.png")
    (tmp_path / "cases.csv").write_text("image,ratio\na.png,8.3\nmissing.png,0.1\n")
    said = call("train", tmp_path / "cases.csv", "--out", tmp_path / "run", code=2)
    assert "line 2" in said
    assert "line 3" in said
    assert not (tmp_path / "run").exists()


def test_doctor_tells_what_works_as_json():
    found = json.loads(call("doctor", "--json"))
    works = {check["subject"]: check["works"] for check in found}
    assert works["engine onnxruntime on CPU"]
    findings = {check["subject"]: check["finding"] for check in found}
    assert findings["DICOM JPEG Extended (Process 2 and 4)"].endswith(", 12 bit by imagecodecs")
    assert works["DICOM JPEG Lossless, Non-Hierarchical, First-Order Prediction "
                 "(Process 14 [Selection Value 1])"]  # fmt: skip


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from wsseg.cli.main import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'numpy', 'pydicom', 'nibabel', 'onnxruntime', 'pydantic', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_polite_kill_ends_like_an_interrupt(name: str):
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip(f"this system has no {name}")
    before = signal.signal(number, signal.SIG_DFL)  # `nohup make test` ignores one
    try:
        with pytest.raises(typer.Exit) as ended, guarded():
            signal.raise_signal(number)  # of this thread: another might get it too late
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert ended.value.exit_code == 130


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with guarded():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("command", "work", "how"),
    [
        (["train", "none.csv", "--out", "run"], "cli.train.run_training", "with --resume"),
        (["demo", "--out", "run"], "cli.demo.run_demo", "which begins anew"),
    ],
)
def test_an_interrupt_tells_what_is_kept_and_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, command: list[str], work: str, how: str
):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"wsseg.{work}", interrupted)
    said = call(*command, code=130)
    assert said.startswith("interrupted: ")
    assert "kept in run" in said
    assert how in said


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, "1 scan, 1 slice in 2.0 s (0.5 slices/s, cpu); 1 mask recovered, "),
        (3, "3 scans, 3 slices in 2.0 s (1.5 slices/s, cpu); 3 masks recovered, "),
    ],
)
def test_the_closing_line_counts_in_words_that_fit(count: int, expected: str):
    from wsseg.cli.infer import closing_line
    from wsseg.serve.infer import Summary

    tables = (Path("r.csv"), Path("r.series.csv"), Path("r.failures.csv"))
    said = closing_line(Summary(count, count, 0, 0, 2.0, "cpu", tables, MADE_BY, count))
    assert said.startswith(expected)


@pytest.mark.parametrize(
    ("failed", "skipped", "named"), [(1, 0, True), (0, 1, True), (0, 0, False)]
)
def test_the_closing_line_names_the_table_that_says_why(failed: int, skipped: int, named: bool):
    from wsseg.cli.infer import closing_line
    from wsseg.serve.infer import Summary

    tables = (Path("r.csv"), Path("r.series.csv"), Path("r.failures.csv"))
    said = closing_line(Summary(2, 2, failed, skipped, 2.0, "cpu", tables, MADE_BY))
    assert ("r.failures.csv" in said) is named


def test_the_closing_line_tells_of_scans_unlike_the_training_images():
    from wsseg.cli.infer import closing_line
    from wsseg.serve.infer import Summary

    tables = (Path("r.csv"), Path("r.series.csv"), Path("r.failures.csv"))
    said = closing_line(Summary(2, 2, 0, 0, 2.0, "cpu", tables, MADE_BY, unlike=1))
    assert "WARNING: 1 scan unlike the training images" in said
    assert "WARNING" not in closing_line(Summary(2, 2, 0, 0, 2.0, "cpu", tables, MADE_BY))


def test_the_closing_line_says_that_no_image_was_found():
    from wsseg.cli.infer import closing_line
    from wsseg.serve.infer import Summary

    tables = (Path("r.csv"), Path("r.series.csv"), Path("r.failures.csv"))
    assert "no image was found" in closing_line(Summary(0, 0, 0, 0, 2.0, "cpu", tables, MADE_BY))
    assert "no image was found" not in closing_line(
        Summary(0, 0, 1, 0, 2.0, "cpu", tables, MADE_BY)
    )


def test_an_engine_whose_masks_were_all_empty_is_not_said_to_agree():
    from wsseg.cli.export import describe
    from wsseg.serve.manifest import EngineFile, Parity

    parity = Parity(
        slices=4, provider="onnxruntime-cpu", mask_agreement=1.0, probability_difference=2e-6,
        ratio_difference=0.0, ratio_difference_mean=0.0, mask_iou=1.0, masks_empty=True,
    )  # fmt: skip
    entry = EngineFile(
        file="model.onnx", runtime="onnxruntime", precision="fp32", sha256="", parity=parity
    )
    assert describe(entry).endswith(
        "4 slices on onnxruntime-cpu: probability within 2.0e-06; "
        "all masks empty, so masks and ratios were not judged"
    )
    found = entry.model_copy(update={"parity": parity.model_copy(update={"masks_empty": False})})
    assert "masks agree 1.000000, probability within 2.0e-06, mean IoU" in describe(found)


@pytest.mark.slow
def test_json_log_is_one_object_a_line(job: Path, tmp_path: Path):
    command = (
        "from wsseg.cli.main import infer_main; import sys; "
        f"sys.argv = ['wsseg-infer', {str(job / 'image0.png')!r}, '--model', "
        f"{str(job / 'model')!r}, '--report', {str(tmp_path / 'r.csv')!r}, '--json-log']; "
        "infer_main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert lines
    assert all({"time", "level", "message"} <= set(line) for line in lines)


def test_doctor_says_whether_libraries_report_their_use(monkeypatch: pytest.MonkeyPatch):
    def line() -> dict[str, object]:
        found = json.loads(call("doctor", "--json"))
        return next(check for check in found if check["subject"] == "no library reports its use")

    assert line()["works"]
    assert "WSSEG_TELEMETRY=1 lets them" in str(line()["finding"])
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    assert line()["finding"] == "onnxruntime may report; WSSEG_TELEMETRY=1 allows it"


def test_doctor_names_the_extra_that_mends_a_missing_package(capsys):
    from wsseg.cli.doctor import Check, show

    show([Check("package x", works=False, finding="pip install 'wsseg[train]'")], as_json=False)
    assert "wsseg[train]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (None, "unknown: this system does not tell"),
        (frozenset({"avx2"}), "none of amx_int8, .*INT8 is not faster"),
    ],
)
def test_doctor_tells_a_cpu_without_fast_integers_from_one_it_knows_nothing_of(
    monkeypatch, flags, told
):
    from wsseg.cli import doctor
    from wsseg.serve.engines import hardware as cpu

    monkeypatch.setattr(cpu, "flags", lambda: flags)
    line = next(check for check in doctor.checks() if check.subject == "INT8 on the CPU")
    assert not line.works
    assert re.match(f"{told}.*; --precision auto takes no INT8", line.finding)


def test_codes_of_training_and_export_are_kept_with_the_model(job: Path):
    manifest = json.loads((job / "model" / "model.json").read_text(encoding="utf-8"))
    stated = manifest["codes"]["roi"]
    assert {role: code and code["meaning"] for role, code in stated.items()} == {
        "type": "Lesion",
        "category": None,
        "anatomy": "Breast",
    }


def test_a_code_of_no_class_ends_the_command_before_any_work(job: Path, tmp_path: Path):
    said = call(
        "infer", job / "image0.png", "--model", job / "model", "--report", tmp_path / "r.csv",
        "--code", "rio=SCT:52988006", code=2,
    )  # fmt: skip
    assert "class rio, but the classes are roi" in " ".join(said.split())
    assert not any(tmp_path.iterdir())


def test_change_compares_reports_by_key_tables_and_says_what_it_found(job, tmp_path):
    for year in (2023, 2024):
        call(
            "infer", job / "image0.png", "--model", job / "model",
            "--report", tmp_path / f"{year}.csv",
        )  # fmt: skip
    keys = tmp_path / "keys.csv"
    keys.write_text(
        "report,source,key,date\n2023.csv,image0.png,a,2023-01-01\n2024.csv,image0.png,a,2024-01-01\n"
    )
    told = call(
        "change", tmp_path / "2024.csv", tmp_path / "2023.csv", "--keys", keys,
        "--repeatability", "0.02",
    )  # fmt: skip
    assert "0 changed, 0 not comparable" in told
    found = rows(tmp_path / "2024.change.csv")
    assert {row["verdict"] for row in found} == {"STABLE"}
