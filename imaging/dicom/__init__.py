"""DICOM in: headers, geometry, grouping into series, pixels, segmentations."""
