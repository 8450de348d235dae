"""What the CPU says of itself decides whether INT8 figures hold on it."""

import os

import pytest

from wsseg.serve import cpu

INFORMATION = """processor : 0
flags           : fpu avx2 avx512f avx512_vnni avx512_bf16

processor : 1
flags           : fpu avx2 amx_int8
"""


@pytest.fixture(autouse=True)
def _forget():
    cpu.flags.cache_clear()
    yield
    cpu.flags.cache_clear()


def test_what_the_first_processor_has_is_read(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(INFORMATION)
    monkeypatch.setattr(cpu, "INFORMATION", tmp_path / "cpuinfo")
    assert cpu.instructions() == {"avx512_vnni", "avx512_bf16"}
    assert cpu.integer_kind() == "avx512_vnni"


def test_the_best_integer_instructions_are_named(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text("Features : fp asimd asimddp i8mm\n")
    monkeypatch.setattr(cpu, "INFORMATION", tmp_path / "cpuinfo")
    assert cpu.integer_kind() == "i8mm"


def test_a_system_that_does_not_tell_is_not_taken_for_every_cpu(tmp_path, monkeypatch):
    """None in a manifest means that INT8 figures hold everywhere, which nobody knows here."""
    monkeypatch.setattr(cpu, "INFORMATION", tmp_path / "nowhere")
    assert cpu.instructions() == frozenset()
    assert cpu.integer_kind() is None
    assert cpu.judged_with() == cpu.UNKNOWN


def test_a_cpu_that_tells_and_has_none_judges_for_every_cpu(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text("flags : fpu avx2\n")
    monkeypatch.setattr(cpu, "INFORMATION", tmp_path / "cpuinfo")
    assert cpu.flags() == frozenset({"fpu", "avx2"})
    assert cpu.integer_kind() is None
    assert cpu.judged_with() is None


def test_without_affinity_all_cores_are_used(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "QUOTA", tmp_path / "nowhere")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cpu.usable_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpu.usable_cores() == 1


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("900000 100000", 4),
     ("max 100000", 4), ("", 4)],
)  # fmt: skip
def test_a_containers_quota_bounds_the_cores(tmp_path, monkeypatch, quota, cores):
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(cpu, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4, 5}, raising=False)
    assert cpu.usable_cores() == cores
