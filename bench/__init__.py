"""Measurements: contenders on the same machine in the same run, calls interleaved, ratios as the result."""
