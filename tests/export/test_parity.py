import copy
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from wsseg.export.graph import DeployGraph
from wsseg.export.parity import (
    TOLERANCES,
    Candidate,
    EngineRejectedError,
    check,
    judge,
    reference_outputs,
    within,
)
from wsseg.export.publish import ExportOptions, export_run
from wsseg.imaging import RatioDefinition
from wsseg.serve.engines.base import Prediction
from wsseg.serve.manifest import Profile
from wsseg.train.networks import last_layer

CLASSES = ("organ", "tumour")
RATIOS = (
    RatioDefinition(name="organ", numerator="organ"),
    RatioDefinition(name="tumour in organ", numerator="tumour", denominator="organ"),
)
THRESHOLDS = (0.5, 0.4)


@pytest.fixture(scope="module")
def predictor(small_predictor):
    """The gate compares answers, whatever network gives them."""
    return small_predictor


@pytest.fixture(scope="module")
def standard(predictor, slices):
    return reference_outputs(predictor, slices, THRESHOLDS, CLASSES, RATIOS)


def engine(predictor):
    """A PyTorch module as an engine, with its probability left visible."""
    graph = DeployGraph(predictor, THRESHOLDS, "fp32")

    def answers(pixels):
        with torch.inference_mode():
            return [answer.numpy() for answer in graph(torch.from_numpy(pixels))]

    def run(pixels):
        masks, areas, soft_areas, _, variances = answers(pixels)
        return Prediction(masks, areas, soft_areas, variances)

    return Candidate(
        run=run,
        provider="pytorch-cpu",
        precision="fp32",
        probability=lambda pixels: answers(pixels)[3],
    )


def altered(candidate, change):
    return replace(candidate, run=lambda pixels: change(candidate.run(pixels)))


def test_an_equal_engine_passes_with_figures_for_every_slice(predictor, standard, slices):
    parity = judge(engine(predictor), standard)
    assert parity.slices == len(slices)
    assert parity.provider == "pytorch-cpu"
    assert parity.mask_agreement > 0.9999
    assert parity.probability_difference < 1e-5
    assert parity.ratio_difference < 1e-4


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_with_perturbed_weights_is_rejected(predictor, standard, precision):
    wrong = copy.deepcopy(predictor)
    torch.manual_seed(1)
    with torch.no_grad():
        for layer in wrong.network.backbone.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight *= 1 + 0.2 * torch.randn_like(layer.weight)
    with pytest.raises(EngineRejectedError, match="a probability differs by"):
        judge(replace(engine(wrong), precision=precision), standard)


def test_an_engine_without_visible_probability_is_rejected_by_its_masks(predictor, standard):
    def shift(found):
        masks = np.roll(found.masks, 1, axis=3)
        return replace(found, masks=masks, pixel_areas=masks.sum((2, 3), dtype=np.int64))

    blind = replace(altered(engine(predictor), shift), probability=None)
    with pytest.raises(EngineRejectedError, match="masks agree in"):
        judge(blind, standard)


def test_an_engine_that_fails_only_in_a_batch_is_rejected(predictor, standard):
    def second_slice_lost(found):
        masks = found.masks.copy()
        masks[1:] = 0
        return replace(found, masks=masks, pixel_areas=masks.sum((2, 3), dtype=np.int64))

    with pytest.raises(EngineRejectedError, match="masks agree in"):
        judge(altered(engine(predictor), second_slice_lost), standard)


def test_a_value_that_is_no_number_is_rejected(predictor, standard):
    def broken(found):
        return replace(found, soft_areas=found.soft_areas * np.float32("nan"))

    assert (
        check(altered(engine(predictor), broken), standard).failure == "soft areas are not finite"
    )

    def nowhere(pixels):
        probability = engine(predictor).probability(pixels).copy()
        probability[0, 0, 0, 0] = np.nan
        return probability

    hidden = replace(engine(predictor), probability=nowhere)
    failure = check(hidden, standard).failure
    assert failure == "a probability differs by inf (at most 0.001)"


def test_a_variance_of_other_probabilities_is_rejected(predictor, standard):
    def doubled(found):
        return replace(found, area_variances=2 * found.area_variances)

    with pytest.raises(EngineRejectedError, match="a probability differs by"):
        judge(altered(engine(predictor), doubled), standard)


