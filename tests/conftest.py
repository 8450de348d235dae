"""Settings every test shares, and which tests are slow and which belong together."""

import gc
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.serve.orthanc import Orthanc, orthanc_in
from wsseg.imaging.privacy import keep_caches_private

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("ci")
# As the commands do; and it comes before any test module imports a library that would report.
keep_caches_private()

SHARED = {
    "job": "exports",
    "guide": "exports",
    "exported": "exports",
    "small_models": "exports",
    "small_model": "exports",
    "two_processes": "two processes",
    "orthanc": "orthanc",
}
"""Fixtures that take seconds: the group of the tests that one worker runs, so as to make each once.

The first export of a process costs most, so all that export are one group.
"""
SLOW = SHARED.keys() - {"job"}
"""Those whose tests are all slow; the fast ones have `job`, to see the whole way once."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow by its fixtures, and keep together the tests of a group and of a file."""
    groups: dict[str, str] = {}
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & SLOW:
            item.add_marker(pytest.mark.slow)
        for name in fixtures & SHARED.keys():
            groups[_file(item)] = SHARED[name]
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(groups.get(_file(item), _file(item))))


def pytest_collection_finish() -> None:
    """Libraries and tests are no garbage: looking through them is a tenth of the time of all."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """So that extension modules find nothing alive that they would warn of."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A DICOM archive with DICOMweb. It may hold what another test has left."""
    with orthanc_in(tmp_path_factory.mktemp("orthanc")) as archive:
        yield archive


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]
