"""A model that thresholds grey values; faults need no trained network."""

from pathlib import Path

import pytest

from tests.serve.conftest import write_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the threshold model for grey slices."""
    return write_model(tmp_path_factory.mktemp("model") / "model")
