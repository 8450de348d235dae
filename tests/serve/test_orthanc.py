"""What the tests with a real archive rest on: an Orthanc that only they reach."""

from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

from tests.serve.orthanc import AET, DICOM_PORT, Orthanc

CT = Path(str(get_testdata_file("CT_small.dcm")))


@pytest.fixture(autouse=True)
def empty(orthanc: Orthanc) -> None:
    orthanc.clear()


def test_orthanc_takes_a_file_by_the_network_and_shows_it_by_dicomweb(orthanc):
    orthanc.run("storescu", "-aec", AET, "127.0.0.1", DICOM_PORT, CT)
    (series,) = orthanc.ask("/dicom-web/series?Modality=CT")
    assert series["0020000E"]["Value"] == [pydicom.dcmread(CT).SeriesInstanceUID]


def test_orthanc_is_in_a_network_of_its_own(orthanc):
    theirs, ours = (Path("/proc", str(pid), "ns/net").readlink() for pid in (orthanc.pid, "self"))
    assert str(theirs) == orthanc.run("readlink", "/proc/self/ns/net").stdout.strip()
    assert theirs != ours
