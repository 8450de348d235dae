"""Engines are timed on batches as serving makes them, of a size that memory bears."""

import numpy as np
import pytest

from wsseg.export import publish
from wsseg.serve.options import InferOptions


def test_the_batch_is_as_large_as_serving_makes_it():
    batch = publish.serving_batch(np.ones((3, 8, 9), np.float32))
    assert batch.shape == (InferOptions.model_fields["batch"].default, 3, 8, 9)


@pytest.mark.parametrize(("slices", "count"), [(2, 2), (0.5, 1)])
def test_large_slices_make_smaller_batches(monkeypatch, slices, count):
    monkeypatch.setattr(publish, "MOST_PIXELS", int(64 * slices))
    assert len(publish.serving_batch(np.ones((1, 8, 8), np.float32))) == count
