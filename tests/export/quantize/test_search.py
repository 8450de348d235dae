"""The search for the layers that stay in float."""

import pytest

from tests.export.quantize.conftest import PARITY
from wsseg.export.parity import EngineRejectedError
from wsseg.export.quantise import Layer, search


def layers(*products):
    return [Layer(f"layer{place}", (), count) for place, count in enumerate(products)]


class Engines:
    """Pass with so many layers in float; remembers what was tried, and which engine was left."""

    def __init__(self, enough):
        self.enough = enough
        self.tried = []

    def __call__(self, in_float):
        self.tried.append(len(in_float))
        if len(in_float) < self.enough:
            raise EngineRejectedError("masks differ")
        return PARITY


@pytest.mark.parametrize(
    ("enough", "count", "tried"),
    [
        (1, 1, [0, 1]),
        (3, 3, [0, 1, 2, 4, 3]),
        (4, 4, [0, 1, 2, 4, 3, 4]),  # made again: the one with 3 had taken its place
        (9, 9, [0, 1, 2, 4, 8, 16, 12, 10, 9]),
        (20, 20, [0, 1, 2, 4, 8, 16, 20]),  # half of 40: twice 16 would be too many
    ],
)
def test_the_search_ends_with_hardly_more_layers_in_float_than_it_takes(enough, count, tried):
    attempt = Engines(enough)
    found = search(attempt, lambda: layers(*[1] * 40))
    assert attempt.tried[: len(tried)] == tried
    assert len(found.in_float) == count
    assert attempt.tried[-1] == len(found.in_float)
    assert found.in_float[0].name == "layer0"


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
