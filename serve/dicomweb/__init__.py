"""DICOMweb: series from a server as input, and DICOM results stored on one."""
