"""No output takes the place of what a run reads, or is taken for a scan by the next one."""

import logging
from pathlib import Path

import pytest

from tests.serve.conftest import label_maps, rows, run, write_pictures
from wsseg.imaging import WssegError


@pytest.mark.parametrize("kind", ["masks", "overlays"])
def test_pictures_are_not_written_among_the_inputs(model: Path, tmp_path: Path, kind: str):
    folder = write_pictures(tmp_path / "scans", 1)
    inside = tmp_path / "elsewhere" / ".." / "scans" / "drawn"
    with pytest.raises(WssegError, match=rf"{inside} lies inside .*{folder}, .* another place"):
        run(model, tmp_path / "ratios.csv", folder, **{kind: inside})
    assert not (folder / "drawn").exists()


@pytest.mark.parametrize("kind", ["masks", "overlays"])
def test_a_picture_does_not_replace_the_scan_that_it_is_of(model: Path, tmp_path: Path, kind: str):
    folder = write_pictures(tmp_path / "scans", 2)
    files = sorted(folder.iterdir())
    before = [file.read_bytes() for file in files]
    with pytest.raises(WssegError, match=r"scans holds the input .* another place for it"):
        run(model, tmp_path / "ratios.csv", *files, **{kind: folder / ".." / "scans"})
    assert [file.read_bytes() for file in files] == before
    assert not (tmp_path / "ratios.csv").exists()


@pytest.mark.parametrize(
    ("known", "report"),
    [
        ("ratios.csv", "ratios.csv"),
        ("ratios.series.csv", "ratios.csv"),
        ("r.failures.csv", "r.csv"),
        ("r.recovered.csv", "r.csv"),
    ],
)
def test_the_report_does_not_replace_the_ratios_on_file(
    model: Path, tmp_path: Path, known: str, report: str
):
    folder = write_pictures(tmp_path / "scans", 1)
    text = "source,ratio:bright\n0.png,0.3\n"
    (tmp_path / known).write_text(text)
    with pytest.raises(WssegError, match=rf"{known}.* would replace the input .* another --report"):
        run(model, tmp_path / report, folder, known_ratios=tmp_path / known)
    assert (tmp_path / known).read_text() == text


def test_pictures_of_other_runs_stay_and_are_told(model: Path, tmp_path: Path, caplog):
    folder = write_pictures(tmp_path / "scans", 2)
    masks = tmp_path / "masks"
    with caplog.at_level(logging.WARNING, "wsseg"):
        run(model, tmp_path / "ratios.csv", folder, masks=masks)
        assert not caplog.records
        first, second = sorted(file.name for file in folder.iterdir())
        (folder / first).unlink()
        run(model, tmp_path / "ratios.csv", folder, masks=masks, overwrite=True)
    assert f"{masks} is not empty" in caplog.text
    assert {row["source"] for row in rows(tmp_path / "ratios.csv")} == {second}
    assert [file.name for file in label_maps(masks)] == [first, second]


def test_label_maps_and_overlays_have_folders_of_their_own(model: Path, tmp_path: Path):
    folder = write_pictures(tmp_path / "scans", 1)
    both = {"masks": tmp_path / "a", "overlays": tmp_path / "b" / ".." / "a"}
    with pytest.raises(WssegError, match=r"both go to .*a: choose two folders"):
        run(model, tmp_path / "ratios.csv", folder, **both)
