"""A DICOM node: instances come by C-STORE, are measured as series, and results go back."""
