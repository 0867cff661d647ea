"""Calibration: ranges of activations from real clips, and explicit quantization written into the graphs."""
