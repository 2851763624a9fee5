"""What every method promises, checked: on synthetic layers, and on a model with its calibration."""
