"""Model folder and scans in, areas and ratios out: engines, pipeline, measuring, reports."""

import wsseg.imaging.privacy  # noqa: F401 - before any library that it silences
