"""`Model.predict` and what it returns."""

import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wsseg
from tests.api.conftest import Guide
from tests.cli.conftest import blob
from wsseg.imaging import Window

SLICES = np.stack([blob(seed)[0] for seed in range(30, 35)]).astype(np.float32)


@pytest.fixture(scope="module")
def model(guide: Guide) -> wsseg.Model:
    return wsseg.load_model(guide.folder / "model", device="cpu")


@pytest.mark.parametrize(
    "stack",
    [SLICES, SLICES[:, None], np.repeat(SLICES[..., None], 3, -1), SLICES.astype(np.uint8)],
    ids=["n H W", "n c H W", "n H W 3", "integers"],
)
def test_a_stack_gives_what_its_slices_give(model: wsseg.Model, stack: np.ndarray):
    together = [result.ratios["roi"] for result in model.predict_batch(stack, batch=2)]
    assert together == pytest.approx([model.predict(pixels).ratios["roi"] for pixels in SLICES])


@pytest.mark.parametrize("shape", [(5,), (2, 8, 8), (8, 8, 4), (1, 1, 8, 8)])
def test_a_shape_that_is_no_slice_is_told_with_what_takes_a_stack(
    model: wsseg.Model, shape: tuple[int, ...]
):
    with pytest.raises(wsseg.WssegError, match=re.escape(str(shape)) + ".*predict_batch"):
        model.predict(np.zeros(shape))


def test_pixels_that_are_no_numbers_are_refused(model: wsseg.Model):
    with pytest.raises(wsseg.WssegError, match="NaN or infinity"):
        model.predict(np.full((32, 32), np.nan))


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((32, 32), 1j), "complex numbers"),
        ([["a", "b"], ["c", "d"]], "not an array of numbers"),
        (np.zeros((0, 32)), "no pixels"),
    ],
)
def test_what_is_no_slice_of_numbers_is_refused_with_its_reason(
    model: wsseg.Model, pixels: object, reason: str
):
    with pytest.raises(wsseg.WssegError, match=reason):
        model.predict(pixels)  # type: ignore[arg-type]


def test_a_batch_has_at_least_one_slice(model: wsseg.Model):
    with pytest.raises(wsseg.WssegError, match="batch"):
        model.predict_batch(SLICES, batch=0)


def test_a_model_computes_wherever_the_program_goes(
    guide: Guide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(guide.folder)
    model = wsseg.load_model("model", device="cpu")
    monkeypatch.chdir(tmp_path)
    assert model.predict(SLICES[0]).ratios["roi"] >= 0


def test_a_report_names_the_engine_that_computed_it(model: wsseg.Model, tmp_path: Path):
    with pytest.raises(wsseg.WssegError, match=r"does not take precision.*load_model"):
        model.measure_to(tmp_path / "r.csv", tmp_path, precision="fp16")


def test_an_option_that_does_not_exist_names_its_nearest_neighbour(
    model: wsseg.Model, tmp_path: Path
):
    with pytest.raises(wsseg.WssegError, match="unknown setting mask; did you mean masks"):
        model.measure_to(tmp_path / "r.csv", tmp_path, mask="m")
    with pytest.raises(wsseg.WssegError, match="gpu is none of auto, cpu, cuda"):
        wsseg.load_model(tmp_path, device="gpu")
    with pytest.raises(wsseg.WssegError, match="unknown setting netwrk; did you mean network"):
        wsseg.fit(tmp_path / "cases.csv", tmp_path / "run", netwrk="resnet50")
    with pytest.raises(
        wsseg.WssegError, match="unknown setting precision; did you mean precisions"
    ):
        wsseg.export_model(tmp_path / "run", tmp_path / "model", precision="int8")
    with pytest.raises(wsseg.WssegError, match=r"run\.json"):  # the settings as such are sound
        wsseg.export_model(
            tmp_path, tmp_path / "model", precisions=("fp32", "int8"), calibration="cases.csv"
        )


def test_a_notebook_shows_the_outlined_slice_and_its_ratios():
    masks = np.zeros((2, 16, 16), np.bool_)
    masks[0, 4:12, 4:12] = True
    result = wsseg.SliceResult(
        classes=("fat", "<b>"),
        areas={"fat": 64, "<b>": 0},
        ratios={"fat": 0.25, "fat/<b>": float("nan")},
        pixels=np.zeros((16, 16), np.float32),
        masks=masks,
        window=Window(),
    )
    page = result._repr_html_()
    assert "0.2500" in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    png = re.search(r"data:image/png;base64,([^\"]+)", page)
    assert png is not None
    shown = np.asarray(Image.open(BytesIO(b64decode(png[1]))))
    assert np.array_equal(shown, result.picture())
    assert shown.any(-1).sum() == 64
    assert "fat" in repr(result)
    assert "array" not in repr(result)


def test_a_scan_is_shown_by_the_slice_that_its_classes_fill_most(model: wsseg.Model, guide: Guide):
    scan = next(iter(model.measure(guide.folder / "scans" / "20.png")))
    assert np.array_equal(scan.picture(), scan.picture(0))
    assert "data:image/png" in scan._repr_html_()
