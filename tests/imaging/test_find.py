import bz2
import gzip
import lzma
import os
import re
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    EncapsulatedPDFStorage,
    ParametricMapStorage,
    SegmentationStorage,
    VideoEndoscopicImageStorage,
    VLWholeSlideMicroscopyImageStorage,
    generate_uid,
)

from wsseg.imaging import Failure, ScanRef, WssegError, find, read, safe_name


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
    (folder / "README").write_text("text")
    (folder / "notes.txt.gz").write_bytes(gzip.compress(b"text"))
    (folder / "viewer").write_bytes(b"\x7fELF" + bytes(90))
    (folder / "report.pdf").write_bytes(b"%PDF-1.7")
    (folder / "cache.dat").write_bytes(bytes(90))
    (folder / "warp_xfm.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(1500) + b"TransformGroup")
    (folder / "empty.log").touch()
    (folder / "DONE").touch()
    write_bare_dicom(folder / "seg", SegmentationStorage, Modality="SEG")
    write_bare_dicom(folder / "pdf", EncapsulatedPDFStorage)
    write_bare_dicom(folder / "unknown", "1.2.3.4")
    assert reasons(folder) == {
        "notes.txt": ("not_an_image", "skipped"),
        "README": ("not_an_image", "skipped"),
        "notes.txt.gz": ("not_an_image", "skipped"),
        "viewer": ("not_an_image", "skipped"),
        "report.pdf": ("not_an_image", "skipped"),
        "cache.dat": ("not_an_image", "skipped"),
        "warp_xfm.h5": ("no_image", "skipped"),
        "empty.log": ("empty_file", "skipped"),
        "DONE": ("empty_file", "skipped"),
        "seg": ("segmentation", "skipped"),
        "pdf": ("encapsulated_document", "skipped"),
        "unknown": ("no_pixels", "skipped"),
    }


UNREAD = {
    "scans.7z": b"7z\xbc\xaf\x27\x1c",
    "scans.rar": b"Rar!\x1a\x07\x00",
    "scans.tar.bz2": bz2.compress(b"x"),
    "scan.dcm.xz": lzma.compress(b"x"),
    "twice.dcm.gz": gzip.compress(gzip.compress(b"x")),
    "scan.mnc": b"CDF\x01",
    "scan.h5": b"\x89HDF\r\n\x1a\n",
    "array.npy": b"\x93NUMPY\x01\x00",
    "clip.mp4": b"\0\0\0\x18ftypmp42",
    "photo.heic": b"\0\0\0\x18ftypheic",
    "scan.mif": b"mrtrix image\ndim: 4,5,6\n",
    "scan.mif.gz": gzip.compress(b"mrtrix image\ndim: 4,5,6\n"),
    "scan.par": b"# === DATA DESCRIPTION FILE ====",
    "grid.vtk": b"# vtk DataFile Version 3.0\nx\nBINARY\nDATASET STRUCTURED_POINTS\n",
    "panorama.hdr": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n",
    "voxels.img": bytes(200),
    "voxels.raw": bytes(200),
    "IM0001": bytes(200),
    "1.2.840.113.5": b"\x07\x01" * 99,
    "IM0002": b"",
    "annexed.png": b"/annex/objects/SHA256E-s1--0.png\n",
    "large.nii.gz": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
}


@pytest.mark.parametrize("suffix", ["tga", "pcx", "sgi", "dds"])
def test_a_picture_of_a_rare_format_is_not_passed_over(folder, suffix):
    Image.new("RGB", (9, 8), (200, 30, 90)).save(folder / f"a.{suffix}")
    assert reasons(folder) == {f"a.{suffix}": ("unsupported_format", "failed")}


@pytest.mark.parametrize("name", UNREAD)
def test_an_image_that_is_not_read_fails_with_a_remedy(folder, name):
    (folder / name).write_bytes(UNREAD[name])
    (failure,) = search(folder)[1].values()
    assert failure.status == "failed"
    assert failure.message.startswith(name)
    assert re.search(r"(convert|unpack|save|copy|get) ", failure.message)


@pytest.mark.parametrize(
    ("sop_class", "elements"),
    [
        (CTImageStorage, {"Rows": 4, "Columns": 4}),
        (CTImageStorage, {}),
        ("1.2.3.4", {"Rows": 4, "Columns": 4}),
        (VLWholeSlideMicroscopyImageStorage, {}),
        (VideoEndoscopicImageStorage, {}),
        (ParametricMapStorage, {}),
    ],
)
def test_a_dicom_image_that_is_cut_or_not_read_fails(folder, sop_class, elements):
    write_bare_dicom(folder / "a", sop_class, **elements)
    (failure,) = search(folder)[1].values()
    assert failure.status == "failed"


def test_a_dicom_image_fails_wherever_it_was_cut(folder, write_dicom):
    whole = write_dicom(folder / "a").read_bytes()
    for end in range(140, len(whole) - 2 * 16 * 16 - 12, 37):
        (folder / "a").write_bytes(whole[:end])
        refs, failures = search(folder)
        assert refs == []
        assert [failure.status for failure in failures.values()] == ["failed"]


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


@pytest.mark.parametrize("kind", ["BMP", "WEBP", "PPM", "GIF", "JPEG2000"])
def test_pictures_of_every_format_that_training_reads_are_found(folder, kind):
    write_picture(folder / "a", kind)
    (ref,), failures = search(folder)
    assert ref.kind == "picture"
    assert failures == {}


def test_hidden_files_and_scratch_folders_are_passed_over_silently(folder, write_dicom):
    write_dicom(folder / ".hidden")
    write_dicom(folder / ".tmp-abc" / "partial")
    (folder / ".DS_Store").write_bytes(b"x")
    assert search(folder) == ([], {})


def test_links_are_followed_wherever_they_lead_each_file_once(tmp_path, folder, write_dicom):
    subject = tmp_path / "store" / "subject"
    (subject / "deep").mkdir(parents=True)
    for number, path in enumerate(
        (tmp_path / "outside.png", subject / "b.png", subject / "deep" / "c.png", folder / "in.png")
    ):
        Image.new("L", (number + 4, 4)).save(path)
    (folder / "file.png").symlink_to(tmp_path / "outside.png")
    (folder / "again.png").symlink_to(tmp_path / "outside.png")
    (folder / "sub-01").symlink_to(subject)
    (subject / "back").symlink_to(folder)
    (folder / "loop").symlink_to(folder)
    (folder / "twice").symlink_to(subject / "deep")
    (folder / "self").symlink_to(folder / "self")
    refs, failures = search(folder)
    assert sorted(ref.files[0].source for ref in refs) == [
        "again.png",
        "in.png",
        "sub-01/b.png",
        "twice/c.png",
    ]
    assert {source: (f.reason, f.status) for source, f in failures.items()} == {
        "file.png": ("duplicate", "skipped"),
        "loop": ("duplicate", "skipped"),
        "sub-01/back": ("duplicate", "skipped"),
        "self": ("unreadable", "failed"),
    }


def test_a_link_to_a_folder_above_the_input_is_not_entered(tmp_path, folder):
    write_picture(tmp_path / "other.png")
    (folder / "up").symlink_to(tmp_path)
    assert reasons(folder) == {"up": ("link", "failed")}


def test_links_of_git_annex_are_read_and_missing_content_is_to_be_fetched(folder):
    objects = folder / ".git" / "annex" / "objects"
    objects.mkdir(parents=True)
    write_picture(objects / "SHA256E-s1--0.png")
    (folder / "here.png").symlink_to(".git/annex/objects/SHA256E-s1--0.png")
    (folder / "away.png").symlink_to(".git/annex/objects/SHA256E-s1--1.png")
    (folder / "lost.png").symlink_to("nowhere.png")
    refs, failures = search(folder)
    assert [ref.files[0].source for ref in refs] == ["here.png"]
    assert failures["away.png"].reason == "content_missing"
    assert "git annex get" in failures["away.png"].message
    assert failures["lost.png"].reason == "broken_link"
    assert {failure.status for failure in failures.values()} == {"failed"}
    with pytest.raises(WssegError, match="git annex get"):
        find([folder / "away.png"], scratch=folder)


def test_pipes_and_devices_are_never_opened(folder):
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to(folder / "pipe")
    (folder / "device").symlink_to("/dev/zero")
    skipped = ("special_file", "skipped")
    assert reasons(folder) == {"pipe": skipped, "link": skipped, "device": skipped}
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


@pytest.mark.parametrize("name", ["case.tar", "case.tar.gz", "case.tgz", "case"])
def test_members_of_a_tar_archive_are_found_under_its_name(tmp_path, folder, write_dicom, name):
    files = [
        write_dicom(tmp_path / "x" / f"{k}", ImagePositionPatient=[0, 0, 2 * k]) for k in (1, 0)
    ]
    with tarfile.open(folder / name, "w:gz" if "gz" in name else "w") as archive:
        archive.add(tmp_path / "x", "./series")
        archive.add(write_nifti(tmp_path / "a.nii.gz"), "./a.nii.gz")
    refs, failures = search(folder)
    sources = [[file.source for file in ref.files] for ref in refs]
    assert sources == [[f"{name}/a.nii.gz"], [f"{name}/series/0", f"{name}/series/1"]]
    assert len(files) == len(read(refs[1]).pixels)
    assert failures == {}


def test_files_that_were_packed_one_by_one_are_unpacked(tmp_path, folder, write_dicom):
    (folder / "ct.dcm.gz").write_bytes(gzip.compress(write_dicom(tmp_path / "a").read_bytes()))
    (folder / "p.png.gz").write_bytes(gzip.compress(write_picture(tmp_path / "b").read_bytes()))
    with zipfile.ZipFile(folder / "z.zip", "w") as archive:
        archive.write(folder / "p.png.gz", "in.png.gz")
    refs, failures = search(folder)
    assert {ref.files[0].source: ref.kind for ref in refs} == {
        "ct.dcm.gz": "dicom",
        "p.png.gz": "picture",
        "z.zip/in.png.gz": "picture",
    }
    assert failures == {}


def test_archives_in_archives_fail_and_cost_no_other_member_its_place(tmp_path, folder):
    with zipfile.ZipFile(tmp_path / "inner", "w") as archive:
        archive.writestr("x.txt", "x")
    with tarfile.open(tmp_path / "inner.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "inner", "x")
    with tarfile.open(folder / "a.tar", "w") as archive:
        for name in ("inner", "inner.tar.gz"):
            archive.add(tmp_path / name, name)
        archive.add(write_picture(tmp_path / "good.png"), "good.png")
    refs, failures = search(folder)
    assert [ref.files[0].source for ref in refs] == ["a.tar/good.png"]
    assert {s: (f.reason, f.status) for s, f in failures.items()} == {
        "a.tar/inner": ("nested_archive", "failed"),
        "a.tar/inner.tar.gz": ("nested_archive", "failed"),
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


def test_names_in_an_old_encoding_stay_apart(tmp_path):
    for name in (b"M\xfcller.png", b"M\xf6ller.png"):
        Image.new("L", (4, 4)).save(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)))
    found = [ref for ref in find([tmp_path], scratch=tmp_path) if isinstance(ref, ScanRef)]
    assert len({ref.files[0].source for ref in found}) == 2
    assert len({safe_name(read(ref)) for ref in found}) == 2
