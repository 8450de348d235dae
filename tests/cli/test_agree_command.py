"""`wsseg agree`, and `wsseg-infer --reference` with a model that was trained and exported."""

from pathlib import Path

from tests.cli.conftest import call


def recorded(path: Path, *names: str) -> Path:
    rows = [f"{name};{at},5\n" for at, name in enumerate(names, 10)]
    path.write_text("source;ratio_percent\n" + "".join(rows))
    return path


def infer(job: Path, report: Path, *more: object, code: int = 0) -> str:
    pictures = [job / f"image{index}.png" for index in range(3)]
    return call("infer", *pictures, "--model", job / "model", "--report", report, *more, code=code)


def test_a_reference_gives_the_files_of_wsseg_agree_beside_the_report(job: Path, tmp_path: Path):
    table = recorded(
        tmp_path / "recorded.csv", "image0.png", "image1.png", "image2.png", "gone.png"
    )
    said = infer(job, tmp_path / "r.csv", "--reference", table)
    assert "agreement with recorded.csv: roi: 3 images, bias" in said
    assert "1 recorded rows have no partner" in said
    assert (tmp_path / "r.agreement" / "roi.bland-altman.svg").is_file()
    plain, out = tmp_path / "plain.csv", tmp_path / "again.csv"
    infer(job, plain)
    assert plain.read_bytes() == (tmp_path / "r.csv").read_bytes()
    said = call("agree", tmp_path / "r.csv", table, "--out", out)
    assert "rows without a partner: 1 no_image; wrote" in said
    for suffix in ("csv", "pairs.csv", "unmatched.csv", "txt"):
        beside = tmp_path / f"r.agreement.{suffix}"
        assert beside.read_bytes() == out.with_suffix(f".{suffix}").read_bytes()


def test_a_faulty_reference_ends_with_code_2_before_anything_is_measured(job: Path, tmp_path: Path):
    table = tmp_path / "recorded.csv"
    table.write_text("source,ratio\nimage0.png,much\n")
    said = infer(job, tmp_path / "r.csv", "--reference", table, code=2)
    assert "recorded.csv, line 2: ratio: much is not a number" in said
    assert not (tmp_path / "r.csv").exists()


def test_a_comparison_that_fails_does_not_cost_the_report(job: Path, tmp_path: Path):
    table = recorded(tmp_path / "recorded.csv", "elsewhere.png")
    said = infer(job, tmp_path / "r.csv", "--reference", table, code=8)
    assert "not compared with recorded.csv" in said
    assert "name the column of images with --key" in said
    assert (tmp_path / "r.csv").is_file()
    assert not (tmp_path / "r.agreement.csv").exists()


def test_an_input_that_is_the_output_is_refused(job: Path, tmp_path: Path):
    table = recorded(tmp_path / "r.agreement.csv", "image0.png")
    said = infer(job, tmp_path / "r.csv", "--reference", table, "--overwrite", code=2)
    assert "would replace the input" in said
