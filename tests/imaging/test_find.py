import os
import zipfile
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage, SegmentationStorage, generate_uid

from wsseg.imaging.errors import Failure, WssegError
from wsseg.imaging.find import find
from wsseg.imaging.scan import ScanRef


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def search(*paths):
    scratch = paths[0].parent / "scratch"
    found = list(find(paths, scratch=scratch))
    refs = [ref for ref in found if isinstance(ref, ScanRef)]
    return refs, {f.source: f for f in found if isinstance(f, Failure)}


def reasons(*paths):
    return {source: (f.reason, f.status) for source, f in search(*paths)[1].items()}


def write_picture(path, kind="PNG"):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path, format=kind)
    return path


def write_nifti(path, shape=(4, 4, 2)):
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), path)
    return path


def write_bare_dicom(path, sop_class, **elements):
    dataset = Dataset()
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, implicit_vr=True, little_endian=True)


def test_a_path_that_does_not_exist_is_an_error_before_anything_is_read(tmp_path):
    with pytest.raises(WssegError, match="nowhere does not exist"):
        find([tmp_path, tmp_path / "nowhere"], scratch=tmp_path)


def test_kinds_are_told_by_content_not_by_name(folder, write_dicom):
    write_dicom(folder / "no suffix")
    write_picture(folder / "a.png")
    write_picture(folder / "b.dat", "JPEG")
    write_picture(folder / "c", "TIFF")
    write_nifti(folder / "d.nii")
    write_nifti(folder / "e.nii.gz")
    refs, failures = search(folder)
    assert failures == {}
    assert {ref.files[0].source: ref.kind for ref in refs} == {
        "no suffix": "dicom",
        "a.png": "picture",
        "b.dat": "picture",
        "c": "picture",
        "d.nii": "volume",
        "e.nii.gz": "volume",
    }


def test_sources_are_relative_to_the_folder_that_was_named(folder, write_dicom):
    write_dicom(folder / "deep" / "er" / "a")
    named = write_dicom(folder / "b", SeriesInstanceUID="1.2")
    assert {ref.files[0].source for ref in search(folder)[0]} == {"deep/er/a", "b"}
    assert search(named)[0][0].files[0].source == "b"


def test_each_volume_of_a_four_dimensional_nifti_is_a_scan(folder):
    write_nifti(folder / "a.nii", (4, 4, 2, 3))
    assert [ref.volume for ref in search(folder)[0]] == [0, 1, 2]


@pytest.mark.parametrize("named", ["in", "in/pair.hdr", "in/pair.img"])
def test_a_detached_nifti_is_one_scan_whichever_half_is_named(tmp_path, folder, named):
    pair = nibabel.Nifti1Pair(np.zeros((4, 4, 2), np.uint8), np.eye(4))
    nibabel.save(pair, folder / "pair.hdr")
    refs, failures = search(tmp_path / named)
    assert failures == {}
    assert [ref.files[0].path.name for ref in refs] == ["pair.hdr"]


def test_what_is_no_image_is_skipped_with_a_reason(folder):
    (folder / "notes.txt").write_text("text")
    (folder / "empty").touch()
    (folder / "scan.nrrd").write_bytes(b"NRRD0004\n")
    (folder / "scans.7z").write_bytes(b"7z\xbc\xaf\x27\x1c")
    write_bare_dicom(folder / "seg", SegmentationStorage, Modality="SEG")
    write_bare_dicom(folder / "pdf", EncapsulatedPDFStorage)
    write_bare_dicom(folder / "ct", "1.2.840.10008.5.1.4.1.1.2", Rows=4, Columns=4)
    assert reasons(folder) == {
        "notes.txt": ("not_an_image", "skipped"),
        "empty": ("empty_file", "skipped"),
        "scan.nrrd": ("unsupported_format", "skipped"),
        "scans.7z": ("unsupported_format", "skipped"),
        "seg": ("segmentation", "skipped"),
        "pdf": ("encapsulated_document", "skipped"),
        "ct": ("no_pixels", "skipped"),
    }


def test_what_should_have_been_an_image_fails(folder, write_dicom):
    (folder / "a.png").write_text("not a picture")
    (folder / "b.nii.gz").write_text("not a volume")
    (folder / "c.dcm").touch()
    (folder / "d.zip").write_bytes(b"PK\x03\x04 broken")
    write_dicom(folder / "e", Rows=None)
    found = reasons(folder)
    assert {status for _, status in found.values()} == {"failed"}
    assert found["a.png"][0] == found["b.nii.gz"][0] == "broken_file"
    assert found["c.dcm"][0] == "empty_file"
    assert found["e"][0] == "broken_header"
    assert set(found) == {"a.png", "b.nii.gz", "c.dcm", "d.zip", "e"}


