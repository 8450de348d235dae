"""Archives from friends and strangers."""

import errno
import gzip
import io
import shutil
import stat
import struct
import tarfile
import zipfile

import pytest

from wsseg.imaging import Failure, FileRef
from wsseg.imaging import archive as archive_module
from wsseg.imaging.archive import Budget, unpack_gzip, unpack_tar, unpack_zip
from wsseg.imaging.limits import DEFAULT_LIMITS, ReadLimits


def packed(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as opened:
        for name, content in members:
            opened.writestr(name, content)
    return FileRef(path, path.name)


def unpacked(archive, scratch, limits=DEFAULT_LIMITS):
    """Contents by source, and failures by source."""
    found = list(unpack_zip(archive, scratch, Budget(limits)))
    files = [each for each in found if isinstance(each, FileRef)]
    for file in files:
        assert file.path.resolve().is_relative_to(scratch.resolve())
    contents = {file.source: file.path.read_bytes() for file in files}
    return contents, {each.source: each for each in found if isinstance(each, Failure)}


def files_in(archive, scratch):
    found = unpack_zip(archive, scratch, Budget())
    return [each for each in found if isinstance(each, FileRef)]


def test_members_come_with_their_content_and_the_archives_name(tmp_path):
    archive = packed(
        tmp_path / "a.zip", [("one/x.dcm", b"1"), ("two/x.dcm", b"2"), ("empty/", b"")]
    )
    contents, failures = unpacked(archive, tmp_path / "scratch")
    assert contents == {"a.zip/one/x.dcm": b"1", "a.zip/two/x.dcm": b"2"}
    assert not failures


@pytest.mark.parametrize("name", ["a.nii.gz", "1.2.840.5.dcm", "IM0001", "b.PNG", "é ü.tif"])
def test_files_keep_their_suffix_and_nothing_else_of_their_name(tmp_path, name):
    archive = packed(tmp_path / "a.zip", [(name, b"x")])
    (file,) = files_in(archive, tmp_path / "scratch")
    suffix = {"a.nii.gz": ".nii.gz", "IM0001": ""}.get(name, "." + name.rpartition(".")[2])
    assert file.path.name == f"000000{suffix}"


def test_a_nifti_pair_stays_a_pair(tmp_path):
    members = [("x/a.img", b"i"), ("y/a.hdr", b"other"), ("x/a.hdr", b"h")]
    archive = packed(tmp_path / "a.zip", members)
    files = {file.source: file.path for file in files_in(archive, tmp_path / "scratch")}
    assert files["a.zip/x/a.hdr"].with_suffix(".img") == files["a.zip/x/a.img"]
    assert files["a.zip/y/a.hdr"].stem != files["a.zip/x/a.hdr"].stem


def test_members_of_one_name_do_not_overwrite_each_other(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        archive = packed(tmp_path / "a.zip", [("a.dcm", b"1"), ("a.dcm", b"2"), ("b.dcm", b"3")])
    contents = [file.path.read_bytes() for file in files_in(archive, tmp_path / "scratch")]
    assert contents == [b"1", b"2", b"3"]


def test_two_archives_share_a_scratch_folder(tmp_path):
    scratch = tmp_path / "scratch"
    for name in ("a.zip", "b.zip"):
        contents, _ = unpacked(packed(tmp_path / name, [("x.dcm", name)]), scratch)
        assert contents == {f"{name}/x.dcm": name.encode()}


@pytest.mark.parametrize(
    "name",
    ["../out.dcm", "a/../../out.dcm", "/etc/out.dcm", "..\\out.dcm", "C:\\out.dcm", "C:out.dcm"],
)
def test_paths_that_leave_the_archive_are_refused(tmp_path, name):
    archive = packed(tmp_path / "a.zip", [(name, b"x"), ("good.dcm", b"y")])
    contents, failures = unpacked(archive, tmp_path / "scratch")
    assert contents == {"a.zip/good.dcm": b"y"}
    assert [failure.reason for failure in failures.values()] == ["unsafe_path"]
    assert not list(tmp_path.rglob("out.dcm"))


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive = packed(tmp_path / "a.zip", [(link, "/etc/passwd"), ("good.dcm", b"y")])
    contents, failures = unpacked(archive, tmp_path / "scratch")
    assert contents == {"a.zip/good.dcm": b"y"}
    assert failures["a.zip/link.dcm"].reason == "unsafe_path"


def test_encrypted_members_are_refused(tmp_path):
    archive = packed(tmp_path / "a.zip", [("a.dcm", b"x"), ("b.dcm", b"y")])
    content = bytearray(archive.path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + at] |= 1
    archive.path.write_bytes(content)
    contents, failures = unpacked(archive, tmp_path / "scratch")
    assert contents == {"a.zip/b.dcm": b"y"}
    assert failures["a.zip/a.dcm"].reason == "encrypted"


def test_a_member_that_grows_too_much_is_refused_and_an_empty_label_map_is_not(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(archive_module, "RATIO_FLOOR_BYTES", 100_000)
    members = [("bomb.dcm", bytes(1_000_000)), ("labels.nii", bytes(100_000))]
    contents, failures = unpacked(packed(tmp_path / "a.zip", members), tmp_path / "scratch")
    assert list(contents) == ["a.zip/labels.nii"]
    assert failures["a.zip/bomb.dcm"].reason == "archive_bomb"


def test_what_would_pass_the_limit_of_all_members_is_refused(tmp_path):
    members = [(f"{index}.dcm", bytes(10)) for index in range(3)] + [("small.dcm", bytes(5))]
    archive = packed(tmp_path / "a.zip", members)
    contents, failures = unpacked(archive, tmp_path / "scratch", ReadLimits(inflated_bytes=25))
    assert list(contents) == ["a.zip/0.dcm", "a.zip/1.dcm", "a.zip/small.dcm"]
    assert "--max-inflated-mb" in failures["a.zip/2.dcm"].message
    assert failures["a.zip/2.dcm"].reason == "archive_too_large"


def test_an_archive_of_too_many_files_is_one_failure(tmp_path):
    archive = packed(tmp_path / "a.zip", [(f"{index}.dcm", b"") for index in range(3)])
    contents, failures = unpacked(archive, tmp_path / "scratch", ReadLimits(entries=2))
    assert not contents
    assert failures["a.zip"].reason == "too_many_entries"
    assert "--max-entries" in failures["a.zip"].message


def test_a_member_that_lies_about_its_size_yields_no_more_than_it_promised(tmp_path):
    archive = packed(tmp_path / "a.zip", [("a.dcm", bytes(5000)), ("b.dcm", b"y")])
    content = bytearray(archive.path.read_bytes())
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = struct.pack("<I", 10)
    archive.path.write_bytes(content)
    contents, failures = unpacked(archive, tmp_path / "scratch")
    assert contents == {"a.zip/b.dcm": b"y"}
    assert failures["a.zip/a.dcm"].reason == "broken_archive"
    assert len(list((tmp_path / "scratch").rglob("*.dcm"))) == 1


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_costs_no_other_its_place(tmp_path, compression):
    members = [("a.dcm", bytes(range(256)) * 20), ("b.dcm", b"y")]
    archive = packed(tmp_path / "a.zip", members, compression)
    content = bytearray(archive.path.read_bytes())
    content[60:70] = bytes(10)
    archive.path.write_bytes(content)
    contents, failures = unpacked(archive, tmp_path / "scratch")
    assert contents == {"a.zip/b.dcm": b"y"}
    assert failures["a.zip/a.dcm"].reason == "broken_archive"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK\x03\x04" + bytes(500)])
def test_a_broken_archive_is_one_failure(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    contents, failures = unpacked(FileRef(tmp_path / "a.zip", "a.zip"), tmp_path / "scratch")
    assert not contents
    assert failures["a.zip"].reason == "broken_archive"


def tarred(path, members, mode="w"):
    with tarfile.open(path, mode) as opened:
        for name, content in members:
            entry = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            entry.size = len(content)
            opened.addfile(entry, io.BytesIO(content))
    return FileRef(path, path.name)


def untarred(archive, scratch, limits=DEFAULT_LIMITS):
    found = list(unpack_tar(archive, scratch, Budget(limits)))
    files = [each for each in found if isinstance(each, FileRef)]
    contents = {file.source: file.path.read_bytes() for file in files}
    return contents, {each.source: each for each in found if isinstance(each, Failure)}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_members_of_a_tar_archive_come_with_their_content(tmp_path, mode):
    members = [("./one/x.hdr", b"1"), ("./one/x.img", bytes(3_000_000)), ("y", b"2")]
    contents, failures = untarred(tarred(tmp_path / "a", members, mode), tmp_path / "scratch")
    assert list(contents.values()) == [content for _, content in members]
    assert list(contents) == ["a/one/x.hdr", "a/one/x.img", "a/y"]
    assert failures == {}


@pytest.mark.parametrize("name", ["../out.dcm", "/etc/out.dcm", "a/../../out.dcm"])
def test_paths_that_leave_a_tar_archive_are_refused(tmp_path, name):
    archive = tarred(tmp_path / "a.tar", [(name, b"x"), ("good.dcm", b"y")])
    contents, failures = untarred(archive, tmp_path / "scratch")
    assert contents == {"a.tar/good.dcm": b"y"}
    assert [failure.reason for failure in failures.values()] == ["unsafe_path"]
    assert not list(tmp_path.rglob("out.dcm"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_archive_are_refused(tmp_path, kind):
    entry = tarfile.TarInfo("odd.dcm")
    entry.type, entry.linkname = kind, "/etc/passwd"
    archive = tarred(tmp_path / "a.tar", [(entry, b""), ("good.dcm", b"y")])
    contents, failures = untarred(archive, tmp_path / "scratch")
    assert contents == {"a.tar/good.dcm": b"y"}
    assert failures["a.tar/odd.dcm"].reason == "unsafe_path"


def test_a_tar_archive_stops_where_it_grows_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_module, "RATIO_FLOOR_BYTES", 100_000)
    members = [("a.dcm", b"1"), ("bomb.dcm", bytes(20_000_000)), ("b.dcm", b"2")]
    archive = tarred(tmp_path / "a.tgz", members, "w:gz")
    contents, failures = untarred(archive, tmp_path / "scratch")
    assert contents == {"a.tgz/a.dcm": b"1"}
    assert [failure.reason for failure in failures.values()] == ["archive_bomb"]
    archive = tarred(tmp_path / "b.tar", [(f"{index}.dcm", bytes(10)) for index in range(3)])
    limits = ReadLimits(inflated_bytes=15)
    contents, failures = untarred(archive, tmp_path / "scratch", limits)
    assert list(contents) == ["b.tar/0.dcm"]
    assert [failure.reason for failure in failures.values()] == ["archive_too_large"]


def test_a_tar_header_of_gigabytes_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_module, "TAR_HEADER_BYTES", 100_000)
    entry = tarfile.TarInfo("a.dcm")
    entry.pax_headers = {"comment": "x" * 5_000_000}
    archive = tarred(tmp_path / "a.tgz", [(entry, b"y")], "w:gz")
    contents, failures = untarred(archive, tmp_path / "scratch")
    assert contents == {}
    assert [failure.reason for failure in failures.values()] == ["archive_bomb"]


def test_what_a_cut_tar_archive_held_before_is_kept(tmp_path):
    members = [("a.dcm", b"1"), ("b.dcm", bytes(5000)), ("c.dcm", b"2")]
    archive = tarred(tmp_path / "a.tar", members)
    archive.path.write_bytes(archive.path.read_bytes()[:3000])
    contents, failures = untarred(archive, tmp_path / "scratch")
    assert contents == {"a.tar/a.dcm": b"1"}
    assert [failure.reason for failure in failures.values()] == ["broken_archive"]


def test_a_packed_file_that_grows_too_much_or_is_cut_is_refused(tmp_path):
    limits = ReadLimits(inflated_bytes=5_000_000)
    for name, content, reason in (
        ("bomb.dcm.gz", gzip.compress(bytes(10_000_000)), "archive_bomb"),
        ("cut.dcm.gz", gzip.compress(bytes(range(256)))[:-12], "broken_archive"),
    ):
        (tmp_path / name).write_bytes(content)
        packed = FileRef(tmp_path / name, name)
        (failure,) = unpack_gzip(packed, tmp_path / "scratch", Budget(limits))
        assert isinstance(failure, Failure)
        assert failure.reason == reason
        assert not [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()]


@pytest.mark.parametrize("kind", ["zip", "tar", "gz"])
def test_a_full_folder_for_temporary_files_is_told_as_that(tmp_path, monkeypatch, kind):
    if kind == "zip":
        archive = packed(tmp_path / "a.zip", [("a.dcm", b"x")])
    elif kind == "tar":
        archive = tarred(tmp_path / "a.tar", [("a.dcm", b"x")])
    else:
        (tmp_path / "a.dcm.gz").write_bytes(gzip.compress(b"x"))
        archive = FileRef(tmp_path / "a.dcm.gz", "a.dcm.gz")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    unpack = {"zip": unpack_zip, "tar": unpack_tar, "gz": unpack_gzip}[kind]
    (failure,) = unpack(archive, tmp_path / "scratch", Budget())
    assert isinstance(failure, Failure)
    assert failure.reason == "no_space"
    assert "TMPDIR" in failure.message
    assert "pack it again" not in failure.message
