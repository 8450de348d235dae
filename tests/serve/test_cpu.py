"""What the CPU says of itself decides whether INT8 figures hold on it."""

import os

import pytest

from wsseg.serve.engines import hardware as cpu

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


@pytest.mark.parametrize(
    ("machine", "affinity", "allowed", "usable", "told"),
    [
        (6, None, None, 6, 0),  # no affinity: not Linux
        (None, None, None, 1, 0),
        (8, 4, None, 4, 4),
        (8, 8, 2.0, 2, 2),
        (8, 4, 1.5, 2, 2),
        (8, 4, 0.1, 1, 1),
        (4, 4, 9.0, 4, 0),
    ],
)
def test_threads_are_as_many_as_cores_may_be_used(
    monkeypatch, machine, affinity, allowed, usable, told
):
    monkeypatch.setattr(os, "cpu_count", lambda: machine)
    monkeypatch.setattr(cpu, "cgroup_cpus", lambda: allowed)
    if affinity is None:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    else:
        cores = set(range(affinity))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores, raising=False)
    assert cpu.usable_cores() == usable
    assert cpu.threads_in(0) == told  # 0: the runtime's own choice
    assert cpu.threads_in(3) == 3