def test_hidden_files_and_scratch_folders_are_passed_over_silently(folder, write_dicom):
    write_dicom(folder / ".hidden")
    write_dicom(folder / ".tmp-abc" / "partial")
    (folder / ".DS_Store").write_bytes(b"x")
    assert search(folder) == ([], {})


def test_links_are_not_followed_out_of_the_folder_or_into_a_loop(tmp_path, folder, write_dicom):
    outside = write_dicom(tmp_path / "outside")
    inside = write_dicom(folder / "inside")
    (folder / "out").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    (folder / "again").symlink_to(inside)
    refs, failures = search(folder)
    assert len(refs) == 1
    assert {source: f.reason for source, f in failures.items()} == {
        "out": "link",
        "loop": "link",
        "self": "unreadable",
        "inside": "duplicate",
    }


def test_pipes_and_devices_are_never_opened(folder):
    os.mkfifo(folder / "pipe")
    assert reasons(folder) == {"pipe": ("special_file", "skipped")}
    assert reasons(Path("/dev/zero")) == {"zero": ("special_file", "skipped")}


def test_a_file_that_may_not_be_opened_fails_alone(folder, write_dicom, monkeypatch):
    write_dicom(folder / "good")
    (folder / "locked").write_bytes(b"x")
    opened = Path.open

    def refuse(self, *args, **kwargs):
        if self.name == "locked":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    refs, failures = search(folder)
    assert len(refs) == 1
    assert failures["locked"].reason == "unreadable"
    assert "Permission denied" in failures["locked"].message


def test_a_file_named_twice_is_read_once(folder, write_dicom):
    file = write_picture(folder / "a.png")
    refs, failures = search(folder, file)
    assert len(refs) == 1
    assert failures["a.png"].reason == "duplicate"


def test_members_of_an_archive_are_found_under_its_name(tmp_path, folder, write_dicom):
    files = [
        write_dicom(tmp_path / "x" / f"{k}", ImagePositionPatient=[0, 0, 2 * k]) for k in (1, 0)
    ]
    with zipfile.ZipFile(folder / "case.zip", "w") as archive:
        for file in files:
            archive.write(file, f"series/{file.name}")
        archive.writestr("notes.txt", "text")
        archive.writestr("__MACOSX/._0", "resource fork")
        archive.writestr(".DS_Store", "x")
    refs, failures = search(folder)
    assert [file.source for file in refs[0].files] == ["case.zip/series/0", "case.zip/series/1"]
    assert {source: f.reason for source, f in failures.items()} == {
        "case.zip/notes.txt": "not_an_image"
    }


def test_an_empty_archive_is_accounted_for(folder):
    zipfile.ZipFile(folder / "a.zip", "w").close()
    assert reasons(folder) == {"a.zip": ("empty_archive", "skipped")}


def test_office_documents_are_no_archives_of_scans(folder):
    with zipfile.ZipFile(folder / "letter.docx", "w") as archive:
        archive.writestr("word/document.xml", "text")
    assert reasons(folder) == {"letter.docx": ("not_an_image", "skipped")}


def test_names_that_are_no_text_can_still_be_reported(folder):
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.txt")).write_bytes(b"x")
    (source,) = reasons(folder)
    assert source.encode("utf-8")


def test_the_order_of_the_findings_does_not_depend_on_the_file_system(folder, write_dicom):
    for name in ("b", "a", "c"):
        write_picture(folder / f"{name}.png")
        write_dicom(folder / f"{name}.dcm", SeriesInstanceUID=f"1.{ord(name)}")
    assert [ref.files[0].source for ref in search(folder)[0]] == [
        "a.png",
        "b.png",
        "c.png",
        "a.dcm",
        "b.dcm",
        "c.dcm",
    ]


def test_every_shipped_file_ends_in_exactly_one_scan_or_failure(tmp_path):
    shipped = Path(str(get_testdata_file("CT_small.dcm", download=False))).parent
    ends: Counter[str] = Counter()
    for found in find([shipped], scratch=tmp_path):
        sources = [found] if isinstance(found, Failure) else found.files
        ends.update(end.source for end in sources)
    below = (path.relative_to(shipped) for path in shipped.rglob("*") if path.is_file())
    visible = {p.as_posix() for p in below if not any(x.startswith(".") for x in p.parts)}
    assert set(ends) == visible
    assert set(ends.values()) == {1}
