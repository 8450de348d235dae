"""Slices for which the engine has no finite answer or no memory are computed again in fp32."""

import logging
from pathlib import Path

import numpy as np
import pytest

from tests.serve.conftest import failures, make_scan, rows, threshold_graph, write_model
from tests.serve.engines.faulty import NO_MEMORY, NO_NUMBER, FaultyEngine
from tests.serve.test_batching import segment
from wsseg.serve.batching import Limits
from wsseg.serve.infer import infer
from wsseg.serve.measure import MeasuredScan
from wsseg.serve.options import InferOptions

HERE = Limits(slices=4)


class Exact(FaultyEngine):
    """Computes everything, as fp32 on the CPU does."""

    def with_probability(self, pixels, /):
        pixels = pixels.copy()
        pixels[:, 0, 0, 0] = np.maximum(pixels[:, 0, 0, 0], 0)
        return super().with_probability(pixels)


def scans(*firsts: tuple[float, ...]):
    random = np.random.default_rng(0)
    stacks = [random.uniform(0, 255, (len(each), 6, 8)) for each in firsts]
    for stack, each in zip(stacks, firsts, strict=True):
        stack[:, 0, 0] = each
    return [make_scan(stack, f"scan{number}") for number, stack in enumerate(stacks)]


@pytest.mark.parametrize("fault", [NO_NUMBER, NO_MEMORY])
def test_a_slice_without_an_answer_is_computed_again_and_flagged(fault: float):
    exact, why = Exact(), []

    def fallback(reason: str) -> Exact:
        why.append(reason)
        return exact

    found = list(
        segment(
            scans((1, 2), (3, fault), (4,)),
            FaultyEngine(),
            HERE,
            fallback=fallback,
        )
    )
    assert [item.recomputed for item in found] == [set(), {1}, set()]
    assert sum(shape[0] for shape in exact.shapes) == 1
    assert why == ["its output is not finite" if fault == NO_NUMBER else "out of memory"]
    (again,) = segment(scans((1, 2), (3, fault), (4,))[1:2], Exact())
    np.testing.assert_array_equal(found[1].areas.pixel, again.areas.pixel)


def test_a_slice_that_equals_one_computed_again_is_flagged_too():
    first, second = scans((1, NO_NUMBER), (2, 3))
    second.pixels[0] = first.pixels[1]
    found = list(segment([first, second], FaultyEngine(), HERE, fallback=lambda _: Exact()))
    assert [item.recomputed for item in found] == [{1}, {0}]


@pytest.mark.parametrize("fallback", [None, FaultyEngine()])
@pytest.mark.parametrize(("fault", "reason"), [(NO_NUMBER, "not_finite"), (NO_MEMORY, "engine")])
def test_a_scan_without_an_answer_in_fp32_either_has_failed(fallback, fault: float, reason: str):
    found = list(
        segment(scans((1, 2), (3, fault), (4,)), FaultyEngine(), HERE, fallback=lambda _: fallback)
    )
    assert [isinstance(item, MeasuredScan) for item in found] == [True, False, True]
    assert found[1].reason == reason


def test_after_a_batch_found_no_memory_later_batches_of_its_size_are_smaller():
    class Small(FaultyEngine):
        def with_probability(self, pixels, /):
            if len(pixels) > 2:
                self.shapes.append(pixels.shape)
                raise RuntimeError("CUDA error: out of memory")
            return super().with_probability(pixels)

    engine = Small()
    found = list(segment(scans(*[(1, 2)] * 10), engine, Limits(slices=4)))
    assert all(isinstance(item, MeasuredScan) for item in found)
    too_large = [shape for shape in engine.shapes if shape[0] > 2]
    assert len(too_large) <= 2  # one more was formed before the first had failed


@pytest.mark.parametrize("isolate", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_opens_the_fp32_engine_of_the_folder_and_says_so_once(
    isolate: bool, tmp_path: Path, log
):
    folder = tmp_path / "scans"
    folder.mkdir()
    model = write_model(tmp_path / "model", threshold_graph())
    from PIL import Image

    for number in range(3):
        Image.fromarray(np.full((20, 24), 150 + number, np.uint8)).save(folder / f"{number}.png")

    class Blind(FaultyEngine):
        """Has no answer to anything."""

        def with_probability(self, pixels, /):
            pixels = pixels.copy()
            pixels[:, 0, 0, 0] = NO_NUMBER
            return super().with_probability(pixels)

    report = tmp_path / "ratios.csv"
    options = InferOptions(model=model, report=report, device="cpu", skip=False, isolate=isolate)
    with log.at_level(logging.WARNING, "wsseg"):
        summary = infer([folder], options, engine=Blind)
    assert (summary.exit_code, summary.scans, failures(report)) == (0, 3, [])
    assert all("RECOMPUTED_FP32" in row["flags"].split(";") for row in rows(report))
    series = rows(tmp_path / "ratios.series.csv")
    assert all("RECOMPUTED_FP32" in row["flags"].split(";") for row in series)
    assert {row["ratio"] for row in rows(report) if row["ratio_name"] == "bright"} == {"1.0"}
    assert [record.event for record in log.records].count("recomputed_fp32") == 1
