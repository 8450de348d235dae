"""Settings every test shares, and which tests are slow and which belong together."""

import pytest
from hypothesis import settings

from wsseg.imaging.privacy import keep_caches_private

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("ci")
# As the commands do; and it comes before any test module imports a library that would report.
keep_caches_private()

COSTLY = {
    "exported": "exports",
    "small_models": "exports",
    "small_model": "exports",
    "job": "exports",
    "guide": "exports",
    "two_processes": "two processes",
}
"""Fixtures that take seconds, each made once: the group of tests that one worker runs for it.

The first export of a process costs most, so all that export are one group.
"""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test of a costly fixture is slow. One worker runs all tests of a file, and of a group."""
    groups: dict[str, str] = {}
    for item in items:
        for name in COSTLY.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
            groups[_file(item)] = COSTLY[name]
    for item in items:
        group = groups.get(_file(item), _file(item))
        item.add_marker(pytest.mark.xdist_group(group))


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]
