"""The network inside an exported graph, in 8 bits: calibration, QDQ form, what stays float."""