def test_pixel_areas_that_contradict_the_masks_are_rejected(predictor, standard):
    def one_more(found):
        return replace(found, pixel_areas=found.pixel_areas + 1)

    verdict = check(altered(engine(predictor), one_more), standard)
    assert verdict.failure == "pixel areas are not the number of mask pixels"


def test_pixels_on_the_threshold_itself_do_not_fail_a_float32_engine(predictor, slices):
    flat = copy.deepcopy(predictor)
    for weight in last_layer(flat.network).parameters():
        nn.init.zeros_(weight)
    undecided = reference_outputs(flat, slices, (0.5, 0.5), CLASSES, RATIOS)

    def last_bit(found):
        masks = 1 - found.masks
        return replace(found, masks=masks, pixel_areas=masks.sum((2, 3), dtype=np.int64))

    verdict = check(altered(engine(flat), last_bit), undecided)
    assert verdict.failure is None
    assert verdict.parity.mask_agreement < 1
    half = replace(altered(engine(flat), last_bit), precision="fp16")
    assert check(half, undecided).failure is not None


@pytest.mark.parametrize(
    ("thresholds", "found", "empty"),
    [((1.0, 1.0), 0, True), ((1.0, 1.0), 1, False), ((1.0, 0.4), 0, False)],
)
def test_figures_tell_where_neither_side_found_anything(
    predictor, slices, thresholds, found, empty
):
    nowhere = reference_outputs(predictor, slices, thresholds, CLASSES, RATIOS)

    def answer(prediction):
        masks = np.full_like(prediction.masks, found)
        return replace(prediction, masks=masks, pixel_areas=masks.sum((2, 3), dtype=np.int64))

    parity = check(altered(engine(predictor), answer), nowhere).parity
    assert parity.masks_empty is empty
    assert (parity.mask_agreement == 1) is empty


@pytest.mark.parametrize("precision", sorted(TOLERANCES))
def test_an_engine_is_not_published_on_empty_masks_alone(predictor, slices, precision):
    nowhere = reference_outputs(predictor, slices, (1.0, 1.0), CLASSES, RATIOS)

    def nothing(prediction):
        masks = np.zeros_like(prediction.masks)
        return replace(prediction, masks=masks, pixel_areas=masks.sum((2, 3), dtype=np.int64))

    candidate = replace(altered(engine(predictor), nothing), precision=precision)
    if precision in ("fp32", "fp16"):  # their probabilities are judged
        assert judge(candidate, nowhere).masks_empty
    else:
        with pytest.raises(
            EngineRejectedError, match=f"finds no organ and no tumour .* {precision} is"
        ):
            judge(candidate, nowhere)


def test_an_engine_that_was_not_asked_is_not_said_to_find_nothing(predictor, standard):
    verdict = check(engine(predictor), replace(standard, references=()))
    assert not verdict.parity.masks_empty


def test_an_export_whose_masks_are_all_empty_says_what_the_gate_could_not_judge(
    run, small_models, tmp_path, caplog, serve_models
):
    said = "all masks empty: the network finds nothing in the run's sample slices"
    with caplog.at_level(logging.WARNING, "wsseg.export"):
        options = ExportOptions(precisions=("fp32",), thresholds=(1.0, 1.0))
        manifest = export_run(run, tmp_path / "empty", options)
        assert said in caplog.text
        caplog.clear()
        serve_models(small_models)
        other = export_run(run, tmp_path / "found", ExportOptions(precisions=("fp32",)))
        assert said not in caplog.text
    found = [[e.parity and e.parity.masks_empty for e in m.engines] for m in (manifest, other)]
    assert found == [[True, True], [False, False]]


def test_half_precision_is_given_more_room_than_float32():
    full, half = TOLERANCES["fp32"], TOLERANCES["fp16"]
    assert full.probability < half.probability
    assert full.agreement > half.agreement
    assert full.ratio < half.ratio


def test_slices_outside_an_engines_profile_are_not_asked_of_it(standard):
    tall = Profile(minimum=(1, 64, 64), optimum=(1, 64, 64), maximum=(1, 80, 100))
    shapes = [reference.pixels.shape for reference in within(standard, tall).references]
    assert shapes == [(1, 1, 64, 64), (1, 1, 75, 96)]
