"""A model that thresholds grey values; faults need no trained network."""

from tests.serve.conftest import model

__all__ = ["model"]
