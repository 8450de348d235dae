"""What the CPU says of itself decides whether INT8 figures hold on it."""

import pytest

from wsseg.serve import cpu

INFORMATION = """processor : 0
flags           : fpu avx2 avx512f avx512_vnni avx512_bf16

processor : 1
flags           : fpu avx2 amx_int8
"""


@pytest.fixture(autouse=True)
def _forget():
    cpu.instructions.cache_clear()
    yield
    cpu.instructions.cache_clear()


def test_what_the_first_processor_has_is_read(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(INFORMATION)
    monkeypatch.setattr(cpu, "INFORMATION", tmp_path / "cpuinfo")
    assert cpu.instructions() == {"avx512_vnni", "avx512_bf16"}
    assert cpu.integer_kind() == "avx512_vnni"


def test_the_best_integer_instructions_are_named(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text("Features : fp asimd asimddp i8mm\n")
    monkeypatch.setattr(cpu, "INFORMATION", tmp_path / "cpuinfo")
    assert cpu.integer_kind() == "i8mm"


def test_a_system_that_does_not_tell_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "INFORMATION", tmp_path / "nowhere")
    assert cpu.instructions() == frozenset()
    assert cpu.integer_kind() is None
