"""A GPU can be used where NVIDIA's driver loads, starts and counts one; a fake driver stands in."""

import ctypes

import pytest

from wsseg.serve.engines import hardware as cuda_driver

NO_DEVICE = 100


class Driver:
    """The calls that are made of libcuda; `started` is what cuInit returns."""

    def __init__(self, count: int, started: int = 0) -> None:
        self.count, self.started = count, started

    def cuInit(self, flags):  # noqa: N802
        return self.started

    def cuDeviceGetCount(self, place):  # noqa: N802
        place._obj.value = self.count
        return 0

    def cuDeviceGet(self, place, ordinal):  # noqa: N802
        return 0 if ordinal < self.count else 101

    def cuDeviceGetAttribute(self, place, attribute, device):  # noqa: N802
        place._obj.value = {75: 8, 76: 9}[attribute]
        return 0


def has(monkeypatch, driver):
    monkeypatch.setattr(cuda_driver, "_driver", lambda: driver)


def test_a_gpu_that_answers_can_be_used(monkeypatch):
    has(monkeypatch, Driver(count=1))
    assert cuda_driver.no_driver() is None
    assert cuda_driver.this_architecture() == "sm_89"


@pytest.mark.parametrize("driver", [Driver(count=0), Driver(count=1, started=NO_DEVICE)])
def test_a_library_without_a_gpu_is_not_enough(monkeypatch, driver):
    """So it is in a container of CUDA on a machine without one."""
    has(monkeypatch, driver)
    assert cuda_driver.no_driver() == "the NVIDIA driver finds no GPU"
    assert cuda_driver.this_architecture() is None


def test_a_library_that_does_not_load_is_named(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert cuda_driver.LIBRARY in (cuda_driver.no_driver() or "")
    assert cuda_driver.this_architecture() is None
