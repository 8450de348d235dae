"""Model folder and scans in, areas and ratios out: engines, pipeline, measuring, reports."""
