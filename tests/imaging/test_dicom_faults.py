"""Damaged, hostile and unusual DICOM files fail alone, with a reason and without patient data."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    ImplicitVRLittleEndian,
    RLELossless,
)

from wsseg.imaging import Failure, FileRef, ReadError, ScanRef
from wsseg.imaging.dicom import decoder as dicom_decode
from wsseg.imaging.dicom import read_dicom, read_headers, silence_pydicom
from wsseg.imaging.limits import ReadLimits
from wsseg.imaging.stopping import reading_threads

CANARIES = ("Canary", "CANARY-1")


def read(path):
    return read_dicom(ScanRef("dicom", (FileRef(path, path.name),)))


def refusal(path):
    with pytest.raises(ReadError) as caught:
        read(path)
    assert path.name in str(caught.value)
    return caught.value


def test_a_huge_matrix_is_refused_by_the_length_of_the_file(tmp_path, write_dicom):
    error = refusal(write_dicom(tmp_path / "a", Rows=65535, Columns=65535))
    assert error.reason == "truncated"
    assert "512 bytes" in str(error)


def test_a_huge_number_of_frames_is_refused_by_the_length_of_the_file(tmp_path, write_dicom):
    assert refusal(write_dicom(tmp_path / "a", NumberOfFrames=2**31 - 1)).reason == "truncated"


def test_a_compressed_bomb_is_refused_by_its_promise(tmp_path, write_dicom):
    promise = {"Rows": 65535, "Columns": 65535, "PixelData": encapsulate([bytes(1000)])}
    error = refusal(write_dicom(tmp_path / "a", syntax=RLELossless, **promise))
    assert error.reason == "too_large"
    assert "65535 x 65535" in str(error)


def test_deeply_nested_sequences_are_a_failure_not_a_crash(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a")
    head = path.read_bytes()
    at = head.index(b"\x10\x00\x10\x00PN")
    opened = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000
    path.write_bytes(head[:at] + opened + head[at:])
    found = read_headers(FileRef(path, "a"))
    assert isinstance(found, Failure)
    assert found.reason == "broken_header"
    assert refusal(path).reason == "broken_header"


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("value", ["nan", "inf", "abc"])
def test_a_rescale_that_is_no_number_is_refused(tmp_path, write_dicom, keyword, value):
    path = write_dicom(tmp_path / "a", **{keyword: 12345678})
    old = b"12345678"
    path.write_bytes(path.read_bytes().replace(old, value.ljust(8).encode()))
    error = refusal(path)
    assert error.reason == "broken_header"
    assert keyword in str(error)


def test_a_slope_of_zero_is_refused(tmp_path, write_dicom):
    assert refusal(write_dicom(tmp_path / "a", RescaleSlope=0)).reason == "broken_header"


def test_packed_bits_of_retired_standards_are_refused_with_a_remedy(tmp_path, write_dicom):
    error = refusal(write_dicom(tmp_path / "a", BitsAllocated=12))
    assert error.reason == "unsupported_bits"
    assert "gdcmconv" in str(error)


def test_a_compression_no_decoder_knows_is_named_with_a_remedy(tmp_path, write_dicom):
    syntax, pixels = UID("1.2.840.10008.1.2.4.59"), encapsulate([bytes(100)])
    error = refusal(write_dicom(tmp_path / "a", syntax=syntax, PixelData=pixels))
    assert error.reason == "unsupported_compression"
    assert "JPEG Extended, Hierarchical" in str(error)
    assert "dcmdjpeg" in str(error)


def test_damaged_compressed_pixels_are_a_read_error(tmp_path, write_dicom):
    pixels = encapsulate([bytes(100)])
    error = refusal(write_dicom(tmp_path / "a", syntax=JPEG2000, PixelData=pixels))
    assert error.reason == "not_decoded"


def test_a_private_transfer_syntax_is_a_read_error(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.3.4.5.6.7.8.9.1\0"))
    assert refusal(path).reason == "unsupported_compression"


def test_a_missing_file_is_a_read_error(tmp_path):
    assert refusal(tmp_path / "gone").reason == "unreadable"


def test_values_that_are_no_numbers_never_reach_the_pixels(tmp_path, write_dicom):
    stored = np.ones((16, 16), np.float32)
    stored[0, :3] = (np.nan, np.inf, -4)
    path = write_dicom(tmp_path / "a", stored, PixelData=None, FloatPixelData=stored.tobytes())
    scan = read(path)
    assert "NONFINITE" in scan.flags
    assert scan.pixels[0, 0, :4].tolist() == [-4, -4, -4, 1]


def test_memory_that_runs_out_is_a_read_error(tmp_path, write_dicom, monkeypatch):
    def out_of_memory(*_, **__):
        raise MemoryError

    monkeypatch.setattr(dicom_decode, "iter_pixels", out_of_memory)
    assert refusal(write_dicom(tmp_path / "a")).reason == "out_of_memory"


def test_no_message_and_no_log_shows_the_patient(tmp_path, write_dicom, caplog):
    caplog.set_level(logging.DEBUG)
    path = write_dicom(tmp_path / "a")
    data = path.read_bytes()
    messages = []
    for cut in range(150, len(data), 37):
        path.write_bytes(data[:cut])
        found = read_headers(FileRef(path, "a"))
        messages.append(found.message if isinstance(found, Failure) else "")
        messages.append(str(refusal(path)))
    shown = "\n".join([*messages, caplog.text])
    assert not any(canary in shown for canary in CANARIES)
    assert len(set(messages)) > 2


def test_warnings_of_pydicom_reach_neither_the_user_nor_a_log_with_their_text(
    tmp_path, write_dicom, caplog
):
    caplog.set_level(logging.DEBUG)
    # The names of its kinds of value are not in the file, so that pydicom has to parse it.
    path = write_dicom(tmp_path / "a", syntax=ImplicitVRLittleEndian)
    data = path.read_bytes().replace(b"1.2.840.10008.5.1.4.1.1.2\0", b"CANARY-1 is no UID at all\0")
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(path)
    assert "UserWarning" in caplog.text
    assert "CANARY-1" not in caplog.text


def test_other_warnings_pass_while_pydicom_is_silenced():
    with silence_pydicom, pytest.warns(DeprecationWarning, match="ours"):
        warnings.warn("ours", DeprecationWarning, stacklevel=1)


def test_threads_that_read_at_once_leave_the_filters_as_they_were(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a")
    before, level = list(warnings.filters), logging.getLogger("pydicom").level
    threads = [threading.Thread(target=read, args=(path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
    assert logging.getLogger("pydicom").level == level


@pytest.fixture(scope="module")
def seeds():
    names = ("CT_small.dcm", "MR_small_RLE.dcm", "examples_palette.dcm", "reportsi.dcm")
    return [Path(str(get_testdata_file(name, download=False))).read_bytes() for name in names]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(data=st.data())
def test_damage_anywhere_ends_in_a_scan_or_a_typed_error(tmp_path, seeds, data):
    broken = bytearray(data.draw(st.sampled_from(seeds)))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, min(len(broken), 4000) - 1))
        broken[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "broken"
    path.write_bytes(broken[: data.draw(st.integers(140, len(broken)))])
    found = read_headers(FileRef(path, "broken"))
    assert isinstance(found, (list, Failure))
    with contextlib.suppress(ReadError):
        assert np.isfinite(read(path).pixels).all()


def lossless_jpeg():
    path = get_testdata_file("SC_rgb_jpeg_gdcm.dcm", download=False)
    return ScanRef("dicom", (FileRef(Path(str(path)), "lossless"),))


@pytest.mark.slow
def test_a_decoder_that_crashes_costs_only_its_file(monkeypatch):
    monkeypatch.setattr(dicom_decode, "_MODULE", "wsseg.imaging.no_such_module")
    dicom_decode._own.worker = None
    with pytest.raises(ReadError) as caught:
        read_dicom(lossless_jpeg())
    assert caught.value.reason == "decoder_crashed"
    monkeypatch.undo()
    assert read_dicom(lossless_jpeg()).pixels.shape == (1, 100, 100, 3)


@pytest.fixture
def endless(tmp_path, write_dicom):
    """A file that keeps its decoder busy: pydicom never finds the end of a box of no length."""
    box = b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100)
    path = write_dicom(tmp_path / "endless", syntax=JPEG2000, PixelData=encapsulate([box]))
    return ScanRef("dicom", (FileRef(path, path.name),))


@pytest.mark.slow
def test_a_decoder_that_hangs_is_stopped(endless):
    read_dicom(lossless_jpeg())
    with pytest.raises(ReadError, match="--read-seconds") as caught:
        read_dicom(endless, ReadLimits(seconds=0.0))
    assert caught.value.reason == "timed_out"


@pytest.mark.slow
def test_threads_whose_results_nobody_wants_do_not_wait_for_a_decoder(endless):
    with pytest.raises(KeyboardInterrupt), reading_threads(1) as pool:  # noqa: PT012
        reading = pool.submit(read_dicom, endless, ReadLimits(seconds=3600))
        while not reading.running():
            time.sleep(0.01)
        raise KeyboardInterrupt
    with pytest.raises(ReadError) as stopped:
        reading.result()
    assert stopped.value.reason == "stopped"


# Read from standard input, without a guard of its `__main__`.
KILLED = """
import os, signal, threading, time
from pathlib import Path
from wsseg.imaging.dicom import read_dicom
from wsseg.imaging.limits import ReadLimits
from wsseg.imaging.scan import FileRef, ScanRef
ref = ScanRef("dicom", (FileRef(Path({path!r}), "endless"),))
threading.Thread(target=read_dicom, args=(ref, ReadLimits(seconds=3600)), daemon=True).start()
decoder = ""
while not decoder:
    decoder = "".join(each.read_text() for each in Path("/proc/self/task").glob("*/children"))
    time.sleep(0.01)
ticks = 0
while ticks < 3 * os.sysconf("SC_CLK_TCK"):  # far more of its time than it needs to start
    fields = Path("/proc", decoder.strip(), "stat").read_text().rpartition(") ")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    time.sleep(0.01)
print(decoder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_the_decoder_of_a_script_without_a_guard_ends_when_the_script_is_killed(endless):
    killed = subprocess.run(
        [sys.executable, "-"],
        input=KILLED.format(path=str(endless.files[0].path)),
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    (decoder,) = killed.stdout.split()
    deadline = time.monotonic() + 30
    while runs(decoder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not runs(decoder)


def runs(process):
    """Whether this process is there, and more than an exit status that nobody has asked for."""
    try:
        return Path("/proc", process, "stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False
