"""A model's intervals come from cases that it did not learn, measured as serving measures them."""

import csv
import hashlib
import shutil

import nibabel
import numpy as np
import pytest
from PIL import Image

import wsseg
from tests.export.conftest import raw_slices
from wsseg.export.publish import ExportOptions, export_run
from wsseg.imaging import WssegError
from wsseg.imaging.tables import TableError
from wsseg.serve.infer import infer
from wsseg.serve.manifest import load_model
from wsseg.serve.options import InferOptions
from wsseg.train.cases import RECORDED

FP32 = ExportOptions(precisions=("fp32",), thresholds=(0.5, 0.4), overwrite=True)
COUNT = 12

pytestmark = pytest.mark.slow


def write_cases(folder, groups, **columns):
    """Pictures 0.png and so on, and a table of them with recorded ratios and these groups."""
    folder.mkdir(exist_ok=True)
    rows = []
    for number, group in enumerate(groups):
        pixels = np.clip(raw_slices(number)[number % 4][0], 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        row = {"image": f"{number}.png", "group": group, "ratio:organ": 0.2, "ratio:tumour": 0.1}
        rows.append(row | {name: values[number] for name, values in columns.items()})
    return write_table(folder / "cases.csv", rows)


def write_table(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def patients(count):
    return [f"p{number}" for number in range(count)]


@pytest.fixture
def learning_run(run, tmp_path):
    """A function that makes a run that learnt from some images, by their paths, and groups."""

    def make(learnt=(), groups=()):
        folder = tmp_path / "run"
        shutil.copytree(run, folder)
        rows = [
            {"split": "train", "group": "", "image_sha256": hashlib.sha256(b"another").hexdigest()}
        ]
        for path in learnt:
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            rows.append({"split": "val", "group": "", "image_sha256": sha256})
        rows += [{"split": "train", "group": group, "image_sha256": "00"} for group in groups]
        write_table(folder / "splits.csv", rows)
        return folder

    return make


def export(run, out, table, **changes):
    return export_run(run, out, FP32.model_copy(update={"calibrate": table, **changes}))


def test_a_model_is_calibrated_on_what_serving_measures(learning_run, tmp_path, made):
    table = write_cases(tmp_path / "cases", patients(COUNT))
    manifest = export(learning_run(), tmp_path / "model", table)
    found = manifest.calibration
    assert load_model(tmp_path / "model")[0].calibration == found
    assert found.cases_sha256 == hashlib.sha256(table.read_bytes()).hexdigest()
    assert found.engine_sha256 == manifest.engines[0].sha256
    assert [one.ratio for one in found.ratios] == ["organ", "tumour in organ"]
    options = InferOptions(model=tmp_path / "model", report=tmp_path / "r.csv", device="cpu")
    infer([tmp_path / "cases"], options)
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["ratio_name"] == "organ"]
    assert len(rows) == len(found.ratios[0].scores) == COUNT
    # 12 cases and 0.9: the quantile is the largest score, so that every interval holds its 0.2.
    ends = [(float(row["ratio_low"]), float(row["ratio_high"])) for row in rows]
    assert all(low - 1e-6 <= 0.2 <= high + 1e-6 for low, high in ends)
    near = [min(abs(low - 0.2), abs(high - 0.2)) for low, high in ends]
    assert min(near) < 1e-6


def test_slices_of_volumes_are_measured_as_serving_measures_them(learning_run, tmp_path, made):
    random, folder = np.random.default_rng(0), tmp_path / "cases"
    folder.mkdir()
    coarse = random.normal(50, 150, (8, 9, COUNT)).repeat(8, 0).repeat(8, 1).astype(np.int16)
    # Stored towards the left and the front: shown slices are turned against stored ones.
    volume = nibabel.Nifti1Image(coarse, np.diag([-0.5, 0.8, 3.0, 1.0]))
    nibabel.save(volume, folder / "volume.nii.gz")
    rows = [
        {"image": "volume.nii.gz", "slice": place, "group": f"p{place}", "ratio:organ": 0.2}
        for place in range(COUNT)
    ]
    table = write_table(folder / "cases.csv", rows)
    scores = export(learning_run(), tmp_path / "model", table).calibration.ratios[0].scores
    model = wsseg.load_model(tmp_path / "model", device="cpu")
    (scan,) = model.measure(folder / "volume.nii.gz")
    found = [row for row in scan.slices if row.ratio_name == "organ"]
    ratios, highs = np.array([(row.ratio, row.ratio_high) for row in found], float).T
    assert highs.max() < 1
    # The quantile of 12 groups at 0.9 is the largest score: it gives each slice its scale.
    own = np.sort(np.abs(ratios - 0.2) * scores[-1] / (highs - ratios))
    np.testing.assert_allclose(own, scores, rtol=1e-4)


def test_the_same_export_writes_the_same_calibration(learning_run, tmp_path, made):
    table = write_cases(tmp_path / "cases", patients(COUNT))
    run = learning_run()
    found = [export(run, tmp_path / name, table).calibration for name in ("one", "two")]
    assert found[0].model_dump_json() == found[1].model_dump_json()


def test_a_patient_with_many_images_counts_as_one(learning_run, tmp_path, made):
    table = write_cases(tmp_path / "cases", [*patients(COUNT - 1), "p0", "P0 ", "p0"])
    found = export(learning_run(), tmp_path / "model", table).calibration.ratios[0]
    assert (found.groups, len(found.scores)) == (COUNT - 1, COUNT + 2)
    assert sorted(found.weights)[:5] == [0.25] * 4 + [1.0]


def test_cases_that_were_learnt_are_left_out_and_counted(learning_run, tmp_path, made, caplog):
    table = write_cases(tmp_path / "cases", [*patients(COUNT), "known"])
    run = learning_run(learnt=[tmp_path / "cases" / "3.png"], groups=["Known"])
    manifest = export(run, tmp_path / "model", table)
    assert manifest.calibration.left_out == 2
    assert manifest.calibration.ratios[0].groups == COUNT - 1


def test_a_table_that_was_learnt_is_refused_before_anything_is_written(learning_run, tmp_path):
    table = write_cases(tmp_path / "cases", patients(COUNT))
    run = learning_run(groups=patients(COUNT - 3))
    with pytest.raises(WssegError, match=r"take 9 groups .* there are 3; 9 cases were learnt"):
        export(run, tmp_path / "model", table)
    assert not (tmp_path / "model").exists()


def test_a_run_that_does_not_tell_its_images_cannot_be_calibrated(run, tmp_path):
    table = write_cases(tmp_path / "cases", patients(COUNT))
    with pytest.raises(WssegError, match=r"has no splits\.csv"):
        export(run, tmp_path / "model", table)
    old = shutil.copytree(run, tmp_path / "old")
    write_table(old / "splits.csv", [{"split": "train", "group": "a"}])
    with pytest.raises(WssegError, match="of an early version"):
        export(old, tmp_path / "model", table)


def test_cases_that_were_kept_aside_are_used_without_being_asked_for(learning_run, tmp_path, made):
    run = learning_run()
    table = write_cases(tmp_path / "cases", patients(COUNT))
    with table.open(newline="", encoding="utf-8") as file:
        rows = [row | {"image": f"../cases/{row['image']}"} for row in csv.DictReader(file)]
    write_table(run / RECORDED, rows)
    assert export(run, tmp_path / "model", None).calibration.ratios[0].groups == COUNT
    (tmp_path / "cases" / "4.png").unlink()
    with pytest.raises(TableError, match=r"no file 4\.png"):
        export(run, tmp_path / "model", None)
    (run / RECORDED).unlink()
    assert export(run, tmp_path / "model", None).calibration is None


def test_a_ratio_that_too_few_record_has_no_intervals_and_the_others_have(
    learning_run, tmp_path, made, caplog
):
    recorded = ["0.1" if number < 5 else "" for number in range(COUNT)]
    table = write_cases(tmp_path / "cases", patients(COUNT), **{"ratio:tumour": recorded})
    manifest = export(learning_run(), tmp_path / "model", table)
    assert [one.ratio for one in manifest.calibration.ratios] == ["organ"]
