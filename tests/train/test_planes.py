"""The planes of a table's images: recorded for the model, and told where they are mixed."""

import nibabel
import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import call
from wsseg.train.cases import Case, counted_planes, mixed_planes, see

# The third axis of the file is the patient's head, front, and right side.
AXES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}


@pytest.fixture
def images(tmp_path):
    """One volume a plane, as many slices each, and a picture."""
    for seed, (plane, order) in enumerate(AXES.items()):
        voxels = np.random.default_rng(seed).integers(0, 200, (12, 12, 3)).astype(np.int16)
        affine = np.eye(4)
        affine[:3, :3] = np.eye(3)[:, list(order)]
        nibabel.Nifti1Image(voxels, affine).to_filename(tmp_path / f"{plane}.nii.gz")
    Image.fromarray(np.arange(144, dtype=np.uint8).reshape(12, 12)).save(tmp_path / "a.png")
    return tmp_path


def cases_of(images, *names, split="train"):
    return [
        Case(row=row, image=images / name, ratios=(0.1,), split=split)
        for row, name in enumerate(names, 2)
    ]


def test_the_planes_of_all_training_cases_are_recorded(images):
    names = ["axial.nii.gz"] * 3 + ["sagittal.nii.gz"] * 2 + ["a.png"]
    assert see(cases_of(images, *names), None).planes == {"axial": 3, "sagittal": 2, "": 1}


def test_other_planes_than_most_are_told_by_their_rows(images):
    names = ["axial.nii.gz"] * 3 + ["a.png", "coronal.nii.gz", "axial.nii.gz", "coronal.nii.gz"]
    (told,) = mixed_planes(cases_of(images, *names))
    assert told.startswith("2 images are coronal, 4 axial: line 6, 8;")
    assert not list(mixed_planes(cases_of(images, "axial.nii.gz", "a.png", "axial.nii.gz")))
    # Test cases are not used, so that they mix with nothing.
    apart = cases_of(images, "axial.nii.gz") + cases_of(images, "coronal.nii.gz", split="test")
    assert not list(mixed_planes(apart))


def test_pictures_have_no_plane_to_count(images):
    assert counted_planes(cases_of(images, "a.png", "a.png")) == ""
    assert counted_planes(cases_of(images, "a.png", "axial.nii.gz")) == "1 unknown, 1 axial"


def test_the_check_of_a_table_counts_planes_and_warns_of_a_mixture(images):
    table = images / "cases.csv"
    lines = [f"axial.nii.gz,{k},0.1,a" for k in range(3)] + ["coronal.nii.gz,1,0.1,b"]
    table.write_text("\n".join(["image,slice,ratio,group", *lines]) + "\n")
    said = " ".join(call("cases", "check", table).split())
    assert "planes: 3 axial, 1 coronal" in said
    assert "warning: 1 image is coronal, 3 axial: line 5;" in said
