"""Which programs read which kinds of DICOM segmentations."""
