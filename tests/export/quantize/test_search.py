"""The search for the layers that stay in float."""

import pytest

from tests.export.quantize.conftest import PARITY
from wsseg.export.parity import EngineRejectedError
from wsseg.export.quantize.network_part import Layer
from wsseg.export.quantize.search import search


def layers(*products):
    return [Layer(f"layer{place}", (), count) for place, count in enumerate(products)]


def test_the_search_gives_back_one_two_four_layers_and_stops_at_the_first_that_passes():
    tried = []

    def attempt(in_float):
        tried.append(len(in_float))
        if len(in_float) < 4:
            raise EngineRejectedError("no")
        return PARITY

    found = search(attempt, lambda: layers(*[1] * 20))
    assert tried == [0, 1, 2, 4]
    assert [layer.name for layer in found.in_float] == ["layer0", "layer1", "layer2", "layer3"]


def test_layers_are_not_ranked_where_none_is_in_the_way():
    def never():
        raise AssertionError

    assert search(lambda in_float: PARITY, never).in_float == ()


def test_a_search_that_would_put_more_than_half_the_work_back_names_the_layers_that_hurt():
    tried = []

    def attempt(in_float):
        tried.append(len(in_float))
        raise EngineRejectedError("masks differ")

    with pytest.raises(EngineRejectedError, match=r"masks differ, with 2 of 4 .*: layer0, la"):
        search(attempt, lambda: layers(10, 30, 30, 30))
    assert tried == [0, 1, 2]
