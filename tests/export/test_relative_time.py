"""Engines are timed on batches as serving makes them, of a size that memory bears."""

import numpy as np
import pytest

from wsseg.export import publish as relative_time
from wsseg.serve.infer import InferOptions


def test_the_batch_is_as_large_as_serving_makes_it():
    batch = relative_time._batch(np.ones((3, 8, 9), np.float32))
    assert batch.shape == (InferOptions.model_fields["batch"].default, 3, 8, 9)


@pytest.mark.parametrize(("slices", "count"), [(2, 2), (0.5, 1)])
def test_large_slices_make_smaller_batches(monkeypatch, slices, count):
    monkeypatch.setattr(relative_time, "MOST_PIXELS", int(64 * slices))
    assert len(relative_time._batch(np.ones((1, 8, 8), np.float32))) == count
